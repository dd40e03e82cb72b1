"""The notebooks run from top to bottom, here on made-up records and weights."""

import runpy
from pathlib import Path

import pytest
import torch
from made_records import CONFIGS, make_folder
from safetensors.torch import save_file

from craft.bench.report.figures.weights import PROJECTIONS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
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


@pytest.fixture
def execute(monkeypatch):
    """What `make notebooks` does to a notebook."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return runpy.run_path(str(ROOT / "scripts" / "notebooks.py"))["execute"]


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def counts(notebook):
    return [cell.execution_count for cell in codes(notebook)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_says_the_same_twice(path, inputs, execute):
    made = []
    for _ in range(2):
        notebook = nbformat.read(path, as_version=4)
        assert "ROOT =" in notebook.cells[1].source
        notebook.cells[1].source += inputs
        execute(notebook)
        made.append(nbformat.writes(notebook))
    assert made[0] == made[1]
    assert [cell.execution_count for cell in codes(notebook)] == [
        *range(1, len(codes(notebook)) + 1)
    ]
    assert any(cell.outputs for cell in codes(notebook))
    assert notebook.metadata.language_info == {"name": "python"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import warnings; warnings.warn('mind')", "warns: .*mind"),
        ("import os; os.getcwd()", "path"),
    ],
)
def test_what_must_not_be_kept_stops_it(source, said, execute):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(RuntimeError, match=f"cell 0 .*{said}"):
        execute(notebook)


def test_committed_notebooks_are_executed_whole_or_not_at_all():
    for path in NOTEBOOKS:
        found = counts(nbformat.read(path, as_version=4))
        assert found in ([None] * len(found), [*range(1, len(found) + 1)]), path


def test_notebooks_define_nothing_that_the_package_should():
    assert [path.stem for path in NOTEBOOKS] == ["01_method", "02_figures", "03_results"]
    for path in NOTEBOOKS:
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert sum(text.count("def ") for text in code) <= 1 and "class " not in "".join(code)
        assert "/home" not in Path(path).read_text()
