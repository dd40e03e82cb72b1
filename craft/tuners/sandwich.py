"""Tuners whose update of layer l is a sandwich, dW_l = U_l M_l V_l^T, with a small M_l and layers stacked by projection.

CRAFT, LoTR, SuperLoRA and LoRA-XS differ in what U, V and M are and in what trains; all else is here. A layer computes
x W^T + ((x V) M_l^T) U^T: no d x d object, no d x d gradient.

A *group* is one projection over the layers: all target modules whose path is the same but for the layer index, and whose
weight has the same shape. (So T5's encoder, decoder and cross attention are groups of their own.) The tensors of a group
live once, on the tuner, in containers keyed by adapter name: that is how peft saves them once, under names that do not
depend on the number of layers. The layers themselves hold unregistered views.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.tuners.group import Casts, Group, SmallMatrices, group_layers
from craft.tuners.layer import SandwichLayer


@dataclass
class SandwichConfig(PeftConfig):
    """What every sandwich tuner can be told; see the subclass for its own fields."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names or regex of the Linear modules to adapt; None takes peft's default of LoRA (q and v)."
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                setattr(self, name, set(value))
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError("layers_pattern is given without layers_to_transform")


class SandwichModel(BaseTuner):
    """Base of the tuners whose update is U_l M_l V_l^T; a subclass says what the three are.

    It implements `build` (make the tensors of a group), `small_matrices` and `outer_matrices`. Tensors are kept by `keep`
    under `<prefix><group>_<name>`, as a trained parameter or a frozen buffer, and read by `tensor`."""

    uses_shared_state = True
    tuner_layer_cls = SandwichLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        # before peft's own set-up, which injects the first adapter
        self.groups: dict[str, list[Group]] = {}
        self.small = SmallMatrices()
        self._casts = Casts()
        self._wrapped: dict[str, list[tuple[str, SandwichLayer]]] = {}
        super().__init__(model, *args, **kwargs)

    # ---- what a subclass says ----

    def build(self, adapter: str, config: Any, group: Group) -> None:
        """Make the tensors of one group, with `keep`."""
        raise NotImplementedError

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """All M_l of a group, (N, r_out, r_in), in float32 or wider."""
        raise NotImplementedError

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        """U (d_out, r_out) and V (d_in, r_in) of one layer."""
        raise NotImplementedError

    # ---- tensors ----

    def keep(
        self,
        adapter: str,
        group: Group,
        name: str,
        value: Tensor,
        trained: bool,
        saved: bool = True,
    ) -> None:
        """Register one tensor of a group: a float32 parameter, or a float32 buffer that is saved or not."""
        container = f"{self.prefix}{group.name}_{name}"
        value = value.detach().to(group.layers[0].matrix().device, torch.float32).contiguous()
        if not hasattr(self, container):
            setattr(
                self, container, nn.ParameterDict() if trained else BufferDict(persistent=saved)
            )
        getattr(self, container)[adapter] = nn.Parameter(value) if trained else value

    def tensor(self, adapter: str, group: Group, name: str) -> Tensor:
        return getattr(self, f"{self.prefix}{group.name}_{name}")[adapter]

    def containers(self, kind: type[nn.Module]) -> list[Any]:
        """The ParameterDicts (what trains) or the BufferDicts (what is frozen) of this tuner."""
        children = self.named_children()
        return [
            module
            for name, module in children
            if name.startswith(self.prefix) and isinstance(module, kind)
        ]

    def cast(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A tensor on another device or in another dtype; a frozen one is converted once and kept."""
        if tensor.dtype == dtype and tensor.device == device:
            return tensor
        return (
            tensor.to(device, dtype)
            if tensor.requires_grad
            else self._casts.of(tensor, device, dtype)
        )

    # ---- what peft calls ----

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Wrap the target modules, then group them and make their tensors.

        peft calls this for the first adapter and for every further one, so it is the one place to do so."""
        if self.get_model_config(model).get("model_type") == "albert":
            raise InputError(
                "albert shares one layer's weights over its depth; there are no layers to stack"
            )
        self._wrapped[adapter_name] = []
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self.groups[adapter_name] = group_layers(self._wrapped.pop(adapter_name))
        for group in self.groups[adapter_name]:
            if any(weight.is_meta for weight in group.weights()):
                raise InputError(
                    f"the weights of {group.name} are on the meta device; load them first"
                )
            self.build(adapter_name, self.peft_config[adapter_name], group)
            for index, layer in enumerate(group.layers):
                layer.places[adapter_name] = (self, group, index)
        if kwargs.get("low_cpu_mem_usage", False):  # trained tensors come from the adapter file
            for container in self.containers(nn.ParameterDict):
                if adapter_name in container:
                    container[adapter_name] = nn.Parameter(container[adapter_name].to("meta"))
        self._mark_only_tuner_tensors()

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, SandwichLayer):
            layer = target
        else:
            base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
            if type(base) not in (nn.Linear, Conv1D):  # a quantised Linear is a subclass
                kind = type(base).__name__
                raise InputError(
                    f"target module {current_key} is a {kind}; only Linear and Conv1D can be adapted"
                )
            layer = SandwichLayer(target)
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)
        self._wrapped[adapter_name].append((current_key, layer))

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Re-attach alone: peft's own copies `child.weight`, which a head kept by modules_to_save does not have."""
        setattr(parent, child_name, new_module)

    def _mark_only_tuner_tensors(self) -> None:
        """Train the active adapters that are not there for inference alone."""
        for container in self.containers(nn.ParameterDict):
            for adapter, parameter in container.items():
                config = self.peft_config.get(adapter)
                parameter.requires_grad_(
                    adapter in self.active_adapters
                    and config is not None
                    and not config.inference_mode
                )

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        self._mark_only_tuner_tensors()

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        for container in self.containers(nn.ParameterDict):
            for adapter, parameter in container.items():
                parameter.requires_grad_(adapter in self.active_adapters and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        super().set_requires_grad(adapter_names, requires_grad=requires_grad)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            for container in self.containers(nn.ParameterDict):
                if name in container:
                    container[name].requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.groups.pop(adapter_name, None)
        for name, container in [*self.named_children()]:
            if name.startswith(self.prefix) and adapter_name in container:
                del container[adapter_name]
                if len(container) == 0:
                    delattr(self, name)
        self._mark_only_tuner_tensors()

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        super().merge_adapter(*args, **kwargs)
        self._report_merge_loss(self._layers())

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        layers = self._layers()
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        self._report_merge_loss(layers)
        return model

    def _layers(self) -> list[SandwichLayer]:
        return [module for module in self.model.modules() if isinstance(module, SandwichLayer)]

    def _report_merge_loss(self, layers: list[SandwichLayer]) -> None:
        rounded = [
            m for m in layers if m.merged and m.matrix().dtype in (torch.bfloat16, torch.float16)
        ]
        if rounded:
            dtype, worst = rounded[0].matrix().dtype, max(layer.merge_loss for layer in rounded)
            mean = sum(layer.merge_loss for layer in rounded) / len(rounded)
            warnings.warn(
                f"merging into {str(dtype).removeprefix('torch.')} weights rounds the update: relative error "
                f"{mean:.2g} on average, {worst:.2g} at worst",
                stacklevel=3,
            )
