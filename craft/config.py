"""The whole config of a run, resolved and checked before anything is loaded."""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from craft.errors import InputError, first_line
from craft.glue.batches import BATCHINGS
from craft.glue.tasks import Task
from craft.vertical import REFERENCES

MODES = ("train", "evaluate", "predict")
SELECTIONS = ("dev", "train_holdout", "fold")


@dataclass(frozen=True)
class TrainSettings:
    """The `train` section; each field is explained in configs/train/default.yaml."""

    lr: float
    head_lr: float
    epochs: int
    batch_size: int
    max_length: int
    weight_decay: float
    warmup: float
    beta1: float
    beta2: float
    eps: float
    clip: float
    accumulate: int
    auto_accumulate: bool
    max_steps: int | None
    precision: str
    tf32: bool
    batching: str
    attention_dropout: float | None
    compile: bool
    eval_batch_size: int
    device: str
    threads: int
    checkpoint_minutes: float
    save_adapter: bool

    def __post_init__(self) -> None:
        _one_of("train.precision", self.precision, ("fp32", "bf16", "fp16"))
        _one_of("train.batching", self.batching, BATCHINGS)
        for name in ("tf32", "auto_accumulate", "compile", "save_adapter"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"train.{name} must be true or false, not {getattr(self, name)!r}")
        for name in (
            "epochs",
            "batch_size",
            "max_length",
            "accumulate",
            "eval_batch_size",
            "threads",
        ):
            _whole(f"train.{name}", getattr(self, name), 1)
        if self.max_steps is not None:
            _whole("train.max_steps", self.max_steps, 1)
        for name in ("lr", "head_lr", "weight_decay", "eps", "clip", "checkpoint_minutes"):
            _number(f"train.{name}", getattr(self, name), 0.0, float("inf"))
        for name in ("warmup", "beta1", "beta2"):
            _number(f"train.{name}", getattr(self, name), 0.0, 1.0)
        if self.attention_dropout is not None:
            _number("train.attention_dropout", self.attention_dropout, 0.0, 1.0)
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:
                raise InputError(f"train.{name} must be below 1")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"train.batch_size {self.batch_size} is not a multiple of "
                f"train.accumulate {self.accumulate}"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("train.precision=fp16 needs a CUDA device; on a CPU take bf16 or fp32")


@dataclass(frozen=True)
class Fold:
    """The `fold` section: which of how many folds is scored, and which way of cutting them; number
    is None unless selection=fold."""

    number: int | None = None
    count: int = 5
    permutation: int = 0


@dataclass(frozen=True)
class RunConfig:
    """One run, checked: typed where the code reads it, and `resolved`, the plain config it came
    from."""

    mode: str
    seed: int
    selection: str
    fold: Fold
    start_from: str | None
    adapter: Path | None
    predict: Mapping[str, Any]
    outputs: Path
    store: Path | None
    lease_seconds: float
    task: Task
    train: TrainSettings
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    method: Mapping[str, Any]
    logger: Mapping[str, Any]
    resolved: dict[str, Any]


def check(cfg: DictConfig, cuda: bool | None = None) -> RunConfig:
    """Resolve a composed config and check every value.

    `cuda` says whether the machine that the run is for has a CUDA device; None: it is this one.
    InputError names the first value that is missing or impossible, and what would be allowed."""
    values = _resolve(cfg)
    floats = {f.name for f in fields(TrainSettings) if f.type in (float, float | None)}
    train = {  # 1 and 1.0 are one value
        k: float(v) if k in floats and type(v) is int else v for k, v in values["train"].items()
    }
    if odd := set(train) ^ {f.name for f in fields(TrainSettings)}:
        raise InputError(f"train: keys {sorted(odd)} are unknown or missing")
    _one_of("train.device", train["device"], ("auto", "cpu", "cuda"))
    available = torch.cuda.is_available() if cuda is None else cuda
    if train["device"] == "auto":
        train["device"] = "cuda" if available else "cpu"
    elif train["device"] == "cuda" and not available:
        raise InputError("train.device=cuda, but torch sees no CUDA device; take auto or cpu")
    task = Task.from_config(values["task"])
    _one_of("mode", values["mode"], MODES)
    _whole("seed", values["seed"], 0)
    _number("lease_seconds", values["lease_seconds"], 1.0, 3600.0)
    _one_of("selection", values["selection"], SELECTIONS)
    fold = _fold(values)
    _one_of("search", values["search"], (True, False))
    if values["start_from"] is not None:
        _one_of("start_from", values["start_from"], ("mnli",))
        _one_of("task (with start_from=mnli)", task.name, ("mrpc", "rte", "stsb"))
    _one_of("model.random", values["model"]["random"], (True, False))
    vertical = values["model"]["vertical"]
    if vertical["rank"] is not None:
        _whole("model.vertical.rank", vertical["rank"], 1)
        _whole("model.vertical.compound", vertical["compound"], 2)
        _one_of("model.vertical.reference", vertical["reference"], REFERENCES)
        if values["method"].get("train_backbone"):
            raise InputError(
                f"model.vertical.rank={vertical['rank']}: {values['method']['label']} trains the "
                "backbone's own weights, which would be increments no longer; take an adapter"
            )
    adapter = None if values["adapter"] is None else Path(values["adapter"])
    if values["mode"] != "train" and adapter is None:
        raise InputError(
            f"mode={values['mode']} needs adapter=FOLDER, e.g. outputs/runs/<run>/best"
        )
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise InputError(f"adapter: {adapter} holds no adapter_config.json")
    values["train"] = train
    return RunConfig(
        mode=values["mode"],
        seed=values["seed"],
        selection=values["selection"],
        fold=fold,
        start_from=values["start_from"],
        adapter=adapter,
        predict=values["predict"],
        outputs=Path(values["outputs"]),
        store=None if values["store"] is None else Path(values["store"]),
        lease_seconds=float(values["lease_seconds"]),
        task=task,
        train=TrainSettings(**train),
        model=values["model"],
        data=values["data"],
        method=values["method"],
        logger=values["logger"],
        resolved=values,
    )


def _fold(values: Mapping[str, Any]) -> Fold:
    """The `fold` section; InputError where it is given without selection=fold, where no such fold
    is, and for what else a config asks that would score rows it has trained on."""
    fold = Fold(**{f.name: values["fold"][f.name] for f in fields(Fold)})
    if values["selection"] != "fold":
        for f in fields(Fold):
            if getattr(fold, f.name) != f.default:
                raise InputError(
                    f"fold.{f.name}={getattr(fold, f.name)} is for selection=fold, "
                    f"not for selection={values['selection']}"
                )
        return fold
    _whole("fold.count", fold.count, 2)
    _whole("fold.permutation", fold.permutation, 0)
    _whole("fold.number (of the fold that selection=fold scores)", fold.number, 0)
    if fold.number not in range(fold.count):
        raise InputError(
            f"fold.number {fold.number} is not one of the {fold.count} folds 0 to {fold.count - 1}"
        )
    if values["start_from"] is not None:
        raise InputError(
            f"start_from={values['start_from']} with selection=fold: the donor would be trained on "
            "folds of its own task; take selection=dev"
        )
    if values["mode"] == "evaluate":
        raise InputError(
            "mode=evaluate scores the dev splits, which folds are trained on; a fold's scores are "
            "in its run's record"
        )
    return fold


def with_task(cfg: DictConfig, task: Path) -> DictConfig:
    """The same composed config for another task (its YAML file), from the pre-trained model: a
    `start_from` run's donor."""
    other = copy.deepcopy(cfg)
    with open_dict(other):
        other.task = OmegaConf.load(task)
        other.start_from = None
    return other


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    """The plain config with interpolations filled in; of the recipe only the source of the row that
    was used stays.

    InputError where the recipe has no value for the task, or a value that must be given is not."""
    row = (cfg.get("recipe") or {}).get(cfg.task.name) or {}
    for key, value in flatten(OmegaConf.to_container(cfg, resolve=False)):  # type: ignore[arg-type]
        name = re.fullmatch(r"\$\{recipe\.\$\{task\.name\}\.(\w+)\}", str(value))
        if name and (name[1] not in row or OmegaConf.is_missing(row, name[1])):
            raise InputError(
                f"the recipe of {cfg.method.label} on {cfg.model.name or 'local'} gives no "
                f"{name[1]} for task {cfg.task.name}; give it: {key}=VALUE"
            )
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(first_line(error)) from error
    assert isinstance(values, dict)
    values["recipe"] = {"source": row.get("source")}
    for key, value in flatten(values):
        if value == "???":
            raise InputError(f"{key} must be given: {key}=VALUE")
    return values  # type: ignore[return-value]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaves of a nested config; lists are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r} is not one of {', '.join(map(str, allowed))}")


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _number(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most:
        raise InputError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
