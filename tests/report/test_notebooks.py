"""The notebooks run from top to bottom, here on made-up records and weights."""

from pathlib import Path

import pytest
import torch
from made_records import CONFIGS, make_folder
from safetensors.torch import save_file

from craft.report.weights import PROJECTIONS

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = CONFIGS.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of records and one of weights, as the second cell of a notebook names them."""
    place = tmp_path_factory.mktemp("notebooks")
    make_folder(place / "runs", tasks=("rte", "cola"), seeds=2)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"roberta.encoder.layer.{layer}.attention.self.{p}.weight": torch.randn(
            24, 24, generator=generator
        )
        for layer in range(4)
        for p in PROJECTIONS
    }
    (place / "tiny").mkdir()
    save_file(tensors, place / "tiny" / "model.safetensors")
    return f'\nRECORDS = [Path("{place / "runs"}")]\nMODEL = Path("{place / "tiny"}")\n'


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, inputs):
    notebook = nbformat.read(path, as_version=4)
    assert "ROOT =" in notebook.cells[1].source
    notebook.cells[1].source += inputs
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}}).execute()


def test_notebooks_define_nothing_that_the_package_should():
    assert [path.stem for path in NOTEBOOKS] == ["01_method", "02_figures", "03_results"]
    for path in NOTEBOOKS:
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert sum(text.count("def ") for text in code) <= 1 and "class " not in "".join(code)
        assert "/home" not in Path(path).read_text()
