"""`train.compile=true`: the parts of a model that are plain tensor arithmetic go through
torch.compile.

What chooses in Python as it runs stays as it is: attention in packed batches, and whatever an
adapter has wrapped. All else of a Transformer layer (projections behind attention, activations,
norms, residual sums, dropout) is most of the small operations that a card waits for. The number of
tokens is a variable of the compiled code, so that batches of all sizes share it and none is padded.
"""

from collections.abc import Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from craft.errors import InputError

WRAPPERS = (BaseTunerLayer, ModulesToSaveWrapper)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile, in place and with dynamic shapes, the largest parts of the encoder's layers that
    hold neither attention nor an adapter; returns their paths.

    Names of parameters stay. InputError where there is none. All blocks of all models of a process
    share one cache of graphs (of the code of `nn.Module.__call__`), a run takes about seven, and
    what finds the cache full stays uncompiled: hence its size."""
    from torch._dynamo import config  # takes a second to import

    found = list(_blocks(model))
    if not found:
        raise InputError(f"train.compile: {type(model).__name__} has no part to compile")
    config.recompile_limit = max(64, config.recompile_limit)
    for _, module in found:
        module.compile(dynamic=True, backend=backend)
    return [path for path, _ in found]


def _blocks(
    module: nn.Module, path: str = "", within: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """Parts inside the model's lists of layers (`within`) whose forward is their children's and
    arithmetic."""
    if within and _is_plain(module):
        yield path, module
        return
    for name, child in module.named_children():
        inside = within or isinstance(module, nn.ModuleList)
        yield from _blocks(child, f"{path}.{name}".lstrip("."), inside)


def _is_plain(module: nn.Module) -> bool:
    """Has a Linear and more, no adapter, no hook, and nothing that looks attention up by name."""
    parts = list(module.modules())
    return (
        len(parts) > 2
        and any(type(part) is nn.Linear for part in parts)
        and not any(isinstance(part, WRAPPERS) or _has_hooks(part) for part in parts)
        and not any(hasattr(part, "scaling") or hasattr(part, "is_causal") for part in parts)
        and not any(isinstance(part, nn.ModuleList) for part in parts)
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
