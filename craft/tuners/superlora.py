"""SuperLoRA (arXiv 2403.11887) as a peft tuner: its Tucker form over layers, and its LoRA case.

The updates of one projection over the layers are a third-order tensor in Tucker form, all of whose
parts train:

    dW_l = (alpha / r2) U (sum_a A[l, a] C[a]) V^T,

A (N, r1), U (d_out, r2), V (d_in, r3), core C (r1, r2, r3). Grouped by weight and of second order
it is LoRA, dW_l = (alpha / r) U_l V_l^T. Of the paper's general form: one Kronecker factor (K = 1),
no random projection, and groups of one projection (order M = 3) or of one weight (M = 2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft.utils import PeftType
from torch import Tensor

from craft.errors import InputError
from craft.tucker import Rank, check_ranks, clip_ranks
from craft.tuners.registration import register
from craft.tuners.sandwich.group import Group
from craft.tuners.sandwich.model import SandwichConfig, SandwichModel
from craft.tuners.sandwich.tensors import wide

FORMS = ("tucker", "lora")


@dataclass
class SuperLoraConfig(SandwichConfig):
    """Configuration of SuperLoRA.

    With n projections in L layers of width d, and ranks already clipped to (L, d, d):

    | form     | trained numbers                                    |
    |----------|----------------------------------------------------|
    | 'tucker' | n * (L * r1 + d * r2 + d * r3 + r1 * r2 * r3)      |
    | 'lora'   | n * L * 2 * d * r                                  |

    25,792 on RoBERTa-base and 34,176 on RoBERTa-large by default."""

    form: str = field(
        default="tucker",
        metadata={"help": "'tucker': one tensor for all layers; 'lora': a pair for each weight."},
    )
    ranks: Rank | Sequence[Rank] = field(
        default=(8, 8, 8),
        metadata={
            "help": "(r1, r2, r3) of form='tucker': whole numbers, clipped to the modes' sizes "
            "with a warning, or fractions of them."
        },
    )
    r: int = field(default=8, metadata={"help": "Rank r of form='lora'."})
    alpha: float = field(
        default=8.0, metadata={"help": "The update is scaled by alpha / r2, or by alpha / r."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("SUPERLORA")
        if self.form not in FORMS:
            raise InputError(f"form {self.form!r} is not one of {', '.join(FORMS)}")
        self.ranks = check_ranks(self.ranks)
        if any(isinstance(rank, str) for rank in self.ranks):
            raise InputError(f"ranks {self.ranks}: an update that starts at zero has no energy")
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r < 1:
            raise InputError(f"r must be a positive integer, not {self.r!r}")


class SuperLoraModel(SandwichModel):
    """The output factor U is zero at the start, as LoRA's B, so that dW = 0.

    V is drawn as LoRA's A, uniform within 1 / sqrt(d_in); A ~ N(0, 1 / r1) and C ~ N(0, 1 / r3), so
    that M_l V^T is of the size of V^T. (The paper gives no law for them.)"""

    prefix = "superlora_"

    def build(self, adapter: str, config: SuperLoraConfig, group: Group) -> None:
        layers, d_out, d_in = group.shape
        bound = 1 / math.sqrt(d_in)
        if config.form == "lora":
            v = torch.empty(layers, d_in, config.r).uniform_(-bound, bound)
            start = {"U": torch.zeros(layers, d_out, config.r), "V": v}
        else:
            r1, r2, r3 = map(int, clip_ranks(config.ranks, group.shape, group.name))
            start = {
                "A": torch.randn(layers, r1) / math.sqrt(r1),
                "C": torch.randn(r1, r2, r3) / math.sqrt(r3),
                "U": torch.zeros(d_out, r2),
                "V": torch.empty(d_in, r3).uniform_(-bound, bound),
            }
        for name, value in start.items():
            self.keep(adapter, group, name, value, trained=True)

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """(alpha / r2) sum_a A[l, a] C[a] of all layers, (N, r2, r3); (alpha / r) I for LoRA."""
        config, u = self.peft_config[adapter], self.tensor(adapter, group, "U")
        scale = config.alpha / u.shape[-1]
        if config.form == "lora":
            eye = torch.eye(u.shape[-1], device=u.device, dtype=wide(u).dtype)
            return (scale * eye).expand(len(u), -1, -1)
        a, core = (wide(self.tensor(adapter, group, name)) for name in ("A", "C"))
        # summed, because `@` rounds otherwise where its factors are frozen
        return scale * torch.einsum("na,aij->nij", a, core)

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        u, v = (self.tensor(adapter, group, name) for name in ("U", "V"))
        return (u[index], v[index]) if self.peft_config[adapter].form == "lora" else (u, v)


register("superlora", SuperLoraConfig, SuperLoraModel)
