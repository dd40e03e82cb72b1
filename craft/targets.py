"""Which classes a config may name: a `_target_` is a PeftConfig of peft or of craft, nothing else.

Configs, records and adapters come from elsewhere, too; hydra would call whatever they name."""

from collections.abc import Mapping
from typing import Any

import peft
from peft import PeftConfig

import craft
from craft import tuners
from craft.errors import InputError

PACKAGES = {"peft": peft, "craft": craft, "craft.tuners": tuners}


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


def refuse_targets(content: Any) -> None:
    """InputError where plain content names a class or a function to call (`_target_`)."""
    if isinstance(content, Mapping):
        if "_target_" in content:
            raise InputError(f"_target_: {content['_target_']} is not allowed here")
        content = list(content.values())
    if isinstance(content, list | tuple):
        for value in content:
            refuse_targets(value)
