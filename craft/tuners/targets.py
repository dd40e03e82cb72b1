"""Which modules a sandwich tuner adapts: the fields that say so, and their check on a model."""

import re
from dataclasses import dataclass, field
from typing import Any

import transformers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.tuners.backbone import FORMAT
from craft.tuners.tuner import TunerConfig

# Query and value by model type, where peft has no default of its own.
TARGET_MODULES: dict[str, list[str]] = {
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "mpnet": ["q", "v"],
    "vit": ["query", "value"] if transformers.__version__ < "5" else ["q_proj", "v_proj"],
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
}


@dataclass
class SandwichConfig(TunerConfig):
    """What every sandwich tuner can be told; see the subclass for its own fields."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names or regex of the Linear modules to adapt; None takes q and v of the "
            "model type (peft's default of LoRA, and some more types)."
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


def check_targets(model: nn.Module, config: SandwichConfig) -> None:
    """InputError for a name or pattern that matches no module, and for a layer that is not there.

    peft is silent on one of several names, and where a head trains too its message names none."""
    paths, targets = [path for path, _ in model.named_modules()], config.target_modules
    layers = config.layers_to_transform
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
        linear = {p.split(".")[-1] for p, m in model.named_modules() if is_linear(m)}
        raise InputError(
            f"target module {', '.join(missing)} not found in the base model; its Linear modules "
            f"are named {', '.join(sorted(linear))}"
        )


def is_linear(module: nn.Module) -> bool:
    """A Linear or Conv1D itself: a quantised Linear is a subclass."""
    return type(module) in (nn.Linear, Conv1D)
