"""Copy finished runs into results/runs (and their small predictions into results/predictions).

craft promote 'rte-craft-roberta_base-*' mrpc-lora-roberta_base-s0-0123456789
craft promote runs=outputs/runs out=results --allow-dirty '*'
"""

from argparse import Namespace
from pathlib import Path

from craft.bench.cli.parser import Parser
from craft.bench.run.finished.promote import promote


def arguments(parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar="RUN", help="names or patterns of runs")
    parser.setting("runs", "outputs/runs", help="where they lie", metavar="FOLDER")
    parser.setting("out", "results", help="where copies go", metavar="FOLDER")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="take runs of sources that no commit has, too"
    )


def main(given: Namespace) -> None:
    out = Path(given.out)
    done = promote(Path(given.runs), out, given.names, given.allow_dirty)
    for name in done.without_predictions:
        print(f"warning: {name}: its predictions are too large or missing, so intervals are too")
    print(f"{len(done.copied)} copied to {out / 'runs'}, {len(done.unchanged)} there already")
