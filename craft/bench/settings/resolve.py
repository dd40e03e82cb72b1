"""The whole config of a run, resolved and checked before anything is loaded."""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from craft.bench.settings.declared import flatten, one_of, plain, read, whole
from craft.bench.settings.places import let_configs_name_them
from craft.bench.settings.sections import DECLARED, UNTRAINED, RunConfig, declaration
from craft.errors import InputError, first_line

UNSTATED = object()
OF_RECIPE = re.compile(r"\$\{\.*recipe\.\$\{task\.name\}\.(\w+)\}")


def check(cfg: DictConfig, cuda: bool | None = None) -> RunConfig:
    """Resolve a composed config and check every value.

    `cuda` says whether the machine that the run is for has a CUDA device; None: it is this one.
    InputError names the first value that is missing or impossible, and what would be allowed."""
    values = _resolve(cfg)
    available = torch.cuda.is_available() if cuda is None else cuda
    device = values["train"].get("device")
    if device == "auto":
        values["train"]["device"] = "cuda" if available else "cpu"
    elif device == "cuda" and not available:
        raise InputError("train.device=cuda, but torch sees no CUDA device; take auto or cpu")
    config = read(RunConfig, values)
    _check_fold(config)
    if config.start_from is not None:
        one_of("mrpc", "rte", "stsb")("task (with start_from=mnli)", config.task.name)
    rank = config.model.vertical.rank
    if rank is not None and config.method.train_backbone:
        raise InputError(
            f"model.vertical.rank={rank}: {config.method.label} trains the backbone's own weights, "
            "which would be increments no longer; take an adapter"
        )
    adapter = config.adapter
    if config.mode != "train" and adapter is None:
        raise InputError(f"mode={config.mode} needs adapter=FOLDER, e.g. outputs/runs/<run>/best")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise InputError(f"adapter: {adapter} holds no adapter_config.json")
    return config


def _check_fold(config: RunConfig) -> None:
    """InputError where a fold is given without selection=fold, where no such fold is, and for what
    else a config asks that would score rows it has trained on."""
    fold = config.fold
    if config.selection != "fold":
        for name, value in plain(fold).items():
            if value != DECLARED[f"fold.{name}"].neutral:
                raise InputError(
                    f"fold.{name}={value} is for selection=fold, "
                    f"not for selection={config.selection}"
                )
        return
    whole(2)("fold.count", fold.count)
    whole(0)("fold.permutation", fold.permutation)
    whole(0)("fold.number (of the fold that selection=fold scores)", fold.number)
    if fold.number not in range(fold.count):
        raise InputError(
            f"fold.number {fold.number} is not one of the {fold.count} folds 0 to {fold.count - 1}"
        )
    if config.start_from is not None:
        raise InputError(
            f"start_from={config.start_from} with selection=fold: the donor would be trained on "
            "folds of its own task; take selection=dev"
        )
    if config.mode == "evaluate":
        raise InputError(
            "mode=evaluate scores the dev splits, which folds are trained on; a fold's scores are "
            "in its run's record"
        )


def differs(cfg: DictConfig) -> dict[str, Any]:
    """What a composed config says otherwise than the files of its method and of `train`, with the
    recipe's values, and than the neutral values of `model`, `selection` and `fold`: by dotted key.

    Of a value that the recipe leaves open nothing is said."""
    values = _resolve(cfg)
    stated = {"method": {"peft": values["method"]["peft"]}, "train": values["train"]}
    found = {}
    for key, value in flatten(stated):
        try:
            usual = OmegaConf.select(cfg, f"stated.{key}", default=UNSTATED)
        except OmegaConfBaseException:
            usual = None
        usual = OmegaConf.to_container(usual) if OmegaConf.is_config(usual) else usual
        open_ = usual is None and OF_RECIPE.fullmatch(str(_raw(cfg, f"stated.{key}")))
        if usual != value and not open_:
            found[key] = value
    beside = {key: values[key] for key in ("selection", "fold")}
    beside["model"] = {key: values["model"][key] for key in ("random", "vertical")}
    neutral = {key: value for key, value in flatten(beside) if value != declaration(key).neutral}
    return found | neutral


def _raw(cfg: DictConfig, key: str) -> Any:
    """A value as it is written, an interpolation unresolved."""
    parent, _, name = key.rpartition(".")
    return OmegaConf.to_container(OmegaConf.select(cfg, parent), resolve=False).get(name)  # type: ignore[union-attr]


def donor_line(cfg: DictConfig, overrides: Iterable[str]) -> list[str]:
    """The command line of the run that a `start_from` run starts from, given the run's own.

    It is the same but for what is the task's: `task.*`, `train.max_steps`, and those of `train.*`
    that the donor's recipe has values for. Where that leaves values open (`model=local`), the
    command line is the recipe of both."""
    told = [name for name in cfg.recipe.get(cfg.start_from) or () if name in cfg.train]
    whole_recipe = recipe_row(cfg.recipe, cfg.start_from).keys() >= set(told)
    of_a_task = {"train.max_steps", *(f"train.{name}" for name in told)} if whole_recipe else ()
    kept = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if not (key == "start_from" or key.split(".")[0] == "task" or key in of_a_task):
            kept.append(override)
    return [*kept, f"task={cfg.start_from}", "start_from=null"]


def recipe_row(recipe: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What a composed recipe says for a task, in the task's own row or for all tasks; a value that
    it leaves open is not in it."""
    row = recipe.get(task) or {}
    values = {str(name): OmegaConf.select(row, str(name)) for name in row}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if value is not None}


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    """The plain config with interpolations filled in; of the recipe only the source of the row that
    was used stays.

    InputError names all values at once that must be given, or that the recipe has none of."""
    let_configs_name_them()
    row = recipe_row(cfg.get("recipe") or {}, cfg.task.name)
    cfg = copy.deepcopy(cfg)
    of_recipe: dict[str, str] = {}
    others: list[str] = []
    for key, value in flatten(OmegaConf.to_container(cfg, resolve=False)):  # type: ignore[arg-type]
        name = OF_RECIPE.fullmatch(str(value))
        if name and name[1] not in row and not key.startswith("stated."):
            if cfg.mode != "train" and name[1] in UNTRAINED:
                OmegaConf.update(cfg, key, UNTRAINED[name[1]])
            else:
                of_recipe[key] = name[1]
        elif value == "???" and not key.startswith(("recipe.", "stated.")):
            others.append(key)
    said = [f"{', '.join(others)} must be given"] if others else []
    if of_recipe:
        said.append(
            f"the recipe of {cfg.method.label} on {cfg.model.name or 'local'} gives no "
            f"{', '.join(of_recipe.values())} for task {cfg.task.name}"
        )
    if said:
        line = " ".join(f"{key}=VALUE" for key in (*others, *of_recipe))
        raise InputError(f"{'; '.join(said)}: give {line}")
    values: dict[str, Any] = {"recipe": {"source": row.get("source")}}
    try:
        for key in cfg.keys() - {"recipe", "stated"}:  # whose many rows are nobody's values
            value = cfg[key]
            values[str(key)] = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
    except OmegaConfBaseException as error:
        raise InputError(first_line(error)) from error
    return values
