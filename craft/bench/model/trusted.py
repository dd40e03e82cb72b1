"""Which classes a config may name: a `_target_` is a PeftConfig of peft or of craft, nothing else.

Configs, records and adapters come from elsewhere, too; hydra would call whatever they name."""

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import peft
from peft import PeftConfig

import craft
from craft import tuners
from craft.errors import InputError

PACKAGES = {"peft": peft, "craft": craft, "craft.tuners": tuners}
# what the bench gives itself, and what only peft fills in
NOT_GIVEN = {f.name for f in fields(PeftConfig)} | {"modules_to_save"}


def peft_config_class(method: Mapping[str, Any]) -> type[PeftConfig]:
    """The class that a `method.peft` section names.

    InputError where it is none of peft's or craft's, and where a field names a class of its own."""
    target = method.get("_target_")
    package, _, name = str(target).rpartition(".")
    found = getattr(PACKAGES.get(package), name, None)
    if not (isinstance(found, type) and issubclass(found, PeftConfig)):
        raise InputError(
            f"method.peft._target_: {target} is no PeftConfig of {', '.join(PACKAGES)}"
        )
    refuse_targets({key: value for key, value in method.items() if key != "_target_"})
    return found


def check_fields(kind: type[PeftConfig], given: Mapping[str, Any]) -> None:
    """InputError for a field that a PeftConfig does not have, and for a number, text or truth value
    where it declares another kind; lists and mappings are its own to check."""
    known = [f.name for f in fields(kind) if f.init and f.name not in NOT_GIVEN]
    hints = get_type_hints(kind)
    for name, value in given.items():
        if name not in known:
            raise InputError(
                f"method.peft.{name} is not one of {kind.__name__}'s {', '.join(known)}"
            )
        allowed = _scalars(hints[name])
        if allowed is not None and not any(_is(value, one) for one in allowed):
            names = " or ".join(_shown(one) for one in allowed)
            raise InputError(f"method.peft.{name} must be {names}, not {value!r}")


def _scalars(hint: Any) -> list[Any] | None:
    """The kinds and literal values that a hint allows; None where it allows others than scalars."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_scalars(part) for part in get_args(hint)]
        return None if None in parts else [one for part in parts for one in part or ()]
    if get_origin(hint) is Literal:
        return [*get_args(hint)]
    return [hint] if hint in (int, float, bool, str, types.NoneType) else None


def _is(value: Any, allowed: Any) -> bool:
    """Whether a value is a literal one, or of a kind; a whole number may have a fraction, since
    peft declares scales so that take one."""
    if not isinstance(allowed, type):
        return type(value) is type(allowed) and value == allowed
    if allowed in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, allowed)


def _shown(allowed: Any) -> str:
    words = {int: "a number", float: "a number", bool: "true or false", str: "text"}
    return words.get(allowed, "null" if allowed is types.NoneType else repr(allowed))


def refuse_targets(content: Any) -> None:
    """InputError where plain content names a class or a function to call (`_target_`)."""
    if isinstance(content, Mapping):
        if "_target_" in content:
            raise InputError(f"_target_: {content['_target_']} is not allowed here")
        content = list(content.values())
    if isinstance(content, list | tuple):
        for value in content:
            refuse_targets(value)
