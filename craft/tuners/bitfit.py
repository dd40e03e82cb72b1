"""BitFit (arXiv 2106.10199) as a peft tuner: beside every bias b a vector delta trains, b + delta.

delta = 0 at the start. Training the biases themselves is the same function with the same gradient;
as deltas they leave the backbone as it was, so that disabling, merging and several adapters work.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import PeftType
from torch import Tensor, nn
from torch.func import functional_call

from craft.errors import InputError
from craft.tuners.registration import register
from craft.tuners.sandwich.tensors import wide
from craft.tuners.tuner import Tuner, TunerConfig, features


@dataclass
class BitFitConfig(TunerConfig):
    """Configuration of BitFit.

    The biases of an encoder of L layers, width d and feed-forward width f are L (7d + f) + d
    numbers: 102,144 on RoBERTa-base, 271,360 on RoBERTa-large; a pooler, as BERT has, adds d."""

    card_note = (
        "TRL (DPO, GRPO, KTO, RLOO) makes its reference of an adapter by names that the parameters "
        "of BitFit do not have; it would be the base model. Give the trainer a `ref_model`."
    )

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names or regex of the modules whose bias trains; None takes all of the "
            "backbone."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules to train and save whole, e.g. the classification head."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BITFIT")
        if isinstance(self.target_modules, list | tuple):
            self.target_modules = set(self.target_modules)  # as peft's own configs


def has_bias(module: nn.Module) -> bool:
    return isinstance(getattr(module, "bias", None), nn.Parameter)


class BitFitLayer(nn.Module, BaseTunerLayer):
    """A module with a bias, run with the deltas of its active adapters added to it."""

    adapter_layer_names: tuple[str, ...] = ("bitfit_delta",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = features(self.get_base_layer())
        self.bitfit_delta = nn.ParameterDict()
        self.merged_adapters: list[str] = []
        self.unmerged_bias: Tensor | None = None  # the exact bias, kept while merged
        self._disable_adapters = False

    def shifted(self, names: list[str]) -> Tensor:
        """b + delta, summed in float32 or wider and rounded to the dtype of b once."""
        bias: Any = self.get_base_layer().bias
        delta = torch.stack([wide(self.bitfit_delta[name]) for name in names]).sum(0)
        return (bias + delta).to(bias.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.bitfit_delta]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        return self._with_bias(self.shifted(names), x, *args, **kwargs)

    def _with_bias(self, bias: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer with another bias, wherever it looks for its own."""
        base, own = self.base_layer, vars(self.base_layer)
        if "bias" in own:  # FSDP1 puts what its parameter holds in a forward before the parameter
            held, own["bias"] = own["bias"], bias
            try:
                return base(x, *args, **kwargs)
            finally:
                own["bias"] = held
        if "bias" not in base._parameters:
            raise InputError(
                f"a {type(base).__name__} stands between BitFit and the bias: wrap layers of the "
                "model for FSDP, not the modules with a bias"
            )
        return functional_call(base, {"bias": bias}, (x, *args), kwargs)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        names = check_adapters_to_merge(self, adapter_names)
        names = [name for name in names if name in self.bitfit_delta]
        if not names:
            return
        merged = self.shifted(names)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"the biases of adapter {', '.join(names)} hold NaN or inf values")
        bias = self.get_base_layer().bias
        if self.unmerged_bias is None:
            self.unmerged_bias = bias.data
        bias.data = merged
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the exact biases back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.get_base_layer().bias.data = self.unmerged_bias
        self.unmerged_bias = None
        self.merged_adapters.clear()


class BitFitModel(Tuner):
    """Wraps every module that has a bias."""

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer

    def _prepare_adapter_config(
        self, peft_config: BitFitConfig, model_config: dict
    ) -> BitFitConfig:
        """Name all modules of the backbone with a bias; a model without head is all backbone."""
        if peft_config.target_modules is None:
            backbone = getattr(self.model, "base_model_prefix", "")
            prefix = f"{backbone}." if backbone and hasattr(self.model, backbone) else ""
            peft_config.target_modules = {
                name.replace(".base_layer", "")
                for name, module in self.model.named_modules()
                if name.startswith(prefix) and has_bias(module)
            }
            if not peft_config.target_modules:
                raise InputError("BitFit trains biases, and the base model has none")
        return peft_config

    def _create_and_replace(
        self, peft_config: BitFitConfig, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        if not has_bias(target):
            raise InputError(f"target module {current_key}, a {type(target).__name__}, has no bias")
        layer = target if isinstance(target, BitFitLayer) else BitFitLayer(target)
        zero = torch.zeros_like(layer.get_base_layer().bias, dtype=torch.float32)
        layer.bitfit_delta[adapter_name] = nn.Parameter(zero)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Re-attach alone: peft's own copies `child.weight`, which a saved head does not have."""
        setattr(parent, child_name, new_module)

    def own_parameters(self, adapter: str) -> Iterable[tuple[nn.Parameter, torch.dtype]]:
        for layer in self.model.modules():
            if isinstance(layer, BitFitLayer) and adapter in layer.bitfit_delta:
                bias: Any = layer.get_base_layer().bias
                yield layer.bitfit_delta[adapter], bias.dtype


register("bitfit", BitFitConfig, BitFitModel)
