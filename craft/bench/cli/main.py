"""The command `craft`: train, sweep, report and what goes with them.

craft train model=roberta_mini data=mini task=rte method=craft
craft COMMAND --help
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import argcomplete

from craft.bench.cli.parser import Parser
from craft.bench.cli.process import start
from craft.bench.sweep import launchers_on_path

COMMANDS = {
    "train": "train, evaluate or predict: one run, or with -m a sweep",
    "reproduce": "the paper's tables and figures from here to the end: plan, runs, report",
    "prepare": "fetch and compute beforehand what the runs of a sweep need",
    "sweep": "look at a sweep on Slurm, or cancel it",
    "report": "tables and figures from run records",
    "promote": "copy finished runs into results/",
    "submit": "predict GLUE's test sets and write the zip for its site",
    "doctor": "what this machine has and lacks",
    "speed": "speed and memory beside what one would take instead",
}
HYDRA = ("train", "prepare")  # these read Hydra's command line


def module(command: str) -> Any:
    return importlib.import_module(f"craft.bench.cli.{command}")


def parser(command: str, program: str) -> Parser:
    """The parser of one command."""
    found = module(command)
    made = Parser(prog=program, description=found.__doc__)
    found.arguments(made)
    return made


def main(command: str | None = None, program: str | None = None) -> None:
    """Run a command, that of the command line where none is given, and leave."""
    words = sys.argv[1:]
    if command is None:
        _complete()
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            sys.exit(0 if words else 2)
        command, *words = words
        if command not in COMMANDS:
            print(f"error: {command!r} is not one of {', '.join(COMMANDS)}", file=sys.stderr)
            sys.exit(2)
        program = f"craft {command}"
    start(partial(run, command, program or f"python scripts/{command}.py", words))


def run(command: str, program: str, words: Sequence[str]) -> None:
    """A command with its words; what goes wrong is raised."""
    if command not in HYDRA or {"-h", "--help"} & set(words):
        given = parser(command, program).parse(words)
        module(command).main(given)
        return
    launchers_on_path()
    sys.argv = [program, *words]
    module(command).main()


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    more = 'bash completion: eval "$(register-python-argcomplete craft)"'
    return "\n".join([str(__doc__).strip(), "", *lines, "", more])


def _complete() -> None:
    """Answer a shell that asks for completions, and leave; see argcomplete."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    top = Parser(prog="craft")
    commands = top.add_subparsers(dest="command", parser_class=Parser)
    line = os.environ.get("COMP_LINE", "").split()
    for name, what in COMMANDS.items():
        under = commands.add_parser(name, help=what)
        if name in line[1:2]:
            module(name).arguments(under)
            _words(under)
    argcomplete.autocomplete(top, exclude=["--help", "-h"])


def _words(under: Parser) -> None:
    """Let `name=` be completed as `--name` is."""
    names = [a.dest for a in under._actions if a.option_strings and a.nargs != 0]
    own = [a for a in under._actions if not a.option_strings]
    offered: Callable[..., list[str]] | None = getattr(own[0], "completer", None) if own else None

    def complete(prefix: str, **more: Any) -> list[str]:
        found = [f"{name}=" for name in names]
        return found + (offered(prefix, **more) if offered else [])

    if own:
        own[0].completer = complete  # type: ignore[attr-defined]
    else:
        under.add_argument("words", nargs="*").completer = complete  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
