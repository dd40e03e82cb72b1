"""LoTR, low tensor rank adaptation (arXiv 2402.01376), as a peft tuner.

The updates of matrices s of one shape are the slices of a tensor in Tucker-2 form: they share U and
V, each has a core slice G_s (r x r) of its own, and all of it trains:

    dW_s = (alpha / r) U G_s V^T,    U (d_out, r) and V (d_in, r) ~ N(0, init_std^2),    G = 0.
"""

from dataclasses import dataclass, field

import torch
from peft.utils import PeftType
from torch import Tensor

from craft.errors import InputError
from craft.tuners.registration import register
from craft.tuners.sandwich.group import Group
from craft.tuners.sandwich.model import SandwichConfig, SandwichModel
from craft.tuners.sandwich.tensors import wide

SHARES = ("all", "projection")


@dataclass
class LotrConfig(SandwichConfig):
    """Configuration of LoTR.

    With n projections in L layers of width d it trains 2dr + n L r^2 numbers where all projections
    share one U and V, as in the authors' code (73,728 on RoBERTa-base with r = 32), and
    n (2dr + L r^2) where each projection has its own, as the CRAFT paper counts (122,880)."""

    r: int = field(default=32, metadata={"help": "Rank r of U, V and the core slices G."})
    alpha: float = field(default=1.0, metadata={"help": "The update is scaled by alpha / r."})
    share: str = field(
        default="all",
        metadata={
            "help": "'all': one U and V for all projections, which must have one shape; "
            "'projection': one U and V for each projection."
        },
    )
    init_std: float = field(
        default=1.0, metadata={"help": "Standard deviation of U and V at the start."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("LOTR")
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r < 1:
            raise InputError(f"r must be a positive integer, not {self.r!r}")
        if self.share not in SHARES:
            raise InputError(f"share {self.share!r} is not one of {', '.join(SHARES)}")
        if not self.init_std > 0:
            raise InputError(f"init_std must be positive, not {self.init_std!r}")


class LotrModel(SandwichModel):
    """Keeps the core slices G of a projection stacked, and U and V once for all or for each."""

    prefix = "lotr_"

    def build(self, adapter: str, config: LotrConfig, group: Group) -> None:
        owner, (layers, d_out, d_in) = self._owner(adapter, group), group.shape
        first = self.groups[adapter][0]
        if config.share == "all" and group.shape[1:] != first.shape[1:]:
            raise InputError(
                f"share='all' needs projections of one shape: {first.name} is {first.shape[1:]}, "
                f"{group.name} {group.shape[1:]}; take share='projection'"
            )
        if config.share == "projection" or group is first:
            for name, width in (("U", d_out), ("V", d_in)):
                factor = config.init_std * torch.randn(width, config.r)
                self.keep(adapter, owner, name, factor, trained=True)
        self.keep(adapter, group, "G", torch.zeros(layers, config.r, config.r), trained=True)

    def _owner(self, adapter: str, group: Group) -> Group:
        """The group under whose name U and V are kept."""
        if self.peft_config[adapter].share == "projection":
            return group
        return Group("all", self.groups[adapter][0].layers)

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """(alpha / r) G of all layers, (N, r, r)."""
        config, core = self.peft_config[adapter], self.tensor(adapter, group, "G")
        return config.alpha / config.r * wide(core)

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        owner = self._owner(adapter, group)
        return self.tensor(adapter, owner, "U"), self.tensor(adapter, owner, "V")


register("lotr", LotrConfig, LotrModel)
