"""One parser for all commands that Hydra does not read: `name=value` words, as in Hydra, or
`--name value`."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from craft.errors import InputError

SETTING = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """argparse, to which `out=FOLDER` is `--out FOLDER`; a mistake is an InputError.

    An empty value is none: `make` passes on what it was not given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more
        )

    def setting(self, name: str, default: Any = None, **more: Any) -> None:
        """Declare `name=VALUE`."""
        more.setdefault("metavar", more.get("choices") and "|".join(more["choices"]) or "VALUE")
        self.add_argument(f"--{name}", default=default, **more)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """InputError names what is unknown or impossible, and what is allowed."""
        known = {action.dest for action in self._actions if action.option_strings}
        given = []
        for word in words:
            found = SETTING.fullmatch(word)
            if found is None:
                given.append(word)
            elif found[1] not in known:
                raise self._unknown(word)
            elif found[2]:
                given.append(f"--{found[1]}={found[2]}")
        found, odd = self.parse_known_intermixed_args(given)
        if odd:
            raise self._unknown(odd[0])
        return found

    def _unknown(self, word: str) -> InputError:
        names = [
            f"{action.dest}=" if action.nargs != 0 else action.option_strings[0]
            for action in self._actions
            if action.option_strings and action.dest != "help"
        ]
        return InputError(f"{word!r} is not one of {', '.join(names)}")

    def error(self, message: str) -> NoReturn:
        """argparse's own words, with the name as it is given."""
        chosen = re.fullmatch(
            r"argument (?:--)?(\w+): invalid choice: (.+) \(choose from (.*)\)", message
        )
        if chosen:
            allowed = chosen[3].replace("'", "")
            raise InputError(f"{chosen[1]} {chosen[2]} is not one of {allowed}")
        raise InputError(re.sub(r"^argument --(\w+):", r"\1:", message))


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def options(words: Sequence[str], **defaults: str | None) -> dict[str, str | None]:
    """`name=value` words of a script that has nothing else; InputError on an unknown name."""
    parser = Parser(add_help=False)
    for name, default in defaults.items():
        parser.setting(name, default)
    return vars(parser.parse(words))
