"""Vertical LoRA (arXiv 2406.09315): a backbone whose layers are low-rank increments of others.

Layers come in compounds of consecutive ones. The first layer of a compound keeps its weights; each
later one has, for every chosen projection,

    W_l = W_ref + B_l A_l,    B (d_out, r), A (r, d_in),

W_ref being the weight of the previous layer (the paper's text) or of the compound's first (the
authors' code). The paper trains such a model from its first step. Here a pre-trained one is made
into one: B_l A_l is the truncated singular value decomposition of W_l - W_ref, so the model starts
near the pre-trained one, and the error of each weight is reported. Biases and norms stay as they
are. The approximated weights are plain weights of the model: any adapter goes on top.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.files import read_tensors, write_tensors
from craft.tuners.lora_xs import truncated_svd
from craft.tuners.sandwich.group import layer_index
from craft.tuners.targets import is_linear

REFERENCES = ("previous", "first")


@dataclass(frozen=True)
class Increment:
    """B A of one weight, the module that it is added to, and ||W_ref + B A - W|| / ||W||."""

    reference: str
    a: Tensor
    b: Tensor
    error: float


@dataclass(frozen=True)
class Vertical:
    """A backbone made vertical: its increments by module name, in layer order, and its size.

    The parameters are those of the encoder or decoder alone, a head not counted; after, a weight
    that is an increment counts r (d_out + d_in)."""

    model: nn.Module
    increments: dict[str, Increment]
    parameters_before: int
    parameters_after: int

    @property
    def errors(self) -> dict[str, float]:
        return {name: increment.error for name, increment in self.increments.items()}

    def facts(self) -> dict[str, Any]:
        """What a record keeps: parameters before and after, and the error of each weight."""
        return {
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "errors": self.errors,
        }

    def write(self, path: Path) -> None:
        """The increments alone, as one safetensors file: with the first layers, the whole model."""
        tensors, facts = {}, []
        for name, increment in self.increments.items():
            tensors |= {f"{name}.A": increment.a, f"{name}.B": increment.b}
            facts.append([name, increment.reference, increment.error])
        write_tensors(path, tensors, {"increments": facts})


@torch.no_grad()
def make_vertical(
    model: nn.Module,
    rank: int,
    reference: str = "previous",
    compound: int = 4,
    target_modules: Sequence[str] | str | None = None,
) -> Vertical:
    """Replace the weights of a model's layers by increments of `rank`, in place.

    `target_modules` are names or a regex as in peft; None takes every Linear and Conv1D of the
    layers. The difference is taken from W_ref as it stands, itself approximated where it is an
    increment too, so that errors do not add up over the layers of a compound."""
    for name, value in (("rank", rank), ("compound", compound)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a positive integer, not {value!r}")
    if reference not in REFERENCES:
        raise InputError(f"reference {reference!r} is not one of {', '.join(REFERENCES)}")
    stacks = _stacks(model, target_modules)
    before, increments = _size(model), {}
    for stack in stacks:
        for start in range(0, len(stack), compound):
            (first, _), *later = stack[start : start + compound]
            base = first
            for name, module in later:
                w, w_ref = _matrix(module), _matrix(model.get_submodule(base))
                b, a = truncated_svd(w.double() - w_ref.double(), min(rank, *w.shape))
                a, b = a.float().contiguous(), b.float().contiguous()
                added = _added(w_ref, a, b, w.dtype)
                error = float((added.double() - w.double()).norm() / w.double().norm())
                _matrix(module).copy_(added)
                increments[name] = Increment(base, a, b, error)
                base = name if reference == "previous" else first
    return Vertical(model, increments, before, _size_after(model, before, increments))


@torch.no_grad()
def read_vertical(model: nn.Module, path: Path) -> Vertical:
    """Put the increments of a file on a model that has the weights of the first layers."""
    tensors, facts = read_tensors(path)
    before, increments = _size(model), {}
    for name, base, error in facts["increments"]:
        a, b = tensors[f"{name}.A"], tensors[f"{name}.B"]
        weight = _matrix(model.get_submodule(name))
        weight.copy_(_added(_matrix(model.get_submodule(base)), a, b, weight.dtype))
        increments[name] = Increment(base, a, b, error)
    return Vertical(model, increments, before, _size_after(model, before, increments))


def _added(w_ref: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """W_ref + B A, rounded once."""
    a, b = a.to(w_ref.device), b.to(w_ref.device)
    return (w_ref.double() + b.double() @ a.double()).to(dtype)


def _matrix(module: nn.Module) -> Tensor:
    """The weight as (d_out, d_in), a view: what is copied into it is in the module."""
    weight: Any = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def _stacks(
    model: nn.Module, target_modules: Sequence[str] | str | None
) -> list[list[tuple[str, nn.Module]]]:
    """The chosen projections, each as its modules in layer order."""
    found: dict[tuple[str, tuple[int, ...]], list[tuple[int, str, nn.Module]]] = {}
    for path, module in model.named_modules():
        starred, index = layer_index(path)
        if index is not None and is_linear(module) and _chosen(path, target_modules):
            key = starred, tuple(module.weight.shape)
            found.setdefault(key, []).append((index, path, module))
    stacks = [[(path, m) for _, path, m in sorted(s, key=lambda t: t[0])] for s in found.values()]
    if not any(len(stack) > 1 for stack in stacks):
        raise InputError(f"no layers to take increments of: target modules {target_modules}")
    owners: dict[int, str] = {}
    for path, module in (pair for stack in stacks for pair in stack):
        owner = owners.setdefault(id(module.weight), path)
        if owner != path:
            raise InputError(f"target modules {owner} and {path} share one weight")
    return stacks


def _chosen(path: str, target_modules: Sequence[str] | str | None) -> bool:
    if target_modules is None:
        return True
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, path) is not None
    return any(f".{path}".endswith(f".{name}") for name in target_modules)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in _backbone(model).parameters())


def _backbone(model: nn.Module) -> nn.Module:
    """The encoder or decoder without its head, where the model tells it apart."""
    return getattr(model, "base_model", model)


def _size_after(model: nn.Module, before: int, increments: dict[str, Increment]) -> int:
    def saved() -> Iterator[int]:
        for name, increment in increments.items():
            yield _matrix(model.get_submodule(name)).numel()
            yield -increment.a.numel() - increment.b.numel()

    return before - sum(saved())
