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
    found = state.Sweep.read(Path(folder) if folder else state.newest(Path(given["outputs"] or "")))
    if action == "cancel":
        gone = state.cancel(found)
        print(f"{found.folder}: {len(gone)} jobs cancelled; what they had begun can go on")
        return
    jobs = state.queue(state.job_names(found.outputs))
    held = state.queued(found.outputs, jobs)
    states = state.states(found.outputs, found.runs, held)
    ours = [job for job in jobs if job.id in found.submitted]
    print("\n".join(state.lines(found, states, ours)))


if __name__ == "__main__":
    start(main)
