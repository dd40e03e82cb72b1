"""Copy finished runs into results/runs (and their small predictions into results/predictions).

python scripts/promote.py 'rte-craft-roberta_base-*' mrpc-lora-roberta_base-s0-0123456789
python scripts/promote.py runs=outputs/runs out=results --allow-dirty '*'
"""

import sys
from pathlib import Path

from entry import start

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    from craft.bench.run.promote import promote
    from craft.errors import InputError

    flags = [a for a in sys.argv[1:] if a.startswith("--")]
    if odd := [flag for flag in flags if flag != "--allow-dirty"]:
        raise InputError(f"{odd[0]} is not --allow-dirty")
    words = [a for a in sys.argv[1:] if not a.startswith("--")]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if odd := sorted(set(options) - {"runs", "out"}):
        raise InputError(f"{odd[0]}=... is not one of runs=FOLDER, out=FOLDER")
    names = [word for word in words if "=" not in word]
    if not names:
        raise InputError("no run is named: give names or patterns, such as 'rte-craft-*'")
    runs = Path(options.get("runs", ROOT / "outputs" / "runs"))
    out = Path(options.get("out", ROOT / "results"))
    done = promote(runs, out, names, "--allow-dirty" in flags)
    for name in done.without_predictions:
        print(f"warning: {name}: its predictions are too large or missing, so intervals are too")
    print(f"{len(done.copied)} copied to {out / 'runs'}, {len(done.unchanged)} there already")


if __name__ == "__main__":
    start(main)
