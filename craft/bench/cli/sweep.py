"""Look at a sweep on Slurm, or cancel its jobs and no others.

craft sweep status
craft sweep cancel sweep=outputs/sweeps/NAME
"""

from argparse import Namespace
from pathlib import Path

from craft.bench.cli.parser import Parser
from craft.bench.sweep import state


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "action", choices=("status", "cancel"), help="runs by state and time left, or end its jobs"
    )
    parser.setting("sweep", help="its folder; else the newest", metavar="FOLDER")
    parser.setting("outputs", "outputs", help="where runs and sweeps are", metavar="FOLDER")


def main(given: Namespace) -> None:
    path = Path(given.sweep) if given.sweep else state.newest(Path(given.outputs))
    found = state.SweepFolder.read(path)
    if given.action == "cancel":
        gone = state.cancel(found)
        print(f"{path}: {len(gone)} jobs cancelled; what they had begun can go on")
    else:
        print("\n".join(state.status(found)))
