"""Tucker decomposition of a third-order tensor: truncated HOSVD, its controls, a cache on disk.

A tensor W of shape (N, d_out, d_in) is a stack of N matrices (arXiv 2602.17510, section 3: layer
mode first). Its decomposition is W ~ G x1 U1 x2 U2 x3 U3, with orthonormal factors U_n and core
G = W x1 U1^T x2 U2^T x3 U3^T. Plain tensors in, plain tensors out; no model is known here.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from craft.errors import InputError
from craft.files import digest_of_tensors, read_cached, sha256, write_cached

Rank = int | float | str  # 24 | 0.25 of the mode's size | 'energy:0.9' of its spectrum
Ranks = tuple[Rank, Rank, Rank]
ENERGY = re.compile(r"energy:(\d*\.?\d+)")
Algorithm = Literal["hosvd", "hooi", "random", "trailing"]
Core = Literal["fitted", "random"]
CoreNorm = Literal["own", "hosvd"]
ALGORITHMS: tuple[Algorithm, ...] = ("hosvd", "hooi", "random", "trailing")
CORES: tuple[Core, ...] = ("fitted", "random")
CORE_NORMS: tuple[CoreNorm, ...] = ("own", "hosvd")
HOOI_SWEEPS = 10
VERSION = 2  # of the algorithms, part of the cache's key: raised where as much as a bit changes

__all__ = [
    "ALGORITHMS",
    "CORES",
    "CORE_NORMS",
    "Algorithm",
    "Clipped",
    "Core",
    "CoreNorm",
    "DecompositionCache",
    "Rank",
    "Ranks",
    "Tucker",
    "check_ranks",
    "clip_ranks",
    "decompose",
    "decompose_cached",
    "gaussian",
    "gram_matrices",
    "use_cache",
]


@dataclass(frozen=True)
class Tucker:
    """Core (r1, r2, r3) and factors U1 (N, r1), U2 (d_out, r2), U3 (d_in, r3) of one tensor."""

    core: Tensor
    factors: tuple[Tensor, Tensor, Tensor]

    @property
    def ranks(self) -> tuple[int, int, int]:
        r1, r2, r3 = self.core.shape
        return r1, r2, r3

    def reconstruct(self) -> Tensor:
        """G x1 U1 x2 U2 x3 U3, of shape (N, d_out, d_in)."""
        from tensorly import backend_context
        from tensorly.tucker_tensor import tucker_to_tensor

        with backend_context("pytorch", local_threadsafe=True):
            return tucker_to_tensor((self.core, list(self.factors)))


def decompose(
    tensor: Tensor | Sequence[Tensor],
    ranks: Sequence[Rank],
    algorithm: Algorithm = "hosvd",
    seed: int = 0,
    name: str = "tensor",
    core: Core = "fitted",
    core_norm: CoreNorm = "own",
) -> Tucker:
    """The truncated Tucker decomposition of (N, d_out, d_in), or of N matrices, in float64.

    `hosvd`    U_n = the r_n leading left singular vectors of the unfolding W_(n), by an
               eigendecomposition of its Gram matrix W_(n) W_(n)^T (one pass, no alternation: the
               paper's definition). Gram matrices are summed matrix by matrix, so the stack is
               never copied.
    `hooi`     HOSVD followed by ten alternating sweeps (De Lathauwer et al. 2000b), for ablations;
               these do hold the whole stack in float64.
    `random`   random orthonormal factors, drawn from `seed` and `name`.
    `trailing` U1 as in HOSVD, but the last r_n left singular vectors as U2 and U3.

    The core is `fitted`, W x1 U1^T x2 U2^T x3 U3^T, which fits the factors best; or `random`,
    Gaussian, drawn from `seed` and `name`, scaled to the Frobenius norm of the fitted one. With
    core_norm='hosvd' either is scaled to the norm of HOSVD's core at the same ranks.

    A rank is a whole number (clipped to the mode's size with a warning), a fraction of the mode's
    size, or `energy:<share>` of the eigenvalues of its Gram matrix. The largest entry of every
    column of U_n is positive, so that two runs agree. On the meta device core and factors are there
    too, of the shapes that whole numbers and fractions come to. InputError where `tensor` is not
    third-order, not floating point, or holds NaN or inf, where a core of zeros would have to be
    scaled, and for an energy on the meta device.
    """
    slices = _slices(tensor, name)
    shape = (len(slices), *slices[0].shape)
    wanted = clip_ranks(ranks, shape, name)
    for setting, given, allowed in (
        ("decomposition", algorithm, ALGORITHMS),
        ("core", core, CORES),
        ("core_norm", core_norm, CORE_NORMS),
    ):
        if given not in allowed:
            raise InputError(f"{setting} {given!r} is not one of {', '.join(allowed)}")
    if slices[0].is_meta:
        return _of_shapes(shape, wanted, name)
    leading, factors = (), ()
    by_energy = any(isinstance(rank, str) for rank in wanted)
    if algorithm != "random" or core_norm == "hosvd" or by_energy:
        grams = gram_matrices(slices)
        leading = tuple(_leading_vectors(gram, r) for gram, r in zip(grams, wanted, strict=True))
        factors = leading
        if algorithm == "trailing":
            ends = [_trailing_vectors(g, u.shape[1]) for g, u in zip(grams, leading, strict=True)]
            factors = (leading[0], *ends[1:])
    found = tuple(u.shape[1] for u in leading) or wanted
    if algorithm == "random":
        factors = _random_factors(shape, found, seed, name, slices[0].device)
    if algorithm == "hooi":
        for _ in range(HOOI_SWEEPS):
            factors = _alternate(slices, factors, found)
    fitted = made = _core(slices, factors)
    if core == "random":
        made = gaussian(fitted.shape, seed, name, "core").to(fitted.device)
    if core == "random" or core_norm == "hosvd":
        norm = (_core(slices, leading) if core_norm == "hosvd" else fitted).norm()
        if not made.norm() > 1e-12 * norm:
            raise InputError(
                f"{name} has no part along its {algorithm} factors: a core of zeros cannot be "
                "scaled (core_norm='own' leaves it)"
            )
        made = made * (norm / made.norm())
    return Tucker(made, factors)


def _slices(tensor: Tensor | Sequence[Tensor], name: str) -> Sequence[Tensor]:
    if isinstance(tensor, Tensor) and tensor.ndim != 3:
        raise InputError(
            f"{name} must be third-order (N, d_out, d_in), not of shape {tuple(tensor.shape)}"
        )
    slices = list(tensor)
    if not slices or any(s.ndim != 2 or s.shape != slices[0].shape for s in slices):
        raise InputError(
            f"{name} must be one or more matrices of one shape, not "
            f"{[tuple(s.shape) for s in slices]}"
        )
    for index, matrix in enumerate(slices):
        if not matrix.is_floating_point():
            raise InputError(f"{name} must be floating point, not {matrix.dtype}")
        if not matrix.is_meta and not torch.isfinite(matrix).all():
            raise InputError(f"{name} holds NaN or inf values (slice {index})")
    return slices


def _of_shapes(shape: Sequence[int], ranks: Sequence[int | str], name: str) -> Tucker:
    if any(isinstance(rank, str) for rank in ranks):
        raise InputError(f"ranks {tuple(ranks)} of {name} need its weights, not their shapes alone")
    options = {"dtype": torch.float64, "device": "meta"}
    u1, u2, u3 = (torch.empty(n, int(r), **options) for n, r in zip(shape, ranks, strict=True))
    return Tucker(torch.empty([int(r) for r in ranks], **options), (u1, u2, u3))


def gram_matrices(slices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """W_(n) W_(n)^T for the three modes, in float64: (N, N), (d_out, d_out), (d_in, d_in)."""
    d_out, d_in = slices[0].shape
    options = {"dtype": torch.float64, "device": slices[0].device}
    rows = torch.zeros(d_out, d_out, **options)
    columns = torch.zeros(d_in, d_in, **options)
    for matrix in slices:
        wide = matrix.detach().double()
        _add_product(rows, wide)
        _add_product(columns, wide.T)
    layers = torch.zeros(len(slices), len(slices), **options)
    for start in range(0, d_out, 256):  # blocks of rows bound the float64 copy of the stack
        block = torch.stack([m.detach()[start : start + 256] for m in slices]).double().flatten(1)
        layers.addmm_(block, block.T)
    for gram in (rows, columns):
        _mirror(gram)
    return layers, rows, columns


def _blocks(size: int) -> range:
    """The first rows of the blocks of a symmetric matrix; a small one is a single block."""
    return range(0, size, size if size <= 512 else 256)


def _add_product(gram: Tensor, matrix: Tensor) -> None:
    """Add A A^T to the blocks of `gram` on and below the diagonal: nearly half of the product."""
    blocks = _blocks(len(gram))
    for start in blocks:
        stop = start + blocks.step
        gram[start:stop, :stop].addmm_(matrix[start:stop], matrix[:stop].T)


def _mirror(gram: Tensor) -> None:
    """Fill what is above the diagonal blocks."""
    blocks = _blocks(len(gram))
    for start in blocks:
        stop = start + blocks.step
        gram[:start, start:stop] = gram[start:stop, :start].T


def _leading_vectors(gram: Tensor, rank: int | str) -> Tensor:
    """The `rank` leading eigenvectors, descending; on the CPU, whose LAPACK is the reference."""
    if isinstance(rank, str):
        values, vectors = torch.linalg.eigh(gram.cpu())
        few = vectors.flip(-1)[:, : energy_rank(values.flip(0), rank)]
    else:
        few = _eigenvectors(gram, len(gram) - rank, len(gram)).flip(-1)
    return _fix_signs(few).to(gram.device)


def _trailing_vectors(gram: Tensor, rank: int) -> Tensor:
    """The last `rank` eigenvectors, descending."""
    return _fix_signs(_eigenvectors(gram, 0, rank).flip(-1)).to(gram.device)


def _eigenvectors(gram: Tensor, start: int, stop: int) -> Tensor:
    """Eigenvectors `start` to `stop` in ascending order, on the CPU.

    Few of many are computed alone (LAPACK's syevr), a third of the time of all."""
    if 4 * (stop - start) > len(gram):
        return torch.linalg.eigh(gram.cpu()).eigenvectors[:, start:stop]
    from scipy.linalg import eigh

    few = (start, stop - 1)
    return torch.from_numpy(
        eigh(gram.cpu().numpy(), subset_by_index=few, driver="evr", check_finite=False)[1]
    )


def _fix_signs(vectors: Tensor) -> Tensor:
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (vectors * largest.sign()).contiguous()


def gaussian(shape: Sequence[int], seed: int, *stream: str) -> Tensor:
    """Standard normal numbers in float64, the same wherever seed and stream (names) are the same.

    Another stream is another draw: what the controls of two projections draw is independent."""
    digest = hashlib.sha256(" ".join([str(seed), *stream]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _random_factors(
    shape: Sequence[int], ranks: Sequence[int], seed: int, name: str, device: torch.device
) -> tuple[Tensor, ...]:
    drawn = [
        gaussian((n, r), seed, name, f"U{mode}")
        for mode, (n, r) in enumerate(zip(shape, ranks, strict=True), 1)
    ]
    return tuple(_fix_signs(torch.linalg.qr(g).Q).to(device) for g in drawn)


def _core(slices: Sequence[Tensor], factors: tuple[Tensor, ...]) -> Tensor:
    """W x1 U1^T x2 U2^T x3 U3^T, one matrix at a time."""
    u1, u2, u3 = factors
    projected = torch.stack([u2.T @ m.detach().double() @ u3 for m in slices])  # (N, r2, r3)
    return torch.einsum("na,nij->aij", u1, projected)


def _alternate(
    slices: Sequence[Tensor], factors: tuple[Tensor, ...], ranks: Sequence[int]
) -> tuple[Tensor, ...]:
    """One HOOI sweep: each factor from the tensor projected on the other two."""
    u1, u2, u3 = factors
    stack = torch.stack([m.detach().double() for m in slices])
    projected = torch.einsum("nij,ik,jl->nkl", stack, u2, u3).flatten(1)
    u1 = _leading_vectors(projected @ projected.T, ranks[0])
    projected = torch.einsum("nij,na,jl->ial", stack, u1, u3).flatten(1)
    u2 = _leading_vectors(projected @ projected.T, ranks[1])
    projected = torch.einsum("nij,na,ik->jak", stack, u1, u2).flatten(1)
    u3 = _leading_vectors(projected @ projected.T, ranks[2])
    return u1, u2, u3


# ---- ranks: whole numbers, or shares of a mode's size or of its energy


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


# ---- cache


@dataclass(frozen=True)
class DecompositionCache:
    """Decompositions in a folder, keyed by the weights' content, the ranks and the algorithm.

    Also where factors are stored once per backbone: an adapter saved without its own finds them
    here. Any number of processes may fill it at once (each file is written aside and renamed); a
    damaged file is set aside and decomposed again. `shared` are folders that are read, too, and
    never written."""

    folder: Path
    shared: tuple[Path, ...] = ()

    def decompose(
        self,
        slices: Sequence[Tensor],
        ranks: Sequence[Rank],
        algorithm: Algorithm = "hosvd",
        seed: int = 0,
        name: str = "tensor",
        core: Core = "fitted",
        core_norm: CoreNorm = "own",
    ) -> Tucker:
        """`decompose`, from the cache where it is there."""
        weights = digest_of_tensors({str(i): matrix for i, matrix in enumerate(slices)})
        ranks = clip_ranks(ranks, (len(slices), *slices[0].shape), name)
        drawn = f"{seed} {name}" if "random" in (algorithm, core) else "0"
        facts = [weights, ranks, algorithm, drawn, VERSION]
        if (core, core_norm) != ("fitted", "own"):
            facts += [core, core_norm]
        key = sha256(" ".join(map(str, facts)).encode())
        name_of_file = f"{key}.safetensors"
        found = read_cached(name_of_file, (self.folder, *self.shared), "decomposing")
        if found is not None:
            device = slices[0].device
            parts = [found[0][part].to(device) for part in ("core", "U1", "U2", "U3")]
            return Tucker(parts[0], (parts[1], parts[2], parts[3]))
        made = decompose(slices, ranks, algorithm, seed, name, core, core_norm)
        tensors = {"core": made.core, **{f"U{n}": u for n, u in enumerate(made.factors, 1)}}
        write_cached(self.folder / name_of_file, tensors)
        return made


_cache: DecompositionCache | None = None


def use_cache(folder: Path | str | None, shared: Sequence[Path | str] = ()) -> None:
    """Keep the decompositions of this process's tuners in `folder`, and read those in `shared`
    folders; None, the default: nowhere."""
    global _cache
    known = tuple(Path(place) for place in shared)
    _cache = None if folder is None else DecompositionCache(Path(folder), known)


def decompose_cached(
    slices: Sequence[Tensor],
    ranks: Sequence[Rank],
    algorithm: Algorithm = "hosvd",
    seed: int = 0,
    name: str = "tensor",
    core: Core = "fitted",
    core_norm: CoreNorm = "own",
) -> Tucker:
    """`decompose` through the folder given to `use_cache`, if any."""
    run = decompose if _cache is None or slices[0].is_meta else _cache.decompose
    return run(slices, ranks, algorithm, seed, name, core, core_norm)
