"""The decomposition beside `linalg.svd` of the unfoldings and tensorly's `tucker`, from the cache,
and of a Llama-8B shape."""

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensorly import backend_context
from tensorly.decomposition import tucker
from torch import Tensor

from craft.bench.speed.measure import Figure, Findings, clock_of, figure, interleaved, ratio
from craft.bench.speed.subjects import RANKS, SHAPES, Setup
from craft.bench.training import memory
from craft.tucker import DecompositionCache, decompose

LLAMA = {"q": (32, 4096, 4096), "v": (32, 1024, 4096)}


def bench(setup: Setup) -> Findings:
    """q and v of the encoder (RoBERTa-large in `make speed`), random weights."""
    hidden, layers, _, _ = SHAPES[setup.shape]
    ranks = tuple(map(min, RANKS, (layers, hidden, hidden)))
    q, v = (_random((layers, hidden, hidden), seed).to(setup.device) for seed in (0, 1))
    cache = DecompositionCache(setup.folder / "tucker")
    for weights in (q, v):
        cache.decompose(list(weights), ranks)
    work = {
        "ours": lambda: decompose(q, ranks),
        "svd": lambda: _by_svd(q, ranks),
        "tensorly": lambda: _by_tensorly(q, ranks),
        "both": lambda: (decompose(q, ranks), decompose(v, ranks)),
        "cached": lambda: (cache.decompose(list(q), ranks), cache.decompose(list(v), ranks)),
    }
    times = interleaved(work, setup.rounds, clock_of(setup.device, setup.threads))
    seconds = 3.0 if setup.device == "cpu" else 1.0
    goals = [{"most": seconds}, {"most": 0.2}, {"least": 4.0}, {"least": 5.0}]
    if setup.shape != "large":
        goals = [{}, {}, {}, {}]
    figures = [
        figure(f"q and v of {setup.shape}", times["both"], "s", **goals[0]),
        figure(f"q and v of {setup.shape}, from the cache", times["cached"], "s", **goals[1]),
        ratio("linalg.svd of the unfoldings / ours", times, "svd", "ours", **goals[2]),
        ratio("tensorly's tucker, no iteration / ours", times, "tensorly", "ours", **goals[3]),
    ]
    facts: dict[str, Any] = {"shape": list(q.shape), "ranks": list(ranks), "seconds": times}
    if setup.llama:
        facts["llama"] = {name: _in_own_process(shape, setup) for name, shape in LLAMA.items()}
        for name, found in facts["llama"].items():
            figures.append(Figure(f"Llama-8B {name}: {found['shape']}", found["seconds"], "s"))
            beyond = found["megabytes_beyond_weights"]
            figures.append(Figure(f"Llama-8B {name}: memory beyond the weights", beyond, "MB"))
    return Findings(figures, facts)


def _random(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.02 * torch.randn(tuple(shape), generator=generator)


def _by_svd(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    unfoldings = (tensor.movedim(mode, 0).flatten(1) for mode in range(3))
    svd = torch.linalg.svd
    return [svd(u, full_matrices=False).U[:, :r] for u, r in zip(unfoldings, ranks, strict=True)]


def _by_tensorly(tensor: Tensor, ranks: Sequence[int]) -> Any:
    """HOSVD alone: more iterations are HOOI, take longer and give other factors."""
    with backend_context("pytorch"):
        return tucker(tensor, rank=list(ranks), n_iter_max=0, init="svd", svd="truncated_svd")


def _in_own_process(shape: tuple[int, int, int], setup: Setup) -> dict[str, Any]:
    """Where the peak of memory is this decomposition's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_decompose_once, (shape, setup.threads))


def _decompose_once(shape: tuple[int, int, int], threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    slices = [_random(shape[1:], seed).bfloat16() for seed in range(shape[0])]
    decompose(_random((2, 64, 64), 0), (2, 8, 8))  # LAPACK's own memory
    memory.release()
    before = memory.host_peak()
    clock = time.perf_counter()
    made = decompose(slices, tuple(map(min, RANKS, shape)))
    seconds = time.perf_counter() - clock
    peak = memory.host_peak()
    return {
        "shape": " x ".join(map(str, shape)), "ranks": list(made.ranks), "dtype": "bfloat16",
        "seconds": seconds, "weights_megabytes": round(2 * float(np.prod(shape)) / 2**20),
        "megabytes_beyond_weights": round(peak - before),
    }  # fmt: skip
