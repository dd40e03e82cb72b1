"""Tuners whose update of layer l is a sandwich, dW_l = U_l M_l V_l^T, with a small M_l.

CRAFT, LoTR, SuperLoRA and LoRA-XS differ in what U, V and M are and in what trains; all else is
here. A layer computes x W^T + ((x V) M_l^T) U^T: no d x d object, no d x d gradient.

A *group* is one projection over the layers: all target modules whose path is the same but for the
layer index, and whose weight has the same shape. (So T5's encoder, decoder and cross attention are
groups of their own.) The tensors of a group live once, on the tuner, in containers keyed by adapter
name: that is how peft saves them once, under names that do not depend on the number of layers. The
layers themselves hold unregistered views.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, delete_adapter
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from craft.errors import InputError
from craft.tuners.sandwich.backbone import check_backbone, refuse_model, refuse_weights
from craft.tuners.sandwich.group import Casts, Group, SmallMatrices, group_layers
from craft.tuners.sandwich.layer import SandwichLayer, report_merge_loss
from craft.tuners.sandwich.tensors import SharedTensors, Trained
from craft.tuners.targets import TARGET_MODULES, SandwichConfig, check_targets, is_linear
from craft.tuners.tuner import Tuner, widest

__all__ = ["SandwichConfig", "SandwichModel"]


class SandwichModel(SharedTensors, Tuner):
    """Base of the tuners whose update is U_l M_l V_l^T; a subclass says what the three are.

    It implements `build` (make the tensors of a group), `small_matrices` and `outer_matrices`.
    Tensors are kept by `keep` under `<prefix><group>_<name>`, as a trained parameter or a frozen
    buffer, and read by `tensor`."""

    tuner_layer_cls = SandwichLayer
    target_module_mapping = TARGET_MODULES  # type: ignore[assignment]

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        # before peft's own set-up, which injects the first adapter
        self.groups: dict[str, list[Group]] = {}
        # adapter -> what attaching found out, for its file: the config may serve other models too
        self.found: dict[str, dict[str, Any]] = {}
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

    # ---- attaching ----

    def _check_injection(self, peft_config: PeftConfig | dict[str, PeftConfig]) -> None:
        if isinstance(peft_config, PeftConfig):  # for a PeftModel it is a dict
            raise InputError(
                f"{type(self).__name__} keeps its tensors on the tuner, as shared state of the "
                "layers: take get_peft_model, not inject_adapter_in_model or model.add_adapter"
            )

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Wrap the target modules, then group them and make their tensors; or leave all as it was.

        peft calls this for the first adapter and for every further one: the one place to do so."""
        refuse_model(model, self.get_model_config(model).get("model_type"))
        check_targets(model, self.peft_config[adapter_name])
        others = [(parameter, parameter.requires_grad) for _, parameter in self._trained()]
        self._wrapped[adapter_name] = []
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            self._build_groups(adapter_name)
            self._mark_only_tuner_tensors()
        except Exception:
            self._withdraw(model, adapter_name)
            raise
        finally:
            del self._wrapped[adapter_name]
            for parameter, trains in others:
                parameter.requires_grad_(trains)
        if kwargs.get("low_cpu_mem_usage", False):  # trained tensors come from the adapter file
            for container in self.containers(Trained):
                if adapter_name in container:
                    made = container[adapter_name]
                    container[adapter_name] = nn.Parameter(made.to("meta"), made.requires_grad)

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str,
        parent: nn.Module, current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, SandwichLayer):
            layer = target
        else:
            base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
            if not is_linear(base):
                special = isinstance(base, nn.Linear)
                raise InputError(
                    f"target module {current_key} is a {type(base).__name__}; only Linear and "
                    f"Conv1D can be adapted{', plain and not quantised' if special else ''}"
                )
            layer = SandwichLayer(target)
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)
        self._wrapped[adapter_name].append((current_key, layer))

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Re-attach alone: peft's own copies `child.weight`, which a head in a wrapper has not."""
        setattr(parent, child_name, new_module)
        if isinstance(child, SandwichLayer):
            child.unmerged_weight = None  # unloaded, it will not be unmerged

    def _build_groups(self, adapter: str) -> None:
        owners: dict[int, str] = {}
        for path, layer in self._wrapped[adapter]:
            owner = owners.setdefault(id(layer.weight), path)
            if owner != path:
                raise InputError(f"target modules {owner} and {path} share one weight")
        config = self.peft_config[adapter]
        groups = group_layers(self._wrapped[adapter], getattr(config, "layer_blocks", 1))
        for group in groups:
            refuse_weights(group)
        self.groups[adapter] = groups
        self.found[adapter] = {"backbone": check_backbone(config, groups)}
        for group in groups:
            self.build(adapter, config, group)
            for index, layer in enumerate(group.layers):
                layer.places[adapter] = (self, group, index)
        config.found = self.found[adapter]

    def _withdraw(self, model: nn.Module, adapter: str) -> None:
        """Undo the attachment of an adapter that was refused half-way."""
        delete_adapter(model, adapter, self.prefix, SandwichLayer)
        self._drop_tensors(adapter)
        idle = {
            path: layer.base_layer for path, layer in self._wrapped[adapter] if not layer.places
        }
        for path, module in model.named_modules():
            if isinstance(module, ModulesToSaveWrapper) and not module.modules_to_save:
                idle[path] = module.original_module
        for path, original in idle.items():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, original)

    # ---- which adapter trains; peft asks its layers, which own nothing here ----

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(adapter, parameter) of all that trains."""
        for container in self.containers(Trained):
            yield from container.items()

    def own_parameters(self, adapter: str) -> Iterable[tuple[nn.Parameter, torch.dtype]]:
        """The widest dtype of all its layers, since they share what trains."""
        dtype = widest(layer.weight for group in self.groups[adapter] for layer in group.layers)
        return [(parameter, dtype) for name, parameter in self._trained() if name == adapter]

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        self.small = SmallMatrices()

    def _mark_only_tuner_tensors(self) -> None:
        """Train the active adapters that are not there for inference alone."""
        for adapter, parameter in self._trained():
            config = self.peft_config.get(adapter)
            learns = config is not None and not config.inference_mode
            parameter.requires_grad_(learns and adapter in self.active_adapters)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        self._mark_only_tuner_tensors()

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        for adapter, parameter in self._trained():
            parameter.requires_grad_(adapter in self.active_adapters and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        super().set_requires_grad(adapter_names, requires_grad=requires_grad)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for adapter, parameter in self._trained():
            if adapter in names:
                parameter.requires_grad_(requires_grad)

    # ---- deleting ----

    def delete_adapter(self, adapter_name: str) -> None:
        active = self.active_adapters
        super().delete_adapter(adapter_name)
        self._drop_tensors(adapter_name)
        if self.active_adapters != active:
            self._mark_only_tuner_tensors()

    def _drop_tensors(self, adapter: str) -> None:
        self.groups.pop(adapter, None)
        self.found.pop(adapter, None)
        self.small = SmallMatrices()
        for name, container in [*self.named_children()]:
            if name.startswith(self.prefix) and adapter in container:
                del container[adapter]
                if len(container) == 0:
                    delattr(self, name)

    # ---- saving ----

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """peft asks for the state before it saves a config, which then tells of this model."""
        super()._save_to_state_dict(*args, **kwargs)
        for adapter, found in self.found.items():
            self.peft_config[adapter].found = found

    # ---- merging ----

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        super().merge_adapter(*args, **kwargs)
        report_merge_loss(self._layers())

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        layers = self._layers()
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        report_merge_loss(layers)
        return model

    def _layers(self) -> list[SandwichLayer]:
        return [module for module in self.model.modules() if isinstance(module, SandwichLayer)]
