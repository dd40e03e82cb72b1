"""Tucker algebra against tensorly, its own definition, and bad input."""

import multiprocessing
import time
import warnings

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tucker as tensorly_tucker

from craft.errors import InputError
from craft.tucker import (
    ALGORITHMS,
    CORE_NORMS,
    CORES,
    DecompositionCache,
    _leading_vectors,
    clip_ranks,
    decompose,
    gram_matrices,
)


def low_rank(shape=(6, 20, 14), ranks=(3, 5, 4), noise=0.1, seed=0):
    """Random weights say little about an approximation: use a low multilinear rank plus noise."""
    g = torch.Generator().manual_seed(seed)
    core = torch.randn(ranks, generator=g, dtype=torch.float64)
    factors = [
        torch.randn(n, r, generator=g, dtype=torch.float64)
        for n, r in zip(shape, ranks, strict=True)
    ]
    exact = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
    return exact + noise * torch.randn(shape, generator=g, dtype=torch.float64)


def test_hosvd_equals_tensorly_up_to_signs():
    tensor = low_rank()
    ours = decompose(tensor, (3, 5, 4))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        core, factors = tensorly_tucker(
            tensor, rank=(3, 5, 4), n_iter_max=0, init="svd", svd="truncated_svd"
        )
    for mine, theirs in zip(ours.factors, factors, strict=True):
        torch.testing.assert_close(
            (mine.T @ theirs).abs(), torch.eye(mine.shape[1], dtype=mine.dtype)
        )
    torch.testing.assert_close(ours.core.abs(), core.abs())


def test_hosvd_factors_are_the_leading_singular_vectors_of_the_unfoldings():
    tensor = low_rank()
    ours = decompose(tensor, (3, 5, 4))
    for mode, factor in enumerate(ours.factors):
        unfolding = tensor.movedim(mode, 0).flatten(1)
        u = torch.linalg.svd(unfolding, full_matrices=False).U[:, : factor.shape[1]]
        torch.testing.assert_close((u.T @ factor).abs(), torch.eye(factor.shape[1], dtype=u.dtype))


def test_few_leading_vectors_are_those_of_the_whole_spectrum():
    """Computed alone: of a Gram matrix whose eigenvalues come in close pairs, too."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(120, 120, dtype=torch.float64, generator=generator)).Q
    values = 1.1 ** torch.arange(60).repeat_interleave(2) + 1e-3 * torch.arange(120)
    gram = (basis * values) @ basis.T
    few, all_of_them = (_leading_vectors(gram, rank) for rank in (30, 120))  # 4 x 30 <= 120
    torch.testing.assert_close(few, all_of_them[:, :30], rtol=0, atol=1e-9)
    torch.testing.assert_close(few.T @ few, torch.eye(30, dtype=few.dtype), rtol=0, atol=1e-12)


def test_a_list_of_matrices_equals_their_stack():
    tensor = low_rank()
    for a, b in zip(
        decompose(tensor, (2, 3, 3)).factors,
        decompose(list(tensor), (2, 3, 3)).factors,
        strict=True,
    ):
        assert torch.equal(a, b)


def test_gram_matrices_are_those_of_the_unfoldings():
    tensor = low_rank((4, 300, 7))  # more rows than one block
    for mode, gram in enumerate(gram_matrices(list(tensor))):
        unfolding = tensor.movedim(mode, 0).flatten(1)
        torch.testing.assert_close(gram, unfolding @ unfolding.T)


@pytest.mark.parametrize("shape", [(2, 700, 30), (2, 30, 513), (1, 512, 40)])
def test_half_products_are_the_whole_gram_matrix(shape):
    """Blocks that do not divide the size, and a size that is one block."""
    slices = list(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    _, rows, columns = gram_matrices(slices)
    wide = [matrix.double() for matrix in slices]
    torch.testing.assert_close(rows, sum(m @ m.T for m in wide), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(columns, sum(m.T @ m for m in wide), rtol=1e-12, atol=1e-12)
    for gram in (rows, columns):
        if len(gram) > 512:
            assert torch.equal(gram[:256, 256:], gram[256:, :256].T)
        else:
            whole = torch.zeros_like(gram)
            for m in wide:
                m = m if len(m) == len(gram) else m.T
                whole.addmm_(m, m.T)
            assert torch.equal(gram, whole)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    algorithm=st.sampled_from(ALGORITHMS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_full_rank_is_exact_and_factors_are_orthonormal(shape, algorithm, dtype):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    made = decompose(tensor, shape, algorithm)
    assert made.ranks == shape
    torch.testing.assert_close(made.reconstruct(), tensor.double(), rtol=1e-9, atol=1e-9)
    for factor in made.factors:
        identity = torch.eye(factor.shape[1], dtype=torch.float64)
        assert (factor.T @ factor - identity).abs().max() < 1e-12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_runs_agree_bit_for_bit(algorithm):
    first, second = (decompose(low_rank(), (3, 5, 4), algorithm, seed=3) for _ in range(2))
    assert torch.equal(first.core, second.core)
    assert all(torch.equal(a, b) for a, b in zip(first.factors, second.factors, strict=True))
    for factor in first.factors:
        largest = factor.gather(0, factor.abs().argmax(0, keepdim=True))
        assert (largest > 0).all()


def test_error_falls_from_random_to_hosvd_to_hooi():
    tensor = low_rank(noise=1.0)
    error = {a: (decompose(tensor, (2, 3, 3), a).reconstruct() - tensor).norm() for a in ALGORITHMS}
    assert error["hooi"] < error["hosvd"] < error["random"] < error["trailing"]


# ---- controls


@pytest.mark.parametrize("ranks", [(3, 4, 3), (3, 12, 9), ("energy:0.9", 5, "energy:0.5")])
def test_trailing_factors_are_the_last_singular_vectors_of_outputs_and_inputs(ranks):
    """4 x 4 <= 20 is computed alone, 12 of 20 is not; the layers' factor stays as it was."""
    tensor = low_rank(noise=1.0)
    hosvd, made = decompose(tensor, ranks), decompose(tensor, ranks, "trailing")
    assert made.ranks == hosvd.ranks
    assert torch.equal(made.factors[0], hosvd.factors[0])
    for mode in (1, 2):
        factor, leading = made.factors[mode], hosvd.factors[mode]
        u = torch.linalg.svd(tensor.movedim(mode, 0).flatten(1), full_matrices=False).U
        last = u[:, -factor.shape[1] :]
        identity = torch.eye(factor.shape[1], dtype=u.dtype)
        torch.testing.assert_close((last.T @ factor).abs(), identity)
        if 2 * factor.shape[1] <= len(u):
            assert (leading.T @ factor).abs().max() < 1e-12
    fitted = torch.einsum("nij,na,ib,jc->abc", tensor, *made.factors)
    torch.testing.assert_close(made.core, fitted)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("core", CORES)
def test_the_core_has_the_norm_that_is_asked_for(algorithm, core):
    tensor, ranks = low_rank(noise=1.0), (2, 3, 3)
    own = decompose(tensor, ranks, algorithm, seed=5, core=core)
    hosvd = decompose(tensor, ranks, algorithm, seed=5, core=core, core_norm="hosvd")
    fitted = torch.einsum("nij,na,ib,jc->abc", tensor, *own.factors)
    torch.testing.assert_close(own.core.norm(), fitted.norm())
    torch.testing.assert_close(hosvd.core.norm(), decompose(tensor, ranks).core.norm())
    assert all(map(torch.equal, own.factors, hosvd.factors))
    cosine = (own.core * fitted).sum() / fitted.norm() ** 2
    assert cosine > 1 - 1e-12 if core == "fitted" else abs(cosine) < 0.9
    torch.testing.assert_close(hosvd.core / hosvd.core.norm(), own.core / own.core.norm())


def test_hosvd_at_its_own_norm_is_hosvd_bit_for_bit():
    first, second = (
        decompose(low_rank(), (3, 5, 4)),
        decompose(low_rank(), (3, 5, 4), core_norm="hosvd"),
    )
    assert torch.equal(first.core, second.core)


def test_a_random_core_is_gaussian_over_all_its_entries():
    tensor = torch.randn(12, 40, 40, generator=torch.Generator().manual_seed(0))
    core = decompose(tensor, (12, 30, 30), core="random").core
    core = core / core.square().mean().sqrt()
    assert abs(core.mean()) < 0.05 and abs((core**4).mean() - 3) < 0.3
    energy = core.square().mean((1, 2))
    assert energy.min() > 0.8 and energy.max() < 1.2  # HOSVD's own falls from slice to slice


def test_what_is_drawn_differs_by_seed_and_by_name():
    tensor, ranks = low_rank(), (3, 5, 4)
    draws = [
        (
            decompose(tensor, ranks, "random", seed, name),
            decompose(tensor, ranks, "hosvd", seed, name, "random"),
        )
        for seed, name in ((0, "query"), (1, "query"), (0, "value"))
    ]
    for n, (factors, core) in enumerate(draws):
        for other_factors, other_core in draws[:n]:
            for a, b in zip(factors.factors, other_factors.factors, strict=True):
                assert not torch.allclose(a, b)
            assert all(map(torch.equal, core.factors, other_core.factors))
            assert (
                abs(
                    torch.corrcoef(torch.stack([core.core.flatten(), other_core.core.flatten()]))[
                        0, 1
                    ]
                )
                < 0.5
            )


def test_a_core_of_zeros_is_not_scaled():
    tensor = torch.zeros(3, 8, 8)
    tensor[:, :4, :4] = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert decompose(tensor, (2, 3, 3), "trailing").core.norm() < 1e-12
    with pytest.raises(InputError, match="value has no part along its trailing factors"):
        decompose(tensor, (2, 3, 3), "trailing", name="value", core_norm="hosvd")


def test_ranks_above_the_shape_are_clipped_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"\(24, 5, 4\) exceed the shape \(6, 20, 14\).*using \(6, 5, 4\)"
    ):
        assert decompose(low_rank(), (24, 5, 4)).ranks == (6, 5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clip_ranks((6, 5, 4), (6, 20, 14)) == (6, 5, 4)


@pytest.mark.parametrize(
    "ranks", [(0, 5, 4), (-1, 5, 4), (3, 5), (3, 5, 4, 4), (3.0, 5, 4), (True, 5, 4)]
)
def test_bad_ranks_are_refused_by_name(ranks):
    with pytest.raises(InputError, match="three positive integers"):
        decompose(low_rank(), ranks)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 4), "third-order"),
        (torch.zeros(3, 4, 5, 6), "third-order"),
        (torch.full((2, 3, 3), float("nan")), "NaN or inf"),
        (torch.full((2, 3, 3), float("inf")), "NaN or inf"),
        (torch.zeros(2, 3, 3, dtype=torch.int64), "floating point"),
        ([torch.zeros(2, 3), torch.zeros(3, 2)], "one shape"),
        ([], "one shape"),
    ],
)
def test_bad_tensors_are_refused_by_name(tensor, message):
    with pytest.raises(InputError, match=message):
        decompose(tensor, (1, 1, 1), name="W")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": "als"}, "decomposition 'als' is not one of hosvd, hooi, random, trailing"),
        ({"core": "best"}, "core 'best' is not one of fitted, random"),
        ({"core_norm": "unit"}, "core_norm 'unit' is not one of own, hosvd"),
    ],
)
def test_unknown_choices_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        decompose(low_rank(), (1, 1, 1), **fields)


def test_cache_tells_controls_apart_and_gives_back_what_was_made(tmp_path):
    cache, slices, ranks = DecompositionCache(tmp_path), list(low_rank(noise=1.0)), (3, 5, 4)
    choices = [
        (algorithm, seed, name, core, core_norm)
        for algorithm in ALGORITHMS
        for core in CORES
        for core_norm in CORE_NORMS
        for seed, name in ((0, "query"), (1, "query"), (0, "value"))
        if "random" in (algorithm, core) or (seed, name) == (0, "query")
    ]
    made = [cache.decompose(slices, ranks, *choice) for choice in choices]
    assert len(list(tmp_path.iterdir())) == len(choices) == 36
    for choice, first in zip(choices, made, strict=True):
        for again in (cache.decompose(slices, ranks, *choice), decompose(slices, ranks, *choice)):
            assert torch.equal(first.core, again.core)
            assert all(map(torch.equal, first.factors, again.factors))
    cache.decompose(
        slices, ranks, "trailing", 3, "value"
    )  # draws nothing: seed and name are nothing to it
    assert len(list(tmp_path.iterdir())) == len(choices)


def test_cache_finds_what_was_kept_before_there_were_controls(tmp_path):
    tensor = torch.arange(24.0).reshape(2, 3, 4)
    DecompositionCache(tmp_path).decompose(list(tensor), (1, 2, 2), name="query")
    assert [path.stem for path in tmp_path.iterdir()] == [
        "77f1446eb7e8f9429a0942ed1a61dbb635672897944238e26749a70c1f8994b0"
    ]


def test_cache_is_keyed_by_weights_ranks_and_algorithm(tmp_path):
    cache, tensor = DecompositionCache(tmp_path), low_rank()
    first = cache.decompose(list(tensor), (3, 5, 4))
    again = cache.decompose(list(tensor.clone()), (3, 5, 4))
    assert torch.equal(first.core, again.core) and len(list(tmp_path.iterdir())) == 1
    cache.decompose(list(tensor), (2, 5, 4))
    cache.decompose(list(tensor), (3, 5, 4), "hooi")
    cache.decompose(list(tensor), (3, 5, 4), "random", seed=1)
    cache.decompose(list(tensor), (3, 5, 4), "random", seed=2)
    cache.decompose(list(tensor + 1e-9), (3, 5, 4))
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_cache_file_is_made_again(tmp_path, damage):
    cache, slices = DecompositionCache(tmp_path), list(low_rank())
    whole = cache.decompose(slices, (3, 5, 4))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    path.write_bytes({"truncated": content[:-50], "flipped": content, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match="decomposing again"):
        assert torch.equal(cache.decompose(slices, (3, 5, 4)).core, whole.core)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.decompose(slices, (3, 5, 4))


def _fill(folder, start):
    torch.set_num_threads(1)
    time.sleep(max(0.0, start - time.time()))
    for seed in range(8):
        DecompositionCache(folder).decompose(list(low_rank(seed=seed)), (3, 5, 4))


def test_several_processes_fill_one_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, time.time() + 0.3)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fill(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 8
