"""CRAFT, cross-layer rank adaptation via frozen Tucker (arXiv 2602.17510), as a peft tuner.

The weights of one projection over the layers are a tensor W (N, d_out, d_in) with a truncated HOSVD
G, U1, U2, U3, all frozen. Three square matrices J1, J2, J3 train, and the adapted weights are
(Eqs. 3 and 4)

    W + (T - R),   T = G x1 (U1 J1) x2 (U2 J2) x3 (U3 J3),   R = G x1 U1 x2 U2 x3 U3.

Slice l of T - R is U2 M_l U3^T with M_l = J2 (sum_a (U1 J1)[l, a] G[a]) J3^T - sum_a U1[l, a] G[a].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft.utils import PeftType
from torch import Tensor

from craft.errors import InputError
from craft.tucker import ALGORITHMS, check_ranks, decompose_cached
from craft.tuners.group import Group
from craft.tuners.registration import register
from craft.tuners.sandwich import SandwichConfig, SandwichModel

INITS = ("exact", "paper")


@dataclass
class CraftConfig(SandwichConfig):
    """Configuration of CRAFT.

    Trains n_p (r1^2 + r2^2 + r3^2) numbers for n_p projections (Proposition 1): with the default
    ranks 41,152 on RoBERTa-large and, r1 being clipped to its 12 layers, 40,288 on RoBERTa-base."""

    ranks: Sequence[int] = field(
        default=(24, 100, 100),
        metadata={
            "help": "(r1, r2, r3) of the modes layer, output, input; clipped to the modes' sizes "
            "with a warning."
        },
    )
    init: str = field(
        default="exact",
        metadata={
            "help": "'exact': J = I, the model starts as it was; 'paper': J = I + eps E, "
            "E ~ N(0, sigma^2) (Eq. 2)."
        },
    )
    eps: float = field(default=0.01, metadata={"help": "eps of init='paper'."})
    sigma: float = field(default=0.02, metadata={"help": "sigma of init='paper'."})
    decomposition: str = field(
        default="hosvd",
        metadata={"help": "'hosvd' as in the paper; 'hooi' or 'random' for ablations."},
    )
    decomposition_seed: int = field(default=0, metadata={"help": "Seed of decomposition='random'."})
    save_factors: bool = field(
        default=True,
        metadata={
            "help": "Save core and factors with the adapter. If False they are computed again from "
            "the backbone on loading, which must then hold the very same weights."
        },
    )
    backbone: dict[str, str] | None = field(
        default=None,
        metadata={"help": "Digest of each group's weights, filled in when save_factors is False."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("CRAFT")
        self.ranks = check_ranks(self.ranks)
        for name, allowed in (("init", INITS), ("decomposition", ALGORITHMS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        for name in ("eps", "sigma"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)}")


class CraftModel(SandwichModel):
    """Trains D_n = J_n - I: weight decay pulls J to I, and D = 0 is the backbone, bit for bit."""

    prefix = "craft_"

    def build(self, adapter: str, config: CraftConfig, group: Group) -> None:
        if not config.save_factors:
            self.check_backbone(adapter, group)
        made = decompose_cached(
            group.weights(),
            config.ranks,
            config.decomposition,
            config.decomposition_seed,
            group.name,
        )
        u1, u2, u3 = made.factors
        for name, value in {"core": made.core, "U1": u1, "U2": u2, "U3": u3}.items():
            self.keep(adapter, group, name, value, trained=False, saved=config.save_factors)
        for name, rank in zip(("D1", "D2", "D3"), made.ranks, strict=True):
            start = torch.zeros(rank, rank)
            if config.init == "paper":
                start = config.eps * config.sigma * torch.randn(rank, rank)
            self.keep(adapter, group, name, start, trained=True)

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """M of all layers (N, r2, r3), without the constant that cancels.

        With S = U1 G, dS = (U1 D1) G (mode-1 products) and T = S + dS:

            M = dS + D2 T + T D3^T + D2 T D3^T

        Zero for D = 0 in every dtype; as accurate as D for small D, where J2 T J3^T - S is not."""
        d1, d2, d3, u1, core = (
            self._wide(adapter, group, name) for name in ("D1", "D2", "D3", "U1", "core")
        )
        flat = core.flatten(1)
        s = (u1 @ flat).unflatten(1, core.shape[1:])  # (N, r2, r3)
        ds = ((u1 @ d1) @ flat).unflatten(1, core.shape[1:])
        t = s + ds
        # einsum, because `@` rounds otherwise where D is frozen: a reloaded adapter must not differ
        left = torch.einsum("ij,njk->nik", d2, t)
        return ds + left + torch.einsum("nij,kj->nik", t + left, d3)

    def _wide(self, adapter: str, group: Group, name: str) -> Tensor:
        value = self.tensor(adapter, group, name)
        return value.to(torch.promote_types(value.dtype, torch.float32))

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        return self.tensor(adapter, group, "U2"), self.tensor(adapter, group, "U3")

    def ranks(self, adapter: str = "default") -> dict[str, tuple[int, ...]]:
        """The effective ranks of each group, after clipping."""
        return {g.name: tuple(self.tensor(adapter, g, "core").shape) for g in self.groups[adapter]}


register("craft", CraftConfig, CraftModel)
