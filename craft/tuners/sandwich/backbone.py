"""The backbone that an adapter belongs to: what cannot be one, and how one is known again."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from craft.errors import InputError
from craft.files import tensor_bytes
from craft.tuners.sandwich.group import Group

FORMAT = 1  # of an adapter's file: the names of its tensors, and what its config must hold


# ---- what cannot be one

_shapes_alone: ContextVar[bool] = ContextVar("_shapes_alone", default=False)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Let adapters be attached to weights on the meta device: to be counted, not to be run."""
    before = _shapes_alone.set(True)
    try:
        yield
    finally:
        _shapes_alone.reset(before)


def refuse_model(model: nn.Module, model_type: str | None) -> None:
    """InputError for a model whose weights, by its own account, are not there to be stacked."""
    if model_type == "albert":
        raise InputError(
            "albert shares one layer's weights over its depth; there are no layers to stack"
        )
    quantised = getattr(model, "quantization_method", None)
    if quantised or getattr(model, "is_quantized", False):
        kind = getattr(quantised, "value", quantised) or "unnamed method"
        raise InputError(f"the backbone is quantised ({kind}): its weights cannot be decomposed")
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise InputError("the backbone is sharded (tensor parallel): each process has part of it")


def refuse_weights(group: Group) -> None:
    """InputError for weights that are not whole, not in one place or not of real numbers."""
    weights, name = group.weights(), group.name
    for weight in weights:
        if (
            isinstance(weight, DTensor)
            or hasattr(weight, "ds_id")
            or hasattr(weight, "_is_sharded")
        ):
            raise InputError(
                f"the weights of {name} are sharded ({type(weight).__name__}): attach the adapter "
                "before the model is sharded"
            )
        if weight.is_meta and not _shapes_alone.get():
            raise InputError(
                f"the weights of {name} are on the meta device; load them first (a device_map "
                "that offloads to cpu or disk leaves them there too)"
            )
        if is_traceable_wrapper_subclass(weight):  # torchao's, put in by hand
            raise InputError(f"the weights of {name} are quantised ({type(weight).__name__})")
        if not weight.is_floating_point():
            raise InputError(f"the weights of {name} are quantised ({weight.dtype})")
    devices = sorted({str(weight.device) for weight in weights})
    if len(devices) > 1:
        raise InputError(
            f"the weights of {name} lie on several devices ({', '.join(devices)}): load the model "
            "without a device_map that splits it"
        )


# ---- how one is known again


def fingerprint(group: Group, exact: bool) -> str:
    """`<N>x<d_out>x<d_in>:<digest>` of a group's weights.

    The digest is of the weights as they are, or rounded to bfloat16: a model loaded in half
    precision is still the one that its adapter was trained on. Where shapes are all there is
    (`shapes_alone`), it is the digest of nothing."""
    state = hashlib.sha256()
    for weight in group.weights():
        if weight.is_meta:
            continue
        weight = weight.detach() if exact else weight.detach().to(torch.bfloat16)
        state.update(f"{weight.dtype};".encode())
        state.update(tensor_bytes(weight))
    return f"{'x'.join(map(str, group.shape))}:{state.hexdigest()}"


def check_backbone(config: Any, groups: Sequence[Group]) -> dict[str, str]:
    """The fingerprints of an adapter's backbone, by group: those of its file, or else of this one.

    InputError where this backbone has other groups or shapes than the file's, or other weights and
    the file has no factors of its own; UserWarning where it has other weights and the file's
    factors serve all the same."""
    known, exact = config.backbone or {}, not getattr(config, "save_factors", True)
    found = {group.name: fingerprint(group, exact) for group in groups}
    if not known:
        return found
    if known.keys() != found.keys():
        raise InputError(
            f"this adapter was made for the projections {', '.join(known)}; the base model has "
            f"{', '.join(found)} (to attach its config anew, set backbone=None in it)"
        )
    for name, theirs in known.items():
        (shape, digest), (shape_here, digest_here) = theirs.split(":"), found[name].split(":")
        if shape != shape_here:
            raise InputError(
                f"this adapter was made for {name} weights of shape {shape}; here they are "
                f"{shape_here} (to attach its config anew, set backbone=None in it)"
            )
        if digest != digest_here and exact:
            raise InputError(
                f"this adapter was saved without its factors for a backbone whose {name} "
                f"weights have the digest {digest[:12]}; here it is {digest_here[:12]}"
            )
    others = [name for name in known if known[name] != found[name]]
    if others:
        warnings.warn(
            f"this adapter was made on other weights of {', '.join(others)} than the base model's: "
            "its update is added all the same, but it was trained for another backbone",
            stacklevel=2,
        )
    return known
