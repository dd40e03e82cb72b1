"""Execute the notebooks in place and keep what they show, and nothing of when and where.

python scripts/notebooks.py                        all of notebooks/
python scripts/notebooks.py notebooks/01_method.ipynb
"""

import sys
from pathlib import Path

from craft.bench.cli.process import start

ROOT = Path(__file__).resolve().parents[1]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> None:
    import nbformat

    from craft.errors import InputError
    from craft.files import write_text

    given = [Path(word) for word in sys.argv[1:]]
    for path in given:
        if not path.is_file() or path.suffix != ".ipynb":
            raise InputError(f"{path} is no notebook")
    for path in given or sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        write_text(path, nbformat.writes(notebook) + "\n")
        print(path)


def execute(notebook) -> None:
    """Run a notebook from the project's root, its outputs the same wherever and whenever it runs.

    RuntimeError where a cell warns or shows a path of this machine: that would be kept too."""
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"cell {number} warns: {output['text']}")
            if str(ROOT) in str(output):
                raise RuntimeError(f"cell {number} shows the path {ROOT}")


if __name__ == "__main__":
    start(main)
