"""Bottleneck adapters (arXiv 1902.00751, 2005.00247, 2010.11918) as a peft tuner.

An adapter of bottleneck m is A(h) = W_up f(W_down h + b_down) + b_up. A block of a layer of BERT
with input x and output h, after dropout, ends in LN(x + h); with adapters it ends in

    houlsby    LN(x + h + A(h))            attention and feed-forward block: two adapters a layer
    pfeiffer   LN(x + h + A(LN(x + h)))    feed-forward block: one adapter a layer

as in google-research/adapter-bert and in microsoft/LoRA (Adpt-H and Adpt-P of its Table 2). A layer
that norms before its blocks has x + h + A(h) in the Houlsby placement, and no Pfeiffer placement.
An adapter is not linear: there is nothing to merge.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.tuners.encoders import ENCODERS
from craft.tuners.registration import register
from craft.tuners.tuner import Tuner, TunerConfig, features

INITS = ("exact", "normal")
ACTIVATIONS = {"swish": F.silu, "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}
PLACEMENTS = ("houlsby", "pfeiffer")


@dataclass
class BottleneckConfig(TunerConfig):
    """Configuration of bottleneck adapters.

    An adapter trains 2dm + m + d numbers at width d; on RoBERTa-large with m = 64 that is 6,343,680
    in the Houlsby placement and 3,171,840 in the Pfeiffer placement."""

    bottleneck: int = field(default=64, metadata={"help": "Width m of the bottleneck."})
    placement: str = field(
        default="houlsby",
        metadata={"help": "'houlsby': after attention and feed-forward; 'pfeiffer': see above."},
    )
    activation: str = field(
        default="swish",
        metadata={
            "help": "The non-linearity f: 'swish', 'relu', 'gelu' or 'tanh'; microsoft/LoRA has "
            "swish for Adpt-H and relu for Adpt-P."
        },
    )
    skip_layers: int | float = field(
        default=0,
        metadata={
            "help": "AdapterDrop: how many of the lowest layers get no adapter, or which fraction "
            "(below 1) of the depth."
        },
    )
    init: str = field(
        default="exact",
        metadata={
            "help": "'exact': W_up = 0, the model starts as it was; 'normal': W_up is drawn as "
            "W_down is, and the model starts near it."
        },
    )
    init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the weights at the start; biases 0."}
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names or regex of the modules to adapt, LayerNorms for 'pfeiffer'; None takes "
            "those of the placement in a known encoder."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules to train and save whole, e.g. the classification head."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BOTTLENECK")
        if isinstance(self.target_modules, list | tuple):
            self.target_modules = set(self.target_modules)  # as peft's own configs
        choices = (("placement", PLACEMENTS), ("init", INITS), ("activation", ACTIVATIONS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if not (isinstance(self.bottleneck, int) and self.bottleneck > 0):
            raise InputError(f"bottleneck must be a positive integer, not {self.bottleneck!r}")
        if self.skip_layers < 0 or (isinstance(self.skip_layers, float) and self.skip_layers >= 1):
            raise InputError(
                f"skip_layers must be whole or a fraction below 1, not {self.skip_layers!r}"
            )


def skipped_layers(skip_layers: int | float, depth: int) -> int:
    """How many layers get no adapter: a fraction of the depth is rounded down."""
    skipped = int(skip_layers * depth) if isinstance(skip_layers, float) else skip_layers
    if skipped >= depth:
        raise InputError(f"skip_layers {skip_layers} leaves none of {depth} layers")
    return skipped


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module with adapters on its output h: h + A(h), or around a LayerNorm: LN(s + A(LN(s)))."""

    adapter_layer_names: tuple[str, ...] = ("bottleneck_down", "bottleneck_up")
    other_param_names: tuple[str, ...] = ("kinds",)

    def __init__(self, base_layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.base_dtype = dtype  # of the block: a dropout has none
        self.in_features, self.out_features = features(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.kinds: dict[str, tuple[str, str]] = {}  # adapter -> placement, activation
        self._disable_adapters = False

    def add(self, name: str, width: int, config: BottleneckConfig, device: torch.device) -> None:
        """Make the float32 weights of one adapter."""
        down = nn.Linear(width, config.bottleneck, device=device, dtype=torch.float32)
        up = nn.Linear(config.bottleneck, width, device=device, dtype=torch.float32)
        nn.init.normal_(down.weight, std=config.init_std)
        nn.init.normal_(up.weight, std=config.init_std if config.init == "normal" else 0.0)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[name], self.bottleneck_up[name] = down, up
        self.kinds[name] = config.placement, config.activation

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.kinds:
                continue
            placement, activation = self.kinds[name]
            down, up = self.bottleneck_down[name], self.bottleneck_up[name]
            hidden = ACTIVATIONS[activation](down(result.to(down.weight.dtype)))
            update = up(hidden).to(result.dtype)
            if placement == "pfeiffer":
                x = x + update
                result = self.base_layer(x, *args, **kwargs)
            else:
                result = result + update
        return result


class BottleneckModel(Tuner):
    """Wraps the modules of the placement in the layers that are not skipped."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    mergeable = False

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict
    ) -> BottleneckConfig:
        """Fill in the target modules of the placement."""
        if peft_config.target_modules is None:
            kind, placement = model_config.get("model_type"), peft_config.placement
            if kind not in ENCODERS:
                raise InputError(
                    f"the places of {placement} in {kind} are not known: give target_modules"
                )
            place = getattr(ENCODERS[kind], placement)
            if place is None:
                raise InputError(
                    f"pfeiffer has no place in {kind}, which has no LayerNorm after a block's sum: "
                    "give placement=houlsby"
                )
            peft_config.target_modules = rf".*\.layers?\.\d+\.{place}"
        return peft_config

    def _check_target_module_exists(self, peft_config: BottleneckConfig, key: str) -> Any:
        """As peft's static method of this name, but not below the skipped layers."""
        layer = re.search(r"(?:^|\.)(\d+)\.", key)
        if layer and peft_config.skip_layers:
            depth = self.model.config.num_hidden_layers
            if int(layer[1]) < skipped_layers(peft_config.skip_layers, depth):
                return False
        return BaseTuner._check_target_module_exists(peft_config, key)

    def _create_and_replace(
        self, peft_config: BottleneckConfig, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        near = next(parent.parameters())  # dropout has no weight, its block has
        dtype = near.dtype if near.is_floating_point() else torch.float32
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target, dtype)
        base = layer.get_base_layer()
        weight = getattr(base, "weight", None)
        if peft_config.placement == "pfeiffer" and (weight is None or weight.ndim != 1):
            kind = type(base).__name__
            raise InputError(f"pfeiffer adapts LayerNorms; target module {current_key} is a {kind}")
        if weight is None:
            width = self.model.config.hidden_size
        else:
            width = weight.shape[1] if isinstance(base, Conv1D) else weight.shape[0]
        layer.add(adapter_name, width, peft_config, near.device)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Re-attach alone: peft's own copies `child.weight`, which dropout does not have."""
        setattr(parent, child_name, new_module)

    def own_parameters(self, adapter: str) -> Iterable[tuple[nn.Parameter, torch.dtype]]:
        return [
            (parameter, layer.base_dtype)
            for layer in self.model.modules()
            if isinstance(layer, BottleneckLayer) and adapter in layer.kinds
            for side in (layer.bottleneck_down, layer.bottleneck_up)
            for parameter in side[adapter].parameters()
        ]

    def _check_merge_allowed(self) -> None:
        raise InputError(
            "bottleneck adapters are not linear and cannot be merged; use them unmerged"
        )


register("bottleneck", BottleneckConfig, BottleneckModel)
