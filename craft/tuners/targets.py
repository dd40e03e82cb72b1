"""Which modules a sandwich tuner adapts: the fields that say so, and their check on a model."""

import re
from dataclasses import dataclass, field
from typing import Any

import transformers
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.tuners.encoders import ENCODERS
from craft.tuners.sandwich.backbone import FORMAT
from craft.tuners.tuner import TunerConfig

# Query and value by model type: the encoders' from their table, others from peft.
TARGET_MODULES: dict[str, list[str] | str] = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "vit": ["query", "value"] if transformers.__version__ < "5" else ["q_proj", "v_proj"],
    **{kind: encoder.query_and_value for kind, encoder in ENCODERS.items()},
}


@dataclass
class SandwichConfig(TunerConfig):
    """What every sandwich tuner can be told; see the subclass for its own fields."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names or regex of the Linear modules to adapt; None takes the method's own of "
            "the model type: q and v, where the subclass does not say otherwise."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or regex of modules to leave alone."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; None adapts all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={"help": "Name of the list of layers in the model, where peft cannot guess it."},
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules to train and save whole, e.g. the classification head."},
    )
    backbone: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Shape and digest of each group's weights, filled in on saving; on loading, "
            "the base model is held against them."
        },
    )
    format_version: int = field(
        default=FORMAT, metadata={"help": "Version of the adapter file's layout."}
    )

    def to_dict(self) -> dict[str, Any]:
        """With what attaching found out, which is no setting of the caller's."""
        return super().to_dict() | getattr(self, "found", {})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format_version > FORMAT:
            raise InputError(
                f"the adapter file has format {self.format_version}; this version of craft reads "
                f"up to {FORMAT}"
            )
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                setattr(self, name, set(value))
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError("layers_pattern is given without layers_to_transform")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise InputError(
                "layers_to_transform needs target_modules as a list of names, not the pattern "
                f"{self.target_modules!r}"
            )


def default_targets(config: PeftConfig, model_type: str) -> list[str] | str | None:
    """What a method adapts in a model type by default; None where it has no such default.

    A method of peft that adapts RoBERTa's query and value adapts those of every type of our table,
    whatever types its own knows. InputError where the type is in neither table."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)  # type: ignore[arg-type]
    known = getattr(tuner, "target_module_mapping", None)
    if not known:
        return None
    if known.get("roberta") == ENCODERS["roberta"].query_and_value:
        known = TARGET_MODULES
    if model_type not in known:
        raise InputError(f"which modules to adapt in a {model_type} is not known")
    return known[model_type]


def check_targets(model: nn.Module, config: PeftConfig) -> None:
    """InputError for a name or pattern that matches no module, and for a layer that is not there.

    peft is silent on one of several names, and where a head trains too its message names none."""
    paths = [path for path, _ in model.named_modules()]
    targets = getattr(config, "target_modules", None)
    layers = getattr(config, "layers_to_transform", None)
    for index in [layers] if isinstance(layers, int) else layers or []:
        if not any(f".{index}." in f".{path}." for path in paths):
            raise InputError(f"layers_to_transform: the base model has no layer {index}")
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        missing = [] if any(re.fullmatch(targets, path) for path in paths) else [targets]
    else:
        missing = [t for t in sorted(targets) if not any(f".{p}".endswith(f".{t}") for p in paths)]
    if missing:
        raise InputError(
            f"target module {', '.join(missing)} not found in the base model; its Linear modules "
            f"are named {', '.join(linear_names(model))}"
        )


def linear_names(model: nn.Module) -> list[str]:
    """The last parts of the paths of all Linear modules."""
    return sorted({p.split(".")[-1] for p, m in model.named_modules() if is_linear(m)})


def is_linear(module: nn.Module) -> bool:
    """A Linear or Conv1D itself: a quantised Linear is a subclass."""
    return type(module) in (nn.Linear, Conv1D)
