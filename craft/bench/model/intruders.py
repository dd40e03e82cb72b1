"""Intruder dimensions of a trained model (Shuttleworth et al. 2024, arXiv 2410.21228).

For a weight W as it was pre-trained and W' = W + dW as it is after training, with the left singular
vectors u_j of W and u'_i of W',

    c_i = max_j |u_j . u'_i|,    i = 1, ..., 10 (the leading ones),

and u'_i is an intruder where c_i < 0.5: a direction that matters now and is like none of before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError, first_line
from craft.tuners.lora_xs import truncated_svd
from craft.tuners.targets import TARGET_MODULES, is_linear

LEADING = 10
COSINE = 0.5


@dataclass(frozen=True)
class Intruders:
    """The number of intruders in all `weights` that training changed, and the mean of c over them;
    None, and the reason, where it could not be told."""

    count: int | None
    weights: int | None
    mean_cosine: float | None
    reason: str | None = None
    leading: int = LEADING
    cosine: float = COSINE


def intruders(model: PeftModel, original: Callable[[], nn.Module]) -> Intruders:
    """Those of a trained model, whose backbone as it was before `original` gives.

    The weights are those that the adapter changes, or query and value where the backbone itself was
    trained. The backbone is asked for anew because a method may change its frozen weights, too, as
    PiSSA does. Leaves the model as it is, bit for bit; an adapter that cannot be merged, or values
    that have no singular vectors, are a reason, not an error: a run that ends here has its
    result."""
    cosines = []
    try:
        before: nn.Module | None = None
        for path, tuned in tuned_weights(model):
            before = original() if before is None else before
            base = matrix(before.get_submodule(path))
            if not torch.isfinite(tuned).all():
                raise InputError(f"{path} holds NaN or inf values")
            if not torch.equal(base, tuned):
                cosines.append(largest_cosines(base, tuned))
    except (InputError, NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
        return Intruders(None, None, None, first_line(error))
    if not cosines:
        return Intruders(0, 0, None)
    found = torch.cat(cosines)
    return Intruders(int((found < COSINE).sum()), len(cosines), float(found.mean()))


def largest_cosines(base: Tensor, tuned: Tensor, leading: int = LEADING) -> Tensor:
    """c_i of the leading left singular vectors of `tuned`, both (d_out, d_in), in float64."""
    before, _ = truncated_svd(base, min(base.shape))
    after, _ = truncated_svd(tuned, min(leading, *tuned.shape))
    return (before.T @ after).abs().amax(0)


def tuned_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Path in the base model and weight (d_out, d_in), on the CPU, of what the adapter's layers
    come to, and of query and value of a backbone that is trained itself.

    InputError or ValueError where the adapter cannot be merged, InputError where query and value of
    the backbone are not known."""
    model.base_model._check_merge_allowed()  # type: ignore[operator]
    base = model.get_base_model()
    for path, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            if is_linear(module.get_base_layer()):
                with merged(module) as linear:
                    weight = matrix(linear).clone()
                yield path, weight
        elif isinstance(module, ModulesToSaveWrapper) and path == base.base_model_prefix:
            kind = base.config.model_type
            if kind not in TARGET_MODULES:
                raise InputError(f"query and value of {kind} are not known")
            targets = TARGET_MODULES[kind]
            for name, part in module.modules_to_save[module.active_adapters[0]].named_modules():
                if is_linear(part) and name.split(".")[-1] in targets:
                    yield f"{path}.{name}", matrix(part)


@contextmanager
def merged(layer: BaseTunerLayer) -> Iterator[nn.Module]:
    """The base layer with its adapter merged into copies of its parameters, which go again: to
    subtract an update is not to have never added it."""
    base = layer.get_base_layer()
    kept = {parameter: parameter.data for parameter in base.parameters()}
    with torch.no_grad():
        for parameter, data in kept.items():
            parameter.data = data.clone()
        try:
            layer.merge()
            yield base
        finally:
            if layer.merged:
                layer.unmerge()
            for parameter, data in kept.items():
                parameter.data = data


def matrix(module: nn.Module) -> Tensor:
    """The weight as (d_out, d_in), on the CPU."""
    weight = module.weight.detach().cpu()  # type: ignore[union-attr, operator]
    return weight.T if isinstance(module, Conv1D) else weight
