"""Every setting of a run, declared once: its sections as dataclasses, one field a setting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from craft.bench.settings import declared
from craft.bench.settings.declared import (
    Declared,
    Effect,
    number,
    one_of,
    optional,
    setting,
    truth,
    whole,
)
from craft.errors import InputError
from craft.vertical import REFERENCES

MODES = ("train", "evaluate", "predict")
SELECTIONS = ("dev", "train_holdout", "fold")
# for evaluate and predict, which read none of them, where the recipe has no value
UNTRAINED = {"lr": 0.0, "head_lr": 0.0, "epochs": 1}
SOURCES = ("hub", "local", "mini")
PRECISIONS = ("fp32", "bf16", "fp16")


METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
BATCHINGS = ("packed", "grouped", "padded")


@dataclass(frozen=True)
class Tsv:
    """How a task's original TSV files are laid out."""

    files: Mapping[str, str]  # split -> file name without .tsv
    columns: Mapping[
        str, str | int
    ]  # our name -> the header's name, or the position without a header
    width: int | None  # number of columns of a file without a header
    test_columns: Mapping[str, str | int]
    skip_broken_rows: (
        bool  # the official files hold rows of another width; they are left out and counted
    )


@dataclass(frozen=True)
class Task:
    """Columns, labels, splits and metrics of one task.

    `labels` are the class names in the order of their ids, and empty for regression. `headline` is
    the metric of the published tables; where there are several dev splits it is pooled over
    them."""

    name: Annotated[str, setting(effect=Effect.PLACE)]
    hub: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    metrics: tuple[str, ...]
    headline: Annotated[
        str, setting(effect=Effect.PLACE)
    ]  # its other facts show in the data's digest
    tsv: Tsv

    def __post_init__(self) -> None:
        for metric in {*self.metrics, self.headline} - set(METRICS):
            raise InputError(
                f"task {self.name}: metric {metric!r} is not one of {', '.join(METRICS)}"
            )

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.labels) or 1


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
    )] = None  # fmt: skip
    reference: Annotated[str, setting(
        "the layer it is added to: previous (the paper) or first (the authors' code)",
        neutral="previous", check=one_of(*REFERENCES),
    )] = "previous"  # fmt: skip
    compound: Annotated[
        int,
        setting(
            "consecutive layers; the first of them keeps its own weights", neutral=4, check=whole(2)
        ),
    ] = 4


@dataclass(frozen=True)
class Model:
    """The `model` section; the digest of its content stands for where it comes from."""

    name: Annotated[str | None, setting("null: its card's, or the folder's", Effect.NOTHING)] = None
    path: Annotated[Path | None, setting("a local folder", Effect.NOTHING)] = None
    repository: Annotated[str | None, setting("on the hub", Effect.NOTHING)] = None
    revision: Annotated[str | None, setting("a commit of it", Effect.NOTHING)] = None
    random: Annotated[bool, setting(
        "true: weights drawn from the seed in place of the pre-trained ones, a baseline",
        neutral=False, check=truth,
    )] = False  # fmt: skip
    vertical: Vertical = Vertical()
    digest: Annotated[str | None, setting("of weights and config", Effect.NOTHING)] = None
    licence: Annotated[str | None, setting("null: from the card", Effect.NOTHING)] = None


@dataclass(frozen=True)
class Data:
    """The `data` section: its content counts, by its digest, and not where it lies."""

    source: Annotated[str, setting(effect=Effect.NOTHING, check=one_of(*SOURCES))]
    repository: Annotated[str | None, setting("on the hub", Effect.NOTHING)] = None
    revision: Annotated[str | None, setting("a commit of it", Effect.NOTHING)] = None
    dir: Annotated[Path | None, setting("of source local", Effect.NOTHING)] = None


@dataclass(frozen=True)
class Method:
    """The `method` section: a PeftConfig's fields count as a whole, those at the default of its
    class left out."""

    label: Annotated[str, setting("in tables and names", Effect.NOTHING)]
    peft: Annotated[Mapping[str, Any], setting("a PeftConfig by its _target_, and its fields")]
    facts: Annotated[Mapping[str, Any], setting("for tests and tables", Effect.NOTHING)] = field(
        default_factory=dict
    )
    train_backbone: Annotated[
        bool, setting("the backbone is one of the modules to train", neutral=False, check=truth)
    ] = False


@dataclass(frozen=True)
class Logger:
    """The `logger` section."""

    name: Annotated[str, setting(effect=Effect.NOTHING, check=one_of("wandb", "none"))]
    project: Annotated[str | None, setting("of wandb", Effect.NOTHING)] = None


@dataclass(frozen=True)
class Predict:
    """The `predict` section, for mode=predict."""

    input: Annotated[Path | None, setting(
        "a TSV file with the task's columns in its header; null: the task's test splits",
        Effect.NOTHING,
    )]  # fmt: skip
    output: Annotated[Path | None, setting(
        "where predictions go, one TSV with index and prediction", Effect.NOTHING
    )]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Where the task's row of the recipe has its values from."""

    source: Annotated[str | None, setting(effect=Effect.NOTHING)]


@dataclass(frozen=True)
class RunConfig:
    """One run, checked. Its fields declare the settings of a run: what a test holds
    configs/train.yaml against."""

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
    predict: Predict
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
    # as whole sections, too: older records hold keys that are gone
    model: Annotated[Model, setting("the rest is chosen by model=NAME", Effect.NOTHING)]
    data: Annotated[Data, setting(effect=Effect.NOTHING)]
    method: Method
    logger: Logger
    recipe: Annotated[Recipe, setting(effect=Effect.NOTHING)]  # its rows are interpolated


# by dotted key; what lies below a key that is declared goes with it
DECLARED = dict(declared.declared(RunConfig))


def declaration(key: str) -> Declared:
    """The declaration of a config key, or of the nearest section above it; InputError where there
    is none."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        if (found := DECLARED.get(".".join(parts[:n]))) is not None:
            return found
    raise InputError(f"config key {key} is declared nowhere in craft/bench/settings/sections.py")
