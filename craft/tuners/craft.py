"""CRAFT, cross-layer rank adaptation via frozen Tucker (arXiv 2602.17510), as a peft tuner.

The weights of one projection over the layers are a tensor W (N, d_out, d_in) with a truncated HOSVD
G, U1, U2, U3, all frozen. Three square matrices J1, J2, J3 train, and the adapted weights are
(Eqs. 3 and 4)

    W + (T - R),   T = G x1 (U1 J1) x2 (U2 J2) x3 (U3 J3),   R = G x1 U1 x2 U2 x3 U3.

Slice l of T - R is U2 M_l U3^T with M_l = J2 (sum_a (U1 J1)[l, a] G[a]) J3^T - sum_a U1[l, a] G[a].
"""

import math

import torch
from torch import Tensor

from craft.tucker import decompose_cached, gaussian
from craft.tuners.craft_config import CraftConfig, check_rank_pattern, ranks_of
from craft.tuners.group import Group
from craft.tuners.registration import register
from craft.tuners.sandwich import SandwichModel
from craft.tuners.tensors import wide

__all__ = ["CraftConfig", "CraftModel"]


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
