"""Print what `craft reproduce` finds on this machine, and which suite it would take.

craft doctor model_dir=FOLDER glue_dir=FOLDER
"""

from argparse import Namespace

from craft.bench.cli.parser import Parser
from craft.bench.run.provenance import versions
from craft.bench.sweep import suite


def arguments(parser: Parser) -> None:
    parser.setting("suite", help="mini, small or paper", metavar="NAME")
    parser.setting("model_dir", help="holds roberta-base/ and roberta-large/", metavar="FOLDER")
    parser.setting("glue_dir", help="holds CoLA/, SST-2/ ...", metavar="FOLDER")


def main(given: Namespace) -> None:
    for package, version in versions().items():
        print(f"{package:24}{version or 'not installed'}")
    found = suite.find(given.model_dir, given.glue_dir, suite.hub_answers())
    print("\n".join(found.lines()))
    chosen, reason = suite.choose(found, given.suite)
    print(f"{'suite':24}{chosen}: {reason}")
