"""CRAFT, cross-layer rank adaptation via frozen Tucker (arXiv 2602.17510), as a peft tuner.

The weights of one projection over the layers are a tensor W (N, d_out, d_in) with a truncated HOSVD
G, U1, U2, U3, all frozen. Three square matrices J1, J2, J3 train, and the adapted weights are
(Eqs. 3 and 4)

    W + (T - R),   T = G x1 (U1 J1) x2 (U2 J2) x3 (U3 J3),   R = G x1 U1 x2 U2 x3 U3.

Slice l of T - R is U2 M_l U3^T with M_l = J2 (sum_a (U1 J1)[l, a] G[a]) J3^T - sum_a U1[l, a] G[a].
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from peft.utils import PeftType
from torch import Tensor

from craft.errors import InputError
from craft.tucker import (
    ALGORITHMS,
    CORE_NORMS,
    CORES,
    Algorithm,
    Core,
    CoreNorm,
    Rank,
    Ranks,
    check_ranks,
    decompose_cached,
    gaussian,
)
from craft.tuners.registration import register
from craft.tuners.sandwich.group import Group
from craft.tuners.sandwich.model import SandwichModel
from craft.tuners.sandwich.tensors import wide
from craft.tuners.targets import SandwichConfig

__all__ = ["CraftConfig", "CraftModel"]

INITS = ("exact", "paper")
SQUARES = ("full", "diagonal", "basis")
MODES = (1, 2, 3)


@dataclass
class CraftConfig(SandwichConfig):
    """Configuration of CRAFT.

    A group is one projection of one shape over the layers, or over each block of them. With n
    projections in L layers of width d, and ranks already clipped to (L, d, d):

    | setting                | trained numbers                                                   |
    |------------------------|-------------------------------------------------------------------|
    | default                | n * (r1**2 + r2**2 + r3**2)  (Proposition 1)                      |
    | target_modules         | n = the number of projections; d_out, d_in of each clip r2, r3    |
    | rank_pattern           | the sum over projections of r1**2 + r2**2 + r3**2, each its own   |
    | j='diagonal'           | n * (r1 + r2 + r3)                                                |
    | j='basis', j_basis=k   | n * 3 * k                                                         |
    | modes=(2, 3)           | n * (r2**2 + r3**2)                                               |
    | train_core             | n * (r1**2 + r2**2 + r3**2 + r1 * r2 * r3)                        |
    | modes=(), train_core   | n * r1 * r2 * r3: the core in place of the J                      |
    | layer_blocks=b         | n * b * (r1**2 + r2**2 + r3**2), r1 at most the layers of a block |

    Controls of the decomposition train as many numbers as the default, with a core of the same norm
    (and draw anew for each decomposition_seed and projection):

    | control                | decomposition | core      | core_norm |
    |------------------------|---------------|-----------|-----------|
    | random factors         | 'random'      | 'fitted'  | 'hosvd'   |
    | random core            | 'hosvd'       | 'random'  | 'own'     |
    | trailing directions    | 'trailing'    | 'fitted'  | 'hosvd'   |

    41,152 on RoBERTa-large by default and, r1 being clipped to its 12 layers, 40,288 on
    RoBERTa-base."""

    ranks: Rank | Sequence[Rank] = field(
        default=(24, 100, 100),
        metadata={
            "help": "(r1, r2, r3) of the modes layer, output, input: whole numbers, clipped to the "
            "modes' sizes with a warning; fractions of a mode's size; or 'energy:0.9', the fewest "
            "that hold this share of the mode's spectrum. One fraction or energy serves all three."
        },
    )
    rank_pattern: dict[str, Rank | Sequence[Rank]] = field(
        default_factory=dict,
        metadata={"help": "Ranks of single projections, by name or regex; `ranks` for the others."},
    )
    j: str = field(
        default="full",
        metadata={
            "help": "J1, J2, J3 are 'full' square matrices as in the paper, 'diagonal', or of a "
            "'basis': J = I + sum_i c_i B_i over fixed random B_i, of which the c_i train."
        },
    )
    j_basis: int = field(
        default=100, metadata={"help": "How many B_i each of J1, J2 and J3 has with j='basis'."}
    )
    modes: Sequence[int] = field(
        default=MODES,
        metadata={"help": "Which of J1 (layer), J2 (output) and J3 (input) train; I otherwise."},
    )
    train_core: bool = field(
        default=False, metadata={"help": "Train the core too, as G plus a change from zero."}
    )
    layer_blocks: int = field(
        default=1,
        metadata={"help": "Into how many blocks of consecutive layers a projection is cut."},
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
    decomposition: Algorithm = field(
        default="hosvd",
        metadata={
            "help": "'hosvd' as in the paper; for ablations 'hooi', 'random' factors, or the "
            "'trailing' directions of the outputs and inputs."
        },
    )
    core: Core = field(
        default="fitted",
        metadata={
            "help": "The core that fits the factors best, or a 'random' one, scaled to its norm."
        },
    )
    core_norm: CoreNorm = field(
        default="own",
        metadata={
            "help": "'hosvd' scales the core to the Frobenius norm of HOSVD's at the same ranks, "
            "so that controls differ in subspace alone."
        },
    )
    decomposition_seed: int = field(
        default=0,
        metadata={
            "help": "Seed of what is drawn and frozen: random factors, a random core, the B_i of "
            "j='basis'. Each projection draws its own."
        },
    )
    save_factors: bool = field(
        default=True,
        metadata={
            "help": "Save core and factors with the adapter. If False its file holds what trains "
            "alone; core and factors are computed again from the backbone on loading, which must "
            "then hold the very same weights, or found in the folder of `craft.use_cache`."
        },
    )
    energy_ranks: dict[str, list[int]] | None = field(
        default=None,
        metadata={"help": "What 'energy:...' came to in each group, filled in on saving."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("CRAFT")
        self.ranks = check_ranks(self.ranks)
        self.rank_pattern = {k: check_ranks(r) for k, r in (self.rank_pattern or {}).items()}
        choices = (
            ("init", INITS),
            ("decomposition", ALGORITHMS),
            ("core", CORES),
            ("core_norm", CORE_NORMS),
            ("j", SQUARES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        for name in ("eps", "sigma"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, not {getattr(self, name)}")
        modes = (self.modes,) if isinstance(self.modes, int) else tuple(self.modes)
        if not set(modes) <= set(MODES) or len(set(modes)) != len(modes):
            raise InputError(f"modes must be some of 1, 2, 3, not {self.modes!r}")
        if not modes and not self.train_core:
            raise InputError("nothing trains: modes is empty and train_core is False")
        self.modes = tuple(sorted(modes))
        seed = self.decomposition_seed
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InputError(f"decomposition_seed must be an integer, not {seed!r}")
        for name in ("layer_blocks", "j_basis"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer, not {value!r}")


class CraftModel(SandwichModel):
    """Trains D_n = J_n - I: weight decay pulls J to I, and D = 0 is the backbone, bit for bit."""

    prefix = "craft_"

    def build(self, adapter: str, config: CraftConfig, group: Group) -> None:
        check_rank_pattern(config.rank_pattern, self.groups[adapter])
        ranks = ranks_of(config, group)
        seed = config.decomposition_seed
        made = decompose_cached(
            group.weights(), ranks, config.decomposition, seed, group.name,
            config.core, config.core_norm,
        )  # fmt: skip
        if any(isinstance(rank, str) for rank in ranks):
            known = self.found[adapter].setdefault("energy_ranks", {**(config.energy_ranks or {})})
            known[group.name] = [*made.ranks]
        u1, u2, u3 = made.factors
        for name, value in {"core": made.core, "U1": u1, "U2": u2, "U3": u3}.items():
            self.keep(adapter, group, name, value, trained=False, saved=config.save_factors)
        for mode in config.modes:
            rank, k = made.ranks[mode - 1], config.j_basis
            shape = {"full": (rank, rank), "diagonal": (rank,), "basis": (k,)}[config.j]
            start = torch.zeros(shape)
            if config.init == "paper":
                start = config.eps * config.sigma * torch.randn(shape)
            if config.j == "basis":
                basis = random_basis(k, rank, seed, group.name, f"B{mode}")
                saved = config.save_factors
                self.keep(adapter, group, f"B{mode}", basis, trained=False, saved=saved)
            name = f"c{mode}" if config.j == "basis" else f"D{mode}"
            self.keep(adapter, group, name, start, trained=True)
        if config.train_core:
            self.keep(adapter, group, "dG", torch.zeros(made.ranks), trained=True)

    def small_matrices(self, adapter: str, group: Group) -> Tensor:
        """M of all layers (N, r2, r3), without the constant that cancels.

        With S = U1 G, dS = (U1 D1) G + (U1 + U1 D1) dG (mode-1 products) and T = S + dS:

            M = dS + D2 T + T D3^T + D2 T D3^T

        What does not train is not there, and counts as zero.
        Zero for D = 0 in every dtype; as accurate as D for small D, where J2 T J3^T - S is not."""
        u1, core = (wide(self.tensor(adapter, group, name)) for name in ("U1", "core"))
        d1, d2, d3 = (self.change(adapter, group, mode) for mode in (1, 2, 3))
        dg = self.find(adapter, group, "dG")
        s = _mode1(u1, core)  # (N, r2, r3)
        moved = None if d1 is None else u1 @ d1 if d1.ndim == 2 else u1 * d1  # U1 D1 (N, r1)
        ds = torch.zeros_like(s) if moved is None else _mode1(moved, core)
        if dg is not None:
            ds = ds + _mode1(u1 if moved is None else u1 + moved, dg)
        t = s + ds
        left = torch.zeros_like(t) if d2 is None else _left(d2, t)
        return ds + left if d3 is None else ds + left + _right(t + left, d3)

    def change(self, adapter: str, group: Group, mode: int) -> Tensor | None:
        """D_n = J_n - I (r_n, r_n), a diagonal one as a vector; None where J_n does not train."""
        basis = self.find(adapter, group, f"B{mode}")
        if basis is None:
            return self.find(adapter, group, f"D{mode}")
        return torch.einsum("k,kij->ij", wide(self.tensor(adapter, group, f"c{mode}")), basis)

    def outer_matrices(self, adapter: str, group: Group, index: int) -> tuple[Tensor, Tensor]:
        return self.tensor(adapter, group, "U2"), self.tensor(adapter, group, "U3")

    def ranks(self, adapter: str = "default") -> dict[str, tuple[int, ...]]:
        """The effective ranks of each group, after clipping."""
        return {g.name: tuple(self.tensor(adapter, g, "core").shape) for g in self.groups[adapter]}


def ranks_of(config: CraftConfig, group: Group) -> Ranks:
    """What the config asks of a group: `rank_pattern`, else `ranks`; a known energy in numbers."""
    ranks = check_ranks(config.ranks)
    for key, own in config.rank_pattern.items():
        if named(key, group):
            ranks = check_ranks(own)
            break
    known = (config.energy_ranks or {}).get(group.name)
    if known is not None:
        r1, r2, r3 = (k if isinstance(r, str) else r for r, k in zip(ranks, known, strict=True))
        return r1, r2, r3
    return ranks


def named(key: str, group: Group) -> bool:
    """Whether a name or regex means a group's modules, as peft reads the keys of a rank_pattern."""
    return re.fullmatch(rf"(.*\.)?({key})", group.path) is not None


def check_rank_pattern(pattern: Mapping[str, object], groups: Sequence[Group]) -> None:
    """InputError for a key that means no group."""
    for key in pattern:
        if not any(named(key, group) for group in groups):
            paths = ", ".join(dict.fromkeys(group.path for group in groups))
            raise InputError(f"rank_pattern: {key} matches none of {paths}")


def random_basis(k: int, rank: int, seed: int, *stream: str) -> Tensor:
    """B_1 to B_k (k, r, r): Gaussian, each of Frobenius norm r / sqrt(k).

    Coefficients of size a, of random signs, then give sum_i c_i B_i entries of mean square a^2: a
    step of Adam at one rate is as long as on a full D, whatever k and r are."""
    drawn = gaussian((k, rank, rank), seed, *stream)
    return drawn * (rank / math.sqrt(k) / drawn.flatten(1).norm(dim=1)[:, None, None])


def _mode1(rows: Tensor, core: Tensor) -> Tensor:
    """sum_a rows[l, a] core[a] of all layers."""
    return (rows @ core.flatten(1)).unflatten(1, core.shape[1:])


# by einsum, because `@` rounds otherwise where D is frozen: a reloaded adapter must not differ


def _left(d: Tensor, t: Tensor) -> Tensor:
    """D T of each slice."""
    return torch.einsum("ij,njk->nik", d, t) if d.ndim == 2 else d[:, None] * t


def _right(t: Tensor, d: Tensor) -> Tensor:
    """T D^T of each slice."""
    return torch.einsum("nij,kj->nik", t, d) if d.ndim == 2 else t * d


register("craft", CraftConfig, CraftModel)
