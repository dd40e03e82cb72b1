"""What the layers of an encoder share, from its weights alone: table and figure.

python scripts/premise.py model=FOLDER[,FOLDER] [ranks=24,100,100] [out=FOLDER] [json=FILE]

json=results/study/premise.json is what the report draws, which has no encoders at hand.
"""

import sys
from pathlib import Path

from craft.bench.cli.parser import options
from craft.bench.cli.process import start


def main() -> None:
    from craft.bench.report.figures.weights import read_stacks
    from craft.bench.report.study.premise import measured, premise_figure, premise_table, write
    from craft.errors import InputError
    from craft.tucker import check_ranks

    given = options(sys.argv[1:], model=None, ranks="24,100,100", out="outputs/premise", json=None)
    folders = [Path(folder) for folder in (given["model"] or "").split(",") if folder]
    if not folders:
        raise InputError("model=FOLDER[,FOLDER] names the encoders: folders with safetensors")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"model: there is no folder {folder}")
    ranks = check_ranks([_number(part) for part in str(given["ranks"]).split(",")])
    out = Path(str(given["out"]))
    models = [read_stacks(folder, folder.resolve().name) for folder in folders]
    found = measured(models, ranks)
    table = premise_table(found)
    table.write(out)
    premise_figure(found).save(out)
    if given["json"]:
        write(Path(str(given["json"])), found)
    print(table.markdown())
    print(f"table and figure in {out}")


def _number(text: str) -> int | float | str:
    """24, 0.25 or 'energy:0.9'."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    start(main)
