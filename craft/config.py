"""The whole config of a run, resolved and checked before anything is loaded."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from craft import declared
from craft.declared import Declared, Effect, number, one_of, optional, setting, truth, whole
from craft.errors import InputError, first_line
from craft.glue.batches import BATCHINGS
from craft.glue.tasks import Task
from craft.vertical import REFERENCES

MODES = ("train", "evaluate", "predict")
SELECTIONS = ("dev", "train_holdout", "fold")
# for evaluate and predict, which read none of them, where the recipe has no value
UNTRAINED = {"lr": 0.0, "head_lr": 0.0, "epochs": 1}
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainSettings:
    """The `train` section."""

    lr: Annotated[float, setting("adapter", check=number())]
    head_lr: Annotated[float, setting("classification head", check=number())]
    epochs: Annotated[int, setting(check=whole(1))]
    batch_size: Annotated[
        int, setting("the global batch, and the only one there is", check=whole(1))
    ]
    max_length: Annotated[
        int, setting("tokens, special ones included; longer texts are cut", check=whole(1))
    ]
    weight_decay: Annotated[
        float, setting("on matrices; biases, norms and other vectors have none", check=number())
    ]
    warmup: Annotated[
        float,
        setting("share of all steps; linear, then linear decay to zero", check=number(most=1.0)),
    ]
    beta1: Annotated[float, setting(check=number(most=1.0, below=True))]
    beta2: Annotated[float, setting(check=number(most=1.0, below=True))]
    eps: Annotated[float, setting(check=number())]
    clip: Annotated[float, setting("gradient norm", check=number())]
    accumulate: Annotated[int, setting(
        "micro-batches a step; batch_size must be a multiple",
        Effect.COMPUTATION, neutral=1, check=whole(1),
    )]  # fmt: skip
    auto_accumulate: Annotated[bool, setting(
        "on too little memory halve the micro-batch, keep batch_size and go on",
        Effect.COMPUTATION, neutral=False, check=truth,
    )]  # fmt: skip
    max_steps: Annotated[
        int | None, setting("end after so many steps", neutral=None, check=optional(whole(1)))
    ]
    precision: Annotated[str, setting(
        "fp32 | bf16 | fp16 (CUDA only, with a gradient scaler)",
        Effect.COMPUTATION, check=one_of(*PRECISIONS),
    )]  # fmt: skip
    tf32: Annotated[
        bool,
        setting(
            "TF32 matrix products in fp32, on CUDA", Effect.COMPUTATION, neutral=False, check=truth
        ),
    ]
    batching: Annotated[str, setting(
        "packed: end to end, no padding | grouped: cut by length into few rectangles, for any "
        "encoder | padded: to the longest",
        Effect.COMPUTATION, neutral="packed", check=one_of(*BATCHINGS),
    )]  # fmt: skip
    attention_dropout: Annotated[float | None, setting(
        "null: as the model says. CUDA's kernel for packed batches takes none: 0 lets it train",
        neutral=None, check=optional(number(most=1.0)),
    )]  # fmt: skip
    compile: Annotated[bool, setting(
        "true: torch.compile what is neither attention nor adapted; pays on CUDA, after a minute",
        Effect.COMPUTATION, neutral=False, check=truth,
    )]  # fmt: skip
    eval_batch_size: Annotated[int, setting(effect=Effect.COMPUTATION, neutral=64, check=whole(1))]
    device: Annotated[
        str, setting("auto | cpu | cuda", Effect.COMPUTATION, check=one_of("auto", "cpu", "cuda"))
    ]
    threads: Annotated[int, setting(
        "CPU threads of torch: part of the run's identity, since sums depend on it",
        Effect.COMPUTATION, check=whole(1),
    )]  # fmt: skip
    checkpoint_minutes: Annotated[
        float,
        setting("besides those at epoch ends and on a signal", Effect.NOTHING, check=number()),
    ]
    save_adapter: Annotated[bool, setting(
        "true: <run>/adapter, the best epoch as a peft folder with a model card, to share",
        Effect.NOTHING, check=truth,
    )]  # fmt: skip

    def __post_init__(self) -> None:
        declared.check(self, "train.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"train.batch_size {self.batch_size} is not a multiple of "
                f"train.accumulate {self.accumulate}"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("train.precision=fp16 needs a CUDA device; on a CPU take bf16 or fp32")


@dataclass(frozen=True)
class Fold:
    """The `fold` section; `number` is null unless selection=fold."""

    number: Annotated[
        int | None,
        setting(
            "of the fold that is scored, from 0; the others are trained on",
            Effect.PLACE,
            neutral=None,
        ),
    ]
    count: Annotated[int, setting("folds", neutral=5)]
    permutation: Annotated[
        int, setting("which of the many ways to cut them", Effect.PLACE, neutral=0)
    ]


@dataclass(frozen=True)
class Vertical:
    """The `model.vertical` section."""

    rank: Annotated[int | None, setting(
        "of an increment; null: every layer keeps its own weights",
        neutral=None, check=optional(whole(1)),
    )]  # fmt: skip
    reference: Annotated[str, setting(
        "the layer it is added to: previous (the paper) or first (the authors' code)",
        neutral="previous", check=one_of(*REFERENCES),
    )]  # fmt: skip
    compound: Annotated[
        int,
        setting(
            "consecutive layers; the first of them keeps its own weights", neutral=4, check=whole(2)
        ),
    ]


@dataclass(frozen=True)
class Model:
    """What is declared of the `model` section; the digest of its content stands for the rest."""

    random: Annotated[bool, setting(
        "true: weights drawn from the seed in place of the pre-trained ones, a baseline",
        neutral=False, check=truth,
    )]  # fmt: skip
    vertical: Vertical


@dataclass(frozen=True)
class Method:
    """What is declared of the `method` section: a PeftConfig's fields count as a whole, those at
    the default of its class left out."""

    label: Annotated[str, setting(effect=Effect.NOTHING)]
    facts: Annotated[Mapping[str, Any], setting(effect=Effect.NOTHING)]
    train_backbone: Annotated[bool, setting(neutral=False)]
    peft: Annotated[Mapping[str, Any], setting()]


@dataclass(frozen=True)
class RunConfig:
    """One run, checked: typed where the code reads it, and `resolved`, the plain config it came
    from.

    Its fields declare the settings of a run: what a test holds configs/train.yaml against."""

    mode: Annotated[
        str, setting("train | evaluate | predict", Effect.NOTHING, check=one_of(*MODES))
    ]
    row_id: Annotated[str | None, setting("set by row=<a row of Table 2>", Effect.NOTHING)]
    cell: Annotated[
        str | None,
        setting(
            "any name for what the run is a part of; kept in its record, changes nothing",
            Effect.NOTHING,
        ),
    ]
    seed: Annotated[int, setting(
        "head, order of the data, dropout and the method's own start derive from it",
        Effect.PLACE, check=whole(0),
    )]  # fmt: skip
    selection: Annotated[str, setting(
        "what it is scored on; train_holdout: a tenth of train, for searches, and dev is not seen; "
        "fold: see there",
        neutral="dev", check=one_of(*SELECTIONS),
    )]  # fmt: skip
    fold: Fold
    search: Annotated[bool, setting(
        "true: the score chooses settings and is no result; tables count its cost, and say if it "
        "saw dev",
        neutral=False, check=truth,
    )]  # fmt: skip
    start_from: Annotated[str | None, setting(
        "null: the pre-trained model; mnli: adapter and head of the same config with task=mnli and "
        "what MNLI's recipe and row say of training; another value of it: recipe.mnli.epochs=3",
        Effect.PLACE, neutral=None, check=optional(one_of("mnli")),
    )]  # fmt: skip
    adapter: Annotated[
        Path | None,
        setting(
            "mode=evaluate and mode=predict: the folder of a saved adapter and head "
            "(outputs/runs/<run>/best)",
            Effect.NOTHING,
        ),
    ]
    predict: Annotated[Mapping[str, Any], setting("mode=predict", Effect.NOTHING)]
    outputs: Annotated[Path, setting("runs, checkpoints, caches", Effect.NOTHING)]
    store: Annotated[
        Path | None,
        setting(
            "a folder that others filled (prepare.py), read besides outputs/cache and never "
            "written",
            Effect.NOTHING,
        ),
    ]
    lease_seconds: Annotated[float, setting(
        "a run whose process gives no sign of life for so long may be taken over by another",
        Effect.NOTHING, check=number(1.0, 3600.0),
    )]  # fmt: skip
    task: Annotated[Task, setting(effect=Effect.NOTHING)]  # but for what it declares itself
    train: TrainSettings
    model: Annotated[Mapping[str, Any], setting("the rest is chosen by model=NAME", Effect.NOTHING)]
    data: Annotated[
        Mapping[str, Any], setting(effect=Effect.NOTHING)
    ]  # its digest counts, not where it lies
    method: Mapping[str, Any]
    logger: Annotated[Mapping[str, Any], setting(effect=Effect.NOTHING)]
    recipe: Annotated[str | None, setting(effect=Effect.NOTHING)]
    resolved: dict[str, Any]


def _declarations() -> dict[str, Declared]:
    found = dict(declared.declared(RunConfig))
    found |= declared.declared(Model, "model.")
    return found | dict(declared.declared(Method, "method."))


DECLARED = _declarations()  # by dotted key; what lies below a key that is declared goes with it


def declaration(key: str) -> Declared:
    """The declaration of a config key, or of the nearest section above it; InputError where there
    is none."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        if (found := DECLARED.get(".".join(parts[:n]))) is not None:
            return found
    raise InputError(f"config key {key} is declared nowhere in craft/config.py")


def check(cfg: DictConfig, cuda: bool | None = None) -> RunConfig:
    """Resolve a composed config and check every value.

    `cuda` says whether the machine that the run is for has a CUDA device; None: it is this one.
    InputError names the first value that is missing or impossible, and what would be allowed."""
    values = _resolve(cfg)
    floats = {n for n, t in get_type_hints(TrainSettings).items() if t in (float, float | None)}
    train = {  # 1 and 1.0 are one value
        k: float(v) if k in floats and type(v) is int else v for k, v in values["train"].items()
    }
    if odd := set(train) ^ {f.name for f in fields(TrainSettings)}:
        raise InputError(f"train: keys {sorted(odd)} are unknown or missing")
    available = torch.cuda.is_available() if cuda is None else cuda
    if train["device"] == "auto":
        train["device"] = "cuda" if available else "cpu"
    elif train["device"] == "cuda" and not available:
        raise InputError("train.device=cuda, but torch sees no CUDA device; take auto or cpu")
    task = Task.from_config(values["task"])
    for key, one in DECLARED.items():
        if "." not in key and one.check is not None:
            one.check(key, values[key])
    fold = _fold(values)
    if values["start_from"] is not None:
        one_of("mrpc", "rte", "stsb")("task (with start_from=mnli)", task.name)
    vertical = Vertical(**{f.name: values["model"]["vertical"][f.name] for f in fields(Vertical)})
    declared.check(Model(values["model"]["random"], vertical), "model.")
    declared.check(vertical, "model.vertical.")
    if vertical.rank is not None and values["method"].get("train_backbone"):
        raise InputError(
            f"model.vertical.rank={vertical.rank}: {values['method']['label']} trains the "
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
        row_id=values["row_id"],
        cell=values["cell"],
        seed=values["seed"],
        selection=values["selection"],
        fold=fold,
        search=values["search"],
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
        recipe=values["recipe"]["source"],
        resolved=values,
    )


def _fold(values: Mapping[str, Any]) -> Fold:
    """The `fold` section; InputError where it is given without selection=fold, where no such fold
    is, and for what else a config asks that would score rows it has trained on."""
    fold = Fold(**{f.name: values["fold"][f.name] for f in fields(Fold)})
    if values["selection"] != "fold":
        for f in fields(Fold):
            if getattr(fold, f.name) != DECLARED[f"fold.{f.name}"].neutral:
                raise InputError(
                    f"fold.{f.name}={getattr(fold, f.name)} is for selection=fold, "
                    f"not for selection={values['selection']}"
                )
        return fold
    whole(2)("fold.count", fold.count)
    whole(0)("fold.permutation", fold.permutation)
    whole(0)("fold.number (of the fold that selection=fold scores)", fold.number)
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


def donor_line(cfg: DictConfig, overrides: Iterable[str]) -> list[str]:
    """The command line of the run that a `start_from` run starts from, given the run's own.

    It is the same but for what is the task's: `task.*`, `train.max_steps`, and those of `train.*`
    that the donor's recipe has values for. Where that leaves values open (`model=local`), the
    command line is the recipe of both."""
    recipe = (cfg.get("recipe") or {}).get(cfg.start_from) or {}
    whole_recipe = not any(OmegaConf.is_missing(recipe, name) for name in recipe)
    of_a_task = {"train.max_steps", *(f"train.{name}" for name in recipe)} if whole_recipe else ()
    kept = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if not (key == "start_from" or key.split(".")[0] == "task" or key in of_a_task):
            kept.append(override)
    return [*kept, f"task={cfg.start_from}", "start_from=null"]


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    """The plain config with interpolations filled in; of the recipe only the source of the row that
    was used stays.

    InputError names all values at once that must be given, or that the recipe has none of."""
    row = (cfg.get("recipe") or {}).get(cfg.task.name) or {}
    cfg = copy.deepcopy(cfg)
    of_recipe: dict[str, str] = {}
    others: list[str] = []
    for key, value in flatten(OmegaConf.to_container(cfg, resolve=False)):  # type: ignore[arg-type]
        name = re.fullmatch(r"\$\{recipe\.\$\{task\.name\}\.(\w+)\}", str(value))
        if name and (name[1] not in row or OmegaConf.is_missing(row, name[1])):
            if cfg.mode != "train" and name[1] in UNTRAINED:
                OmegaConf.update(cfg, key, UNTRAINED[name[1]])
            else:
                of_recipe[key] = name[1]
        elif value == "???" and not key.startswith("recipe."):
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
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(first_line(error)) from error
    assert isinstance(values, dict)
    values["recipe"] = {"source": row.get("source")}
    return values  # type: ignore[return-value]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaves of a nested config; lists are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
