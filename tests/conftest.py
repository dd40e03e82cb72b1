"""The state in which every test starts: offline, one thread, no cache of the user's."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_home = tempfile.TemporaryDirectory(prefix="craft-tests-")  # removed when the interpreter ends

# Set here too, not only by `make test`: transformers and datasets read them once, at import.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_HOME=_home.name,
    WANDB_MODE="offline",
)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # sums in one order everywhere, and no quarrel over the cores

with contextlib.suppress(ImportError):  # a machine that only borrows the tests may lack hypothesis
    from hypothesis import settings

    settings.load_profile("ci")  # the same examples every time, no deadline on a loaded machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write the table of injected faults to this file")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write results/faults.md, also where a fault was not survived."""
    path = session.config.getoption("--faults")
    if path is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        from injected import table

        path.write_text(table(), encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "no CUDA device"
    if shutil.which("sbatch") is None:
        missing["slurm"] = "no sbatch on PATH"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """The folder of the real GLUE files, absolute: a test may change the working directory."""
    if not os.environ.get("CRAFT_GLUE_DIR"):
        pytest.skip("CRAFT_GLUE_DIR is not set (make test GLUE_DIR=<folder>)")
    folder = Path(os.environ["CRAFT_GLUE_DIR"]).resolve()
    assert folder.is_dir(), f"CRAFT_GLUE_DIR={folder} is not a folder"
    return folder


@pytest.fixture(scope="session")
def tiny_glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all nine tasks in the original layout, some rows each."""
    from tiny_bench import write_glue

    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_bench import save_roberta

    return save_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_bench import save_bert

    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def bench(tiny_roberta: Path, tiny_glue: Path, tmp_path: Path):
    """Runs of the tiny RoBERTa on the tiny files, with outputs of the test's own."""
    from tiny_bench import Bench

    return Bench(tiny_roberta, tiny_glue, tmp_path / "outputs")
