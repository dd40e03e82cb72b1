"""The tensors of a tuner, each once, keyed by adapter name: what trains, and what is frozen.

peft saves them as they lie here, under names that do not depend on the number of layers.
"""

from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from craft.tuners.sandwich.group import Casts, Group


class Leaf(nn.Module):
    """One parameter; in an adapter's file it has the name of this module."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight


class Leaves(nn.ParameterDict):
    """A parameter for each adapter, named `<adapter>.weight` among the model's parameters.

    As LoRA's are: TRL copies an adapter by the parameters with `.default.` in their names."""

    def __setitem__(self, key: str, value: Any) -> None:
        self._keys[key] = None
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach())
        self._modules[key] = Leaf(parameter)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key].weight  # type: ignore[union-attr]


# an older peft, whose files have the names of the parameters, keeps the plain ones
Trained = Leaves if hasattr(BaseTuner, "_get_adapter_state_dict") else nn.ParameterDict


def as_in_a_file(model: nn.Module) -> dict[str, str]:
    """The names of all leaves' weights in a state -> their names in an adapter's file."""
    leaves = (name for name, module in model.named_modules() if isinstance(module, Leaf))
    names = [name.replace("_fsdp_wrapped_module.", "") for name in leaves]
    return {f"{name}.weight": name for name in names}


class SharedTensors(nn.Module):
    """Containers `<prefix><group>_<name>` of a tuner, with one entry for each adapter."""

    prefix: str
    _casts: Casts

    def keep(
        self,
        adapter: str,
        group: Group,
        name: str,
        value: Tensor,
        trained: bool,
        saved: bool = True,
    ) -> None:
        """Register a tensor of a group: a float32 parameter, or a float32 buffer, saved or not."""
        container = f"{self.prefix}{group.name}_{name}"
        value = value.detach().to(group.layers[0].matrix().device, torch.float32).contiguous()
        if not hasattr(self, container):
            setattr(self, container, Trained() if trained else BufferDict())
        if trained:
            getattr(self, container)[adapter] = nn.Parameter(value)
        else:
            getattr(self, container).register_buffer(adapter, value, persistent=saved)

    def tensor(self, adapter: str, group: Group, name: str) -> Tensor:
        return getattr(self, f"{self.prefix}{group.name}_{name}")[adapter]

    def find(self, adapter: str, group: Group, name: str) -> Tensor | None:
        """The tensor, in float32 or wider, or None where this adapter has none of that name."""
        container = getattr(self, f"{self.prefix}{group.name}_{name}", {})
        return wide(container[adapter]) if adapter in container else None

    def trained_tensors(self, adapter: str, group: Group) -> list[Tensor]:
        """What trains of a group (and of any whose name goes on from its name)."""
        return [
            container[adapter]
            for container in self.containers(Trained, f"{group.name}_")
            if adapter in container
        ]

    def containers(self, kind: type[nn.Module], start: str = "") -> list[Any]:
        """Those of Trained (what trains) or the BufferDicts (what is frozen) of this tuner."""
        return [
            module
            for name, module in self.named_children()
            if name.startswith(self.prefix + start) and isinstance(module, kind)
        ]

    def cast(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A tensor on a device and in a dtype; a frozen one is converted once and kept."""
        if tensor.dtype == dtype and tensor.device == device:
            return tensor
        if tensor.requires_grad:
            return tensor.to(device, dtype)
        return self._casts.of(tensor, device, dtype)


def wide(tensor: Tensor) -> Tensor:
    """In float32, or wider as it was: the small product is never made in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
