"""By which settings a run differs from its method's default: what tells two rows apart."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from collections.abc import Mapping
from typing import Any

import pandas as pd

from craft.bench.settings.declared import ALWAYS, Effect
from craft.bench.settings.sections import declaration
from craft.errors import InputError

NEW_DRAWS = ("method.peft.decomposition_seed",)  # of a method, beside the seed
PAIR = ["seed", "fold"]  # what one run of a cell differs by from the next, and pairs with another's


def settings_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which a run differs from method file, recipe and train/default.yaml, as its
    record says; of a run of the study, whose records of schema 1 do not say, its cell.

    InputError where another record of schema 1 has not been brought up to say so."""
    if "differs" in provenance:
        return {key: value for key, value in provenance["differs"].items() if is_setting(key)}
    if cell := provenance["config"].get("cell"):
        return {"cell": cell}
    raise InputError("does not say what it differs in: python scripts/upgrade_records.py FOLDER")


def is_setting(key: str) -> bool:
    """Whether tables name a key where its value is not the default; other keys tell rows apart only
    where a seed would stand twice in a cell."""
    return effect(key) is Effect.RESULT and key not in NEW_DRAWS


def effect(key: str) -> Effect:
    """What another value of a key of an identity changes; its protocol and digests are no settings
    of a config."""
    beside = key == "protocol" or key.endswith(".digest")
    return Effect.RESULT if beside else declaration(key).effect


def neutral(key: str) -> Any:
    """The value of a key that a record does not hold, being of before it; None where it always
    did."""
    found = declaration(key).neutral
    return None if found is ALWAYS else found


def fold_of(config: Mapping[str, Any]) -> str:
    """`2 of 5, permutation 0`: the fold that a run was scored on; empty where it was none."""
    if config.get("selection") != "fold":
        return ""
    fold = config["fold"]
    return f"{fold['number']} of {fold['count']}, permutation {fold['permutation']}"


def apart(identities: pd.DataFrame, pairs: pd.DataFrame) -> dict[Any, dict[str, Any]]:
    """What more must be said of runs that would share a cell, by run: no cell holds two settings,
    or a seed twice on one fold.

    `identities` holds one row per run of flat outcome keys, `pairs` its seed and fold."""
    identities = identities.drop(columns=[c for c in identities if effect(c) is Effect.PLACE])
    text = identities.map(repr)
    varying = [c for c in text if text[c].nunique() > 1]
    kept = [c for c in varying if is_setting(c)]
    if pd.concat([text[kept], pairs], axis=1).duplicated().any():
        kept = varying
    return {run: {c: identities.at[run, c] for c in kept} for run in identities.index}


def describe(settings: Mapping[str, Any]) -> str:
    """`ranks=(12, 64, 64), lr=0.001`; digests are cut short."""
    parts = []
    for key, value in sorted(settings.items()):
        name = key.removeprefix("method.peft.").removeprefix("train.").removesuffix(".digest")
        name = name.removeprefix("model.")
        if key.endswith(".digest"):
            value = str(value)[:8]
        if isinstance(value, list):
            value = f"({', '.join(map(str, value))})"
        parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return ", ".join(parts)
