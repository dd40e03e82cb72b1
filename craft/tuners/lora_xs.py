"""LoRA-XS (arXiv 2405.17604) as a peft tuner.

Each weight has a frozen truncated singular value decomposition W_l ~ U_l Sigma_l V_l^T of rank r,
between whose halves a square matrix R_l (r x r) trains:

    dW_l = (alpha / r) U_l R_l (Sigma_l V_l^T),    R ~ N(0, init_std^2) at the start.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.utils import PeftType
from torch import Tensor, nn

from craft.errors import InputError
from craft.tucker import Clipped
from craft.tuners.encoders import ENCODERS
from craft.tuners.registration import register
from craft.tuners.sandwich.group import Group
from craft.tuners.sandwich.model import SandwichConfig, SandwichModel
from craft.tuners.sandwich.tensors import wide
from craft.tuners.targets import TARGET_MODULES


@dataclass
class LoraXsConfig(SandwichConfig):
    """Configuration of LoRA-XS.

    Trains r^2 numbers a module: 30,000 on RoBERTa-base with r = 25 and four modules a layer, the
    default in an encoder: query, value and the outputs of attention and feed-forward block, as in
    the authors' GLUE scripts."""

    r: int = field(
        default=25,
        metadata={"help": "Rank r of the decomposition; at most the smaller side of a weight."},
    )
    alpha: float = field(default=16.0, metadata={"help": "The update is scaled by alpha / r."})
    init_std: float = field(
        default=1e-5,
        metadata={"help": "Standard deviation of R at the start; 0 starts at the backbone."},
    )
    save_factors: bool = field(
        default=True,
        metadata={
            "help": "Save U and Sigma V^T with the adapter. If False they are computed again from "
            "the backbone on loading, which must then hold the very same weights."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("LORA_XS")
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r < 1:
            raise InputError(f"r must be a positive integer, not {self.r!r}")
        if not self.init_std >= 0:
            raise InputError(f"init_std must not be negative, not {self.init_std!r}")


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (d_out, r) and Sigma V^T (r, d_in) of the `rank` leading singular triples, in float64.

    By the Gram matrix of the shorter side: ten times faster than a full svd of a feed-forward
    weight. The largest entry of every column of U is positive, so that two runs agree. On the meta
    device both are shapes alone."""
    w = matrix.detach().double()
    if w.is_meta:
        return w.new_empty(w.shape[0], rank), w.new_empty(rank, w.shape[1])
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    vectors = torch.linalg.eigh(gram.cpu()).eigenvectors.flip(-1)[:, :rank].to(w.device)
    if w.shape[0] <= w.shape[1]:
        u, half = vectors, vectors.T @ w
    else:
        u, sigma, rotation = torch.linalg.svd(w @ vectors, full_matrices=False)
        half = sigma[:, None] * rotation @ vectors.T
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()  # (1, r)
    return u * signs, half * signs.T


class Slices:
    """The matrices of a stacked buffer, the same objects every time: casts are kept by object."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, ...], tuple[Tensor, tuple[Tensor, ...]]] = {}

    def __deepcopy__(self, memo: dict) -> "Slices":
        return Slices()

    def __reduce__(self) -> tuple:
        return Slices, ()

    def of(self, stack: Tensor, *key: str) -> tuple[Tensor, ...]:
        source, slices = self.made.get(key, (None, ()))
        if source is not stack:  # moved, loaded anew, or the first time
            slices = stack.unbind(0)
            self.made[key] = stack, slices
        return slices


class LoraXsModel(SandwichModel):
    """Keeps a projection's factors stacked: U (N, d_out, r), V Sigma (N, d_in, r), R (N, r, r)."""

    prefix = "lora_xs_"
    target_module_mapping = {
        **TARGET_MODULES,
        **{
            kind: [*encoder.query_and_value, encoder.attention_output, encoder.down]
            for kind, encoder in ENCODERS.items()
        },
    }

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        self._slices = Slices()
        super().__init__(model, *args, **kwargs)

    def build(self, adapter: str, config: LoraXsConfig, group: Group) -> None:
        layers, d_out, d_in = group.shape
        rank = min(config.r, d_out, d_in)
        if rank < config.r:
            clipped = Clipped(f"r {config.r} exceeds", (d_out, d_in), [group.name], rank)
            warnings.warn(clipped, stacklevel=2)
        pairs = [truncated_svd(weight, rank) for weight in group.weights()]
        factors = {
            "U": torch.stack([u for u, _ in pairs]),
            "V": torch.stack([half.T for _, half in pairs]),
        }
        for name, value in factors.items():
            self.keep(adapter, group, name, value, trained=False, saved=config.save_factors)
        start = config.init_std * torch.randn(layers, rank, rank)
        self.keep(adapter, group, "R", start, trained=True)

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """(alpha / r) R of all layers, (N, r, r)."""
        config, r = self.peft_config[adapter], self.tensor(adapter, group, "R")
        return config.alpha / config.r * wide(r)

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        u, v = (
            self._slices.of(self.tensor(adapter, group, name), adapter, group.name, name)[index]
            for name in ("U", "V")
        )
        return u, v


register("lora_xs", LoraXsConfig, LoraXsModel)
