"""By which settings a run differs from its method's default: what tells two rows apart."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from craft.bench.settings.declared import ALWAYS, Effect
from craft.bench.settings.resolve import OF_RECIPE, flatten, recipe_row
from craft.bench.settings.sections import declaration

NEW_DRAWS = ("method.peft.decomposition_seed",)  # of a method, beside the seed
PAIR = ["seed", "fold"]  # what one run of a cell differs by from the next, and pairs with another's
UNKNOWN = object()


@dataclass(frozen=True)
class Defaults:
    """What configs/method, configs/recipe and configs/train say, for any method, model and task."""

    configs: Path

    def of(self, label: str, model: str, task: str) -> dict[str, Any]:
        """Dotted `method.peft.*` and `train.*` keys; UNKNOWN where the recipe leaves a value
        open."""
        return _defaults(self.configs, _labels(self.configs).get(label), model, task)


@cache
def ordered(configs: Path) -> tuple[str, ...]:
    """Labels of the methods whose `facts` give them an order, the reference of comparisons first;
    tables and figures have the others after them, by name."""
    facts = [OmegaConf.load(path) for path in sorted((configs / "method").glob("*.yaml"))]
    placed = [(int(m["facts"]["order"]), str(m["label"])) for m in facts if "order" in m["facts"]]
    return tuple(label for _, label in sorted(placed))


@cache
def _labels(configs: Path) -> dict[str, str]:
    """Label of a method -> name of its file."""
    paths = sorted((configs / "method").glob("*.yaml"))
    return {str(OmegaConf.load(path)["label"]): path.stem for path in paths}


@cache
def _composed(configs: Path, method: str | None, recipe: str) -> DictConfig:
    chosen = [f"method={method}"] if method is not None else []
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return compose("train", [*chosen, f"recipe={recipe}"])


@cache
def _defaults(configs: Path, method: str | None, model: str, task: str) -> dict[str, Any]:
    own = f"{method}/{model}"
    recipe = own if (configs / "recipe" / f"{own}.yaml").is_file() else "local"
    cfg = _composed(configs, method, recipe)
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    sections, row = {"train": raw["train"]}, {}
    if method is not None:
        sections["method"] = {"peft": raw["method"]["peft"]}
        row = recipe_row(cfg.recipe, task)
    found = {}
    for key, value in flatten(sections):
        of_recipe = OF_RECIPE.fullmatch(str(value))
        found[key] = row.get(of_recipe[1], UNKNOWN) if of_recipe else value
    return found


def differences(config: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The `method.peft.*` and `train.*` values of a resolved config that its default states
    otherwise, what was made of its model (random weights, a vertical backbone), and that it was
    scored on a part of train or on folds."""
    made = {k: config["model"][k] for k in ("random", "vertical") if k in config["model"]}
    chosen = {"method": {"peft": config["method"]["peft"]}, "train": config["train"], "model": made}
    chosen |= {key: config[key] for key in ("selection", "fold") if key in config}
    differing = {}
    for key, value in flatten(chosen):
        known = default.get(key, UNKNOWN if key.startswith("train.") else neutral(key))
        if not is_setting(key) or known is UNKNOWN:
            continue
        if value != known:
            differing[key] = value
    return differing


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
