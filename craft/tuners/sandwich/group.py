"""A group: one projection over the layers, whose weights are stacked to one tensor.

And what is kept of it in a forward: its small matrices, and casts of its frozen tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from craft.errors import InputError

if TYPE_CHECKING:
    from craft.tuners.sandwich.layer import SandwichLayer
    from craft.tuners.sandwich.model import SandwichModel


@dataclass
class Group:
    """One projection over the layers it is adapted in, in layer order."""

    name: str
    layers: list[SandwichLayer]
    path: str = ""  # of its modules in the model, the layer index as N

    @property
    def shape(self) -> tuple[int, int, int]:
        """(number of layers, d_out, d_in)."""
        d_out, d_in = self.layers[0].matrix().shape
        return len(self.layers), d_out, d_in

    def weights(self) -> list[Tensor]:
        """The frozen weights W_l, each (d_out, d_in)."""
        return [layer.matrix() for layer in self.layers]


def layer_index(path: str) -> tuple[str, int | None]:
    """A path with the layer index in it as N, and the index: its first part that is a number."""
    parts = path.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if place is None:
        return path, None
    return ".".join([*parts[:place], "N", *parts[place + 1 :]]), int(parts[place])


def group_layers(wrapped: list[tuple[str, SandwichLayer]], blocks: int = 1) -> list[Group]:
    """Group (path, layer) pairs by weight shape and path, the layer index in it aside.

    The layers of a group are cut into `blocks` runs of consecutive layers, the first ones longer by
    one where they do not divide.
    """
    found: dict[tuple[str, tuple[int, ...]], list[tuple[int, SandwichLayer]]] = {}
    for path, layer in wrapped:
        starred, index = layer_index(path)
        found.setdefault((starred, tuple(layer.matrix().shape)), []).append((index or 0, layer))
    groups = []
    for name, ((path, _), layers) in zip(_short_names([*found]), found.items(), strict=True):
        ordered = [layer for _, layer in sorted(layers, key=lambda pair: pair[0])]
        groups += _cut(Group(name, ordered, path), blocks)
    return groups


def _cut(group: Group, blocks: int) -> list[Group]:
    if blocks == 1:
        return [group]
    if blocks > len(group.layers):
        raise InputError(
            f"layer_blocks {blocks} exceeds the {len(group.layers)} layers of {group.name}"
        )
    length, longer = divmod(len(group.layers), blocks)
    starts = [i * length + min(i, longer) for i in range(blocks + 1)]
    return [
        Group(f"{group.name}_block{i}", group.layers[start:stop], group.path)
        for i, (start, stop) in enumerate(itertools.pairwise(starts))
    ]


def _short_names(keys: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """The shortest end of each group's path that tells it from the others, dots as underscores."""
    paths = [path.split(".") for path, _ in keys]
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["_".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    shapes = ["x".join(map(str, shape)) for _, shape in keys]
    return ["_".join([*path, shape]) for path, shape in zip(paths, shapes, strict=True)]


@dataclass
class _Made:
    """The M_l of one group in one forward, and what tells whether they still serve."""

    matrices: tuple[Tensor, ...]
    with_graph: bool
    sources: list[tuple[Tensor, int]]  # the trained tensors they were made from, with versions
    served: set[int]  # the layers that have asked

    def serves(self, index: int) -> bool:
        return index not in self.served and all(_version(t) == v for t, v in self.sources)


class SmallMatrices:
    """The M_l of all layers of a group, made once a forward by whichever layer runs first.

    A layer that asks a second time starts a new forward. During backward (activation checkpointing
    runs layers again) the matrices of the forward serve, and none are made anew: they were made
    under identity saved-tensor hooks, so that checkpointing neither counts nor drops what their
    graph holds. Reentrant checkpointing, whose forward has no graph, gets matrices of its own for
    each layer it runs again."""

    def __init__(self) -> None:
        self.made: dict[tuple, _Made] = {}

    def __deepcopy__(self, memo: dict) -> SmallMatrices:
        return SmallMatrices()  # a graph cannot be copied, and belongs to the other model

    def __reduce__(self) -> tuple:
        return SmallMatrices, ()

    def of_layer(
        self,
        tuner: SandwichModel,
        adapter: str,
        group: Group,
        index: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        key, graph = (adapter, group.name, device, dtype), torch.is_grad_enabled()
        in_backward = torch._C._current_graph_task_id() != -1
        made = self.made.get(key)
        if made is None or made.with_graph != graph or not (in_backward or made.serves(index)):
            stack = self._make(tuner, adapter, group, device, dtype)
            if in_backward:
                return stack[index]
            sources = [(t, _version(t)) for t in tuner.trained_tensors(adapter, group)]
            # one unbind, whose backward is one stack; an index for each layer would fill as many
            made = self.made[key] = _Made(stack.unbind(), graph, sources, served := set())
            if stack.requires_grad:
                stack.register_hook(lambda _gradient: self._forget(key, served))
        made.served.add(index)
        return made.matrices[index]

    def _make(
        self,
        tuner: SandwichModel,
        adapter: str,
        group: Group,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        identity = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
        with torch.autocast(device.type, enabled=False), identity:
            return tuner.small_matrices(adapter, group).to(device, dtype)

    def _forget(self, key: tuple, served: set[int]) -> None:
        """Backward has gone through these matrices: their graph is used up."""
        if key in self.made and self.made[key].served is served:
            del self.made[key]


class Casts:
    """Frozen tensors in another dtype or on another device, converted once."""

    def __init__(self) -> None:
        # tensor -> (device, dtype) -> its version then, its cast
        self.kept: MutableMapping[Tensor, dict[tuple, tuple[int, Tensor]]]
        self.kept = WeakTensorKeyDictionary()

    def __deepcopy__(self, memo: dict) -> Casts:
        return Casts()

    def __reduce__(self) -> tuple:
        return Casts, ()

    def of(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        casts, now = self.kept.setdefault(tensor, {}), _version(tensor)
        then, cast = casts.get((device, dtype), (-1, None))
        if cast is None or then != now:
            with torch.inference_mode(False):  # kept for training as well
                cast = tensor.to(device, dtype)
            casts[device, dtype] = now, cast
        return cast


def _version(tensor: Tensor) -> int:
    """Counts changes in place; a tensor of inference mode has no such count."""
    return 0 if tensor.is_inference() else tensor._version
