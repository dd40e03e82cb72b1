"""The layer of a sandwich tuner: a Linear with the updates of its active adapters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from craft.tuners.sandwich.group import Group
from craft.tuners.tuner import features

if TYPE_CHECKING:
    from craft.tuners.sandwich.model import SandwichModel


class SandwichLayer(nn.Module, BaseTunerLayer):
    """A Linear (or Conv1D) with the updates of its active adapters; owns none of their tensors."""

    adapter_layer_names: tuple[str, ...] = ("trained",)
    other_param_names: tuple[str, ...] = ("places",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = features(self.get_base_layer())
        # adapter -> its tuner, the group, the index in the group
        self.places: dict[str, tuple[SandwichModel, Group, int]] = {}
        self._view = (nn.ModuleDict(),)  # in a tuple, since the tuner owns the tensors
        self.merged_adapters: list[str] = []
        self.unmerged_weight: Tensor | None = None  # the exact weight, kept while merged
        self.merge_loss = 0.0
        self._disable_adapters = False

    def matrix(self) -> Tensor:
        """The base weight as (d_out, d_in)."""
        return self.weight.T if isinstance(self.get_base_layer(), Conv1D) else self.weight

    @property
    def trained(self) -> nn.ModuleDict:
        """What trains of each adapter, for peft's status; the tuner owns it and trains it."""
        (view,) = self._view
        view.clear()
        for adapter, (tuner, group, _) in self.places.items():
            view[adapter] = nn.ParameterList(tuner.trained_tensors(adapter, group))
        return view

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        self._active_adapter = adapter_names

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """The tuner's business."""

    def enable_adapters(self, enabled: bool) -> None:
        self._disable_adapters = not enabled

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter in self.active_adapters:
            if adapter in self.places:
                result = result + self._update(x, adapter)
        return result

    def _update(self, x: Tensor, adapter: str) -> Tensor:
        """((x V) M_l^T) U^T, in the dtype of the base layer's own product."""
        tuner, group, index = self.places[adapter]
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(x.device.type)
        u, v = tuner.outer_matrices(adapter, group, index)
        small = tuner.small.of_layer(tuner, adapter, group, index, x.device, dtype)
        u, v = tuner.cast(u, x.device, dtype), tuner.cast(v, x.device, dtype)
        return ((x.to(dtype) @ v) @ small.T) @ u.T

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW_l = U_l M_l V_l^T as the base weight lies, in float32 or wider.

        (d_out, d_in), or (d_in, d_out) of a Conv1D; peft's `convert_to_lora` takes it so."""
        tuner, group, index = self.places[adapter]
        device = self.matrix().device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            u, v = (t.to(device) for t in tuner.outer_matrices(adapter, group, index))
            small = tuner.small_matrices(adapter, group)[index].to(device)
            delta = u.to(small.dtype) @ small @ v.to(small.dtype).T
            return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A (r, d_in) and B (d_out, r): B A = dW_l, r = min(r_out, r_in), in float32 or wider.

        The small matrix goes to the side that keeps the rank low: B = U M_l, or A = M_l V^T."""
        tuner, group, index = self.places[adapter]
        device = self.matrix().device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            u, v = (t.to(device) for t in tuner.outer_matrices(adapter, group, index))
            small = tuner.small_matrices(adapter, group)[index].to(device)
            u, v = u.to(small.dtype), v.to(small.dtype)
            b, a = (u @ small, v.T) if small.shape[1] <= small.shape[0] else (u, small @ v.T)
            return a.contiguous(), b.contiguous()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Asked by peft's `convert_to_lora`, which fits a LoRA of a given rank by SVD."""
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the base weight: in float32 or wider, rounded to its dtype once.

        `merge_loss` is then the norm of what rounding lost over the norm of the update."""
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.places]
        if not names:
            return
        weight, merged = self.weight, [*self.merged_adapters, *names]
        delta = torch.stack([self.get_delta_weight(name) for name in merged]).sum(0)
        if safe_merge and not torch.isfinite(delta).all():
            raise ValueError(f"the update of adapter {', '.join(names)} holds NaN or inf values")
        frozen = weight.data.clone() if self.unmerged_weight is None else self.unmerged_weight
        wide = torch.promote_types(weight.dtype, delta.dtype)
        exact = frozen.to(weight.device, wide) + delta
        rounded = exact.to(weight.dtype)
        lost = (rounded.to(wide) - exact).norm()
        self.merge_loss = float(lost / delta.norm().clamp_min(1e-30))
        weight.data = rounded.contiguous()
        self.unmerged_weight, self.merged_adapters = frozen, merged

    def unmerge(self) -> None:
        """Put the exact base weight back."""
        if self.unmerged_weight is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.weight.data = self.unmerged_weight.to(self.weight.device, self.weight.dtype)
        self.unmerged_weight, self.merged_adapters = None, []


def report_merge_loss(layers: list[SandwichLayer]) -> None:
    """Warn of what merging into 16-bit weights has lost."""
    sixteen = (torch.bfloat16, torch.float16)
    rounded = [layer for layer in layers if layer.merged and layer.matrix().dtype in sixteen]
    if rounded:
        dtype = str(rounded[0].matrix().dtype).removeprefix("torch.")
        losses = [layer.merge_loss for layer in rounded]
        warnings.warn(
            f"merging into {dtype} weights rounds the update: relative error "
            f"{sum(losses) / len(losses):.2g} on average, {max(losses):.2g} at worst",
            stacklevel=3,
        )
