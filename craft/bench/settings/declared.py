"""Settings that are declared once, in the types of dataclass fields: what each is for, what it
changes, the value that changes nothing, and the check of what is given.

    lr: Annotated[float, setting("adapter", check=number())]
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from craft.errors import InputError

S = TypeVar("S")
Check = Callable[[str, Any], None]  # name, value; InputError where it cannot be used
ALWAYS = object()  # the neutral value of a setting that has none


class Effect(Enum):
    """What another value of a setting changes. All but the last make another run."""

    RESULT = "what a run comes to; tables name it where it is not the default"
    COMPUTATION = "how it is computed: the order of sums, time, memory; tables do without"
    PLACE = "which run of a setting it is, or of which cell: seed, fold, task; tables have columns"
    NOTHING = "nothing that a run comes to"


@dataclass(frozen=True)
class Declared:
    """A setting. One with its neutral value is not part of a run's identity, so that a new setting
    orphans no record."""

    help: str
    effect: Effect
    neutral: Any
    check: Check | None


def setting(
    help: str = "",
    effect: Effect = Effect.RESULT,
    neutral: Any = ALWAYS,
    check: Check | None = None,
) -> Declared:
    """A declaration, most of it usual."""
    return Declared(help, effect, neutral, check)


def declared(section: type, prefix: str = "") -> Iterator[tuple[str, Declared]]:
    """Dotted key and declaration of every setting of a section and of those within it; a section
    may be declared as a whole."""
    for name, hint in get_type_hints(section, include_extras=True).items():
        kind, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for found in more:
            yield f"{prefix}{name}", found
        if is_dataclass(kind):
            yield from declared(kind, f"{prefix}{name}.")  # type: ignore[arg-type]


def read(section: type[S], values: Mapping[str, Any], name: str = "") -> S:
    """A section from plain values, sections within it included: a whole number where a float is
    declared is one, a text a path, a list a tuple.

    InputError for keys that are unknown, or missing where there is no default, and for the first
    value that its declaration does not allow."""
    known = {f.name: f for f in fields(section)}  # type: ignore[arg-type]
    needed = {n for n, f in known.items() if f.default is f.default_factory is MISSING}
    if odd := sorted((set(values) - known.keys()) | (needed - set(values))):
        raise InputError(f"{name or 'the config'}: keys {odd} are unknown or missing")
    hints, prefix = get_type_hints(section), f"{name}." if name else ""
    made = section(**{k: _typed(hints[k], v, f"{prefix}{k}") for k, v in values.items()})
    check(made, prefix)
    return made


def _typed(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a section, not {value!r}")
        return read(hint, value, name)  # type: ignore[arg-type]
    allowed = set(get_args(hint)) or {hint}
    if float in allowed and type(value) is int:
        return float(value)
    if Path in allowed and isinstance(value, str):
        return Path(value)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    return value


def plain(section: Any) -> Any:
    """The inverse of `read`: sections as dictionaries, paths as texts, tuples as lists."""
    if is_dataclass(section):
        return {f.name: plain(getattr(section, f.name)) for f in fields(section)}
    if isinstance(section, Mapping):
        return {key: plain(value) for key, value in section.items()}
    if isinstance(section, tuple | list):
        return [plain(value) for value in section]
    return str(section) if isinstance(section, Path) else section


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaves of a nested config; lists are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check(section: Any, prefix: str) -> None:
    """InputError for the first value of a section that its declaration does not allow."""
    for key, found in declared(type(section)):
        if found.check is not None and "." not in key:  # what lies deeper checks itself
            found.check(f"{prefix}{key}", getattr(section, key))


def one_of(*allowed: Any) -> Check:
    """One of these; 1 is not true."""

    def check(name: str, value: Any) -> None:
        if not any(value is one or (value == one and type(value) is type(one)) for one in allowed):
            raise InputError(f"{name} {value!r} is not one of {', '.join(map(str, allowed))}")

    return check


def truth(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {value!r}")


def whole(least: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")

    return check


def number(least: float = 0.0, most: float = math.inf, below: bool = False) -> Check:
    """From `least` to `most`, or below it."""

    def check(name: str, value: Any) -> None:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not least <= value <= most:
            raise InputError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
        if below and value == most:
            raise InputError(f"{name} must be below {most:g}")

    return check


def optional(check: Check) -> Check:
    """Null, or what `check` allows."""

    def checked(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return checked
