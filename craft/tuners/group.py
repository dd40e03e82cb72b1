"""A group: one projection over the layers, whose weights are stacked to one tensor; and what a forward keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from craft.tuners.sandwich import SandwichLayer, SandwichModel


@dataclass
class Group:
    """One projection over the layers it is adapted in, in layer order."""

    name: str
    layers: list["SandwichLayer"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(number of layers, d_out, d_in)."""
        return len(self.layers), *self.layers[0].matrix().shape

    def weights(self) -> list[Tensor]:
        """The frozen weights W_l, each (d_out, d_in)."""
        return [layer.matrix() for layer in self.layers]


def group_layers(wrapped: list[tuple[str, SandwichLayer]]) -> list[Group]:
    """Group (path, layer) pairs: same path but for the layer index (the first whole-number part), same weight shape."""
    found: dict[tuple[str, tuple[int, ...]], list[tuple[int, SandwichLayer]]] = {}
    for path, layer in wrapped:
        parts = path.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        index = 0 if place is None else int(parts[place])
        if place is not None:
            parts[place] = "N"
        found.setdefault((".".join(parts), tuple(layer.matrix().shape)), []).append((index, layer))
    return [
        Group(name, [layer for _, layer in sorted(layers, key=lambda pair: pair[0])])
        for name, layers in zip(_short_names([*found]), found.values(), strict=True)
    ]


def _short_names(keys: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """A name for each group: the shortest end of its path that tells it from the others, dots as underscores."""
    paths = [path.split(".") for path, _ in keys]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["_".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    shapes = ["x".join(map(str, shape)) for _, shape in keys]
    return ["_".join([*path, shape]) for path, shape in zip(paths, shapes, strict=True)]


class SmallMatrices:
    """The M_l of all layers of a group, made once a forward by whichever layer runs first.

    A layer that asks a second time starts a new forward. During backward (activation checkpointing runs layers again) the
    matrices of the forward serve, and none are made anew: they were made under identity saved-tensor hooks, so that
    checkpointing neither counts nor drops what their graph holds. Reentrant checkpointing, whose forward has no graph,
    gets matrices of its own for each layer it runs again."""

    def __init__(self) -> None:
        self.made: dict[
            tuple, tuple[Tensor, bool, set[int]]
        ] = {}  # matrices, with a graph?, served layers

    def __deepcopy__(self, memo: dict) -> SmallMatrices:
        return SmallMatrices()  # a graph cannot be copied, and belongs to the other model

    def __reduce__(self) -> tuple:
        return SmallMatrices, ()

    def of_layer(
        self, tuner: SandwichModel, adapter: str, group: Group, index: int, device: torch.device
    ) -> Tensor:
        key, graph = (adapter, group.name, device), torch.is_grad_enabled()
        small, with_graph, served = self.made.get(key, (None, graph, {index}))
        in_backward = torch._C._current_graph_task_id() != -1
        if small is None or with_graph != graph or (index in served and not in_backward):
            small, served = self._make(tuner, adapter, group, device), set()
            if in_backward:
                return small[index]
            self.made[key] = small, graph, served
            if small.requires_grad:
                small.register_hook(lambda _gradient: self._forget(key, served))
        served.add(index)
        return small[index]

    def _make(
        self, tuner: SandwichModel, adapter: str, group: Group, device: torch.device
    ) -> Tensor:
        identity = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
        with torch.autocast(device.type, enabled=False), identity:
            return tuner.small_matrices(adapter, group).to(device)

    def _forget(self, key: tuple, served: set[int]) -> None:
        """Backward has gone through these matrices: their graph is used up."""
        if key in self.made and self.made[key][2] is served:
            del self.made[key]


class Casts:
    """Frozen tensors in another dtype or on another device, converted once."""

    def __init__(self) -> None:
        self.kept: dict[tuple, tuple[Tensor, int, Tensor]] = {}

    def __deepcopy__(self, memo: dict) -> "Casts":
        return Casts()

    def __reduce__(self) -> tuple:
        return Casts, ()

    def of(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (id(tensor), device, dtype)
        source, version, cast = self.kept.get(key, (None, -1, None))
        if source is not tensor or version != tensor._version or cast is None:
            cast = tensor.to(device, dtype)
            self.kept[key] = (tensor, tensor._version, cast)
        return cast
