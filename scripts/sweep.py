"""Look at a sweep on Slurm, or cancel its jobs and no others.

python scripts/sweep.py status [sweep=outputs/sweeps/NAME] [outputs=outputs]
python scripts/sweep.py cancel [sweep=outputs/sweeps/NAME] [outputs=outputs]
"""

import sys
from pathlib import Path

from entry import options, start


def main() -> None:
    from craft.bench.sweep import state
    from craft.errors import InputError

    action, *rest = sys.argv[1:] or [""]
    if action not in ("status", "cancel"):
        raise InputError(f"{action!r} is not one of status, cancel")
    given = options(rest, sweep=None, outputs="outputs")
    folder = given["sweep"]
    path = Path(folder) if folder else state.newest(Path(given["outputs"] or ""))
    found = state.SweepFolder.read(path)
    if action == "cancel":
        gone = state.cancel(found)
        print(f"{path}: {len(gone)} jobs cancelled; what they had begun can go on")
    else:
        print("\n".join(state.status(found)))


if __name__ == "__main__":
    start(main)
