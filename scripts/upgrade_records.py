"""Records of schema 1 -> schema 2, which say their experiment, their row and what they differ in.

python scripts/upgrade_records.py results/runs results/search/runs

A record's id and its result stay as they are; one of schema 2 is not written.
"""

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from craft.bench.cli.process import start
from craft.bench.report.differences import neutral
from craft.bench.report.load import sound_records
from craft.bench.run.record import Record
from craft.bench.settings.declared import flatten
from craft.bench.settings.places import CONFIGS
from craft.bench.settings.resolve import OF_RECIPE, recipe_row
from craft.errors import InputError

UNKNOWN = object()  # the default of a value that the recipe leaves open


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:]]
    if not folders:
        raise InputError("no folder is named: give folders of records, such as results/runs")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
    left_out: list[str] = []
    found = {path: made for folder in folders for path, made in sound_records(folder, left_out)}
    old = {path: upgraded(made) for path, made in found.items() if made.schema == 1}
    for line in left_out:
        print(f"warning: left out: {line}", file=sys.stderr)
    for path, made in old.items():
        made.write(path)
    print(f"{len(old)} of {len(found)} records upgraded")


def upgraded(made: Record) -> Record:
    """A record of schema 1 as one of schema 2."""
    provenance = made.provenance
    config = provenance["config"]
    experiment = re.search(r"(?:^|\s)experiment=(\S+)", provenance["command"])
    default = defaults(
        config["method"]["label"], provenance["model"]["name"], config["task"]["name"]
    )
    said = {
        "experiment": experiment[1] if experiment else None,
        "row": config.get("row_id"),
        "differs": differences(config, default),
    }
    return replace(made, schema=2, provenance=provenance | said)


def differences(config: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The `method.peft.*` and `train.*` values of a resolved config that its default states
    otherwise, what was made of its model (random weights, a vertical backbone), and that it was
    scored on a part of train or on folds."""
    made = {k: config["model"][k] for k in ("random", "vertical") if k in config["model"]}
    chosen = {"method": {"peft": config["method"]["peft"]}, "train": config["train"], "model": made}
    chosen |= {key: config[key] for key in ("selection", "fold") if key in config}
    differing = {}
    for key, value in flatten(chosen):
        known = default.get(key, UNKNOWN if key.startswith("train.") else neutral(key))
        if known is not UNKNOWN and value != known:
            differing[key] = value
    return differing


@cache
def defaults(label: str, model: str, task: str) -> dict[str, Any]:
    """What configs/method, configs/recipe and configs/train say for a method, a model and a task:
    dotted `method.peft.*` and `train.*` keys; UNKNOWN where the recipe leaves a value open."""
    files = {
        OmegaConf.load(p)["label"]: p.stem for p in sorted((CONFIGS / "method").glob("*.yaml"))
    }
    method = files.get(label)
    recipe = f"{method}/{model}"
    if not (CONFIGS / "recipe" / f"{recipe}.yaml").is_file():
        recipe = "local"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*([f"method={method}"] if method else []), f"recipe={recipe}"])
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


if __name__ == "__main__":
    start(main)
