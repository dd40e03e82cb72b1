"""Ranks of a Tucker decomposition: whole numbers, or shares of a mode's size or of its energy."""

import re
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from craft.errors import InputError

Rank = int | float | str  # 24 | 0.25 of the mode's size | 'energy:0.9' of its spectrum
Ranks = tuple[Rank, Rank, Rank]
ENERGY = re.compile(r"energy:(\d*\.?\d+)")


class Clipped(UserWarning):
    """A rank that a weight is too small for, and what is used instead."""

    def __init__(self, asked: str, shape: tuple[int, ...], names: Sequence[str], used: object):
        self.case = asked, shape, used
        self.names = [*names]
        super().__init__(f"{asked} the shape {shape} of {', '.join(names)}; using {used}")

    @staticmethod
    def merged(found: Iterable["Clipped"]) -> str:
        """One line on several, those alike named together."""
        names: dict[tuple, list[str]] = {}
        for one in found:
            names.setdefault(one.case, []).extend(one.names)
        return "; ".join(str(Clipped(a, s, own, used)) for (a, s, used), own in names.items())


def check_ranks(ranks: object) -> Ranks:
    """(r1, r2, r3), each a positive integer, a fraction in (0, 1] or 'energy:<share>'.

    One fraction or energy stands for all three. InputError shows what else was given."""
    alone = isinstance(ranks, float | str)
    given = [ranks] * 3 if alone else [*ranks] if isinstance(ranks, Iterable) else []
    if len(given) != 3 or not all(map(_is_rank, given)):
        raise InputError(
            "ranks must be three positive integers, fractions in (0, 1] or 'energy:<share>' "
            f"(r1, r2, r3), not {ranks!r}"
        )
    r1, r2, r3 = given
    return r1, r2, r3


def _is_rank(rank: object) -> bool:
    if isinstance(rank, str):
        found = ENERGY.fullmatch(rank)
        return found is not None and 0 < float(found[1]) <= 1
    if isinstance(rank, float):
        return 0 < rank <= 1
    return isinstance(rank, int) and not isinstance(rank, bool) and rank > 0


def clip_ranks(
    ranks: Sequence[Rank], shape: Sequence[int], name: str = "tensor"
) -> tuple[int | str, int | str, int | str]:
    """Ranks in whole numbers, at most the sizes of their modes, with a warning where one is cut.

    A mode of size n has no more than n orthonormal vectors. A fraction f is f n to the nearest
    whole number, at least 1. An energy stays as it is: it needs the mode's spectrum."""
    given = check_ranks(ranks)
    r1, r2, r3 = (_whole(r, n) for r, n in zip(given, shape, strict=True))
    if any(isinstance(r, int) and r > n for r, n in zip(given, shape, strict=True)):
        clipped = Clipped(f"ranks {given} exceed", tuple(shape), [name], (r1, r2, r3))
        warnings.warn(clipped, stacklevel=3)
    return r1, r2, r3


def _whole(rank: Rank, size: int) -> int | str:
    if isinstance(rank, float):
        return max(1, int(rank * size + 0.5))
    return rank if isinstance(rank, str) else min(rank, size)


def energy_rank(eigenvalues: Tensor, energy: str) -> int:
    """The smallest r whose leading eigenvalues of a Gram matrix hold the share of 'energy:<share>'.

    sum_{i<=r} lambda_i >= share sum_i lambda_i; the eigenvalues are given in descending order."""
    found = ENERGY.fullmatch(energy)
    assert found is not None, energy
    held = eigenvalues.clamp_min(0).cumsum(0)
    wanted = float(found[1]) * (1 - 1e-12) * held[-1]  # a share of 1 despite the sum's rounding
    return min(int(torch.searchsorted(held, wanted)) + 1, len(held))
