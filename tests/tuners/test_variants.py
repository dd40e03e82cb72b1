"""CRAFT's variants: each trains what its formula says and computes the dense formula."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from tiny_models import (
    RANKS,
    Stack,
    attach,
    excite,
    llama,
    loss,
    outputs,
    roberta,
    some_steps,
    trained,
)

from craft import CraftConfig
from craft.errors import InputError
from craft.export import as_lora
from craft.tucker import ALGORITHMS
from craft.tuners.craft import random_basis

SIX = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
DEFAULT = "n * (r1**2 + r2**2 + r3**2)"
# name -> settings, closed form, what differs from n = 2 projections, L = 3 layers, ranks (2, 5, 4)
VARIANTS = {
    "paper": ({}, DEFAULT, {}),
    "qkvo": ({"target_modules": SIX[:4]}, DEFAULT, {"n": 4}),
    "feed_forward": ({"target_modules": SIX}, DEFAULT, {"n": 6}),
    "rank_pattern": (
        {"rank_pattern": {"value": (1, 3, 6)}},
        "r1**2 + r2**2 + r3**2 + q1**2 + q2**2 + q3**2",
        {"q1": 1, "q2": 3, "q3": 6},
    ),
    "diagonal": ({"j": "diagonal"}, "n * (r1 + r2 + r3)", {}),
    "layer_mode": ({"modes": [1]}, "n * r1**2", {}),
    "outer_modes": ({"modes": (3, 2)}, "n * (r2**2 + r3**2)", {}),
    "diagonal_input": ({"j": "diagonal", "modes": [3]}, "n * r3", {}),
    "core": ({"train_core": True}, "n * (r1**2 + r2**2 + r3**2 + r1 * r2 * r3)", {}),
    "core_alone": ({"modes": [], "train_core": True}, "n * r1 * r2 * r3", {}),
    "diagonal_core": ({"j": "diagonal", "train_core": True}, "n*(r1 + r2 + r3 + r1*r2*r3)", {}),
    "blocks": (
        {"layer_blocks": 2},
        "n * (min(r1, L - L // 2)**2 + min(r1, L // 2)**2 + b * (r2**2 + r3**2))",
        {"b": 2},
    ),
    "hooi": ({"decomposition": "hooi"}, DEFAULT, {}),
    "random": ({"decomposition": "random"}, DEFAULT, {}),
    "random_matched": ({"decomposition": "random", "core_norm": "hosvd"}, DEFAULT, {}),
    "random_core": ({"core": "random", "decomposition_seed": 3}, DEFAULT, {}),
    "trailing": ({"decomposition": "trailing", "core_norm": "hosvd"}, DEFAULT, {}),
    "basis": ({"j": "basis", "j_basis": 7}, "n * 3 * k", {"k": 7}),
    "basis_of_two_modes": ({"j": "basis", "j_basis": 3, "modes": [1, 3]}, "n * 2 * k", {"k": 3}),
    "basis_and_core": (
        {"j": "basis", "j_basis": 3, "train_core": True},
        "n * (3 * k + r1 * r2 * r3)",
        {"k": 3},
    ),
    "fractions": ({"ranks": (0.6, 0.3, 0.25)}, DEFAULT, {}),  # of 3, 16, 16
}
every_variant = pytest.mark.parametrize("name", VARIANTS)
pytestmark = pytest.mark.filterwarnings(
    "ignore:ranks .* exceed the shape", "ignore:Could not find a config file"
)


def variant(name, **fields):
    return attach(roberta(), **{**VARIANTS[name][0], **fields})


@every_variant
def test_a_variant_trains_as_many_numbers_as_its_formula_says(name):
    _, formula, changes = VARIANTS[name]
    values = {"n": 2, "L": 3, "r1": 2, "r2": 5, "r3": 4, **changes}
    count = sum(p.numel() for p in trained(variant(name)).values())
    assert count == eval(formula, {"min": min}, values)


def dense(tuner, group, adapter="default"):
    """T - R by reconstruction, J = I where none trains."""

    def j(mode, size):
        d, c = (tuner.find(adapter, group, f"{name}{mode}") for name in "Dc")
        if c is not None:
            basis = tuner.tensor(adapter, group, f"B{mode}")
            d = torch.stack([one * matrix for one, matrix in zip(c, basis, strict=True)]).sum(0)
        d = torch.zeros(size, dtype=torch.float64) if d is None else d
        return torch.eye(size, dtype=torch.float64) + (torch.diag(d) if d.ndim == 1 else d)

    core, *factors = (tuner.tensor(adapter, group, n) for n in ("core", "U1", "U2", "U3"))
    change = tuner.find(adapter, group, "dG")
    moved = [u @ j(mode, u.shape[1]) for mode, u in enumerate(factors, 1)]
    t = torch.einsum("abc,na,ib,jc->nij", core if change is None else core + change, *moved)
    return t - torch.einsum("abc,na,ib,jc->nij", core, *factors)


@every_variant
def test_a_variant_starts_exact_and_computes_the_dense_formula_with_gradients(name):
    assert torch.equal(outputs(variant(name)), outputs(roberta()))
    model = excite(variant(name).double())
    tuner = model.base_model
    for group in tuner.groups["default"]:
        parameters = tuner.trained_tensors("default", group)
        updates = torch.stack([layer.get_delta_weight("default") for layer in group.layers])
        torch.testing.assert_close(updates, dense(tuner, group), rtol=0, atol=1e-10)
        weight = torch.randn(group.shape, dtype=torch.float64)
        expected = torch.autograd.grad((dense(tuner, group) * weight).sum(), parameters)
        u, v = tuner.outer_matrices("default", group, 0)
        small = u @ tuner.small_matrices("default", group) @ v.T
        found = torch.autograd.grad((small * weight).sum(), parameters)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    loss(model).backward()
    assert all(p.grad.abs().max() > 0 for p in trained(model).values())


@every_variant
@pytest.mark.parametrize("save_factors", [True, False])
def test_a_variant_is_saved_loaded_merged_and_leaves_as_a_lora(name, save_factors, tmp_path):
    model = excite(variant(name, save_factors=save_factors))
    adapted = outputs(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(roberta(), tmp_path)
    assert torch.equal(outputs(loaded), adapted)
    config, tensors = as_lora(model)
    assert (
        config.r == max(min(r[1:]) for r in model.base_model.ranks().values()) or name == "blocks"
    )
    assert sum("lora_A" in key for key in tensors) == len(config.target_modules)
    torch.testing.assert_close(outputs(model.merge_and_unload()), adapted, rtol=0, atol=1e-4)


def test_paper_start_of_a_diagonal_is_small_and_on_the_diagonal():
    model = variant("diagonal", init="paper", eps=0.5, sigma=1.0)
    assert all(p.ndim == 1 and p.abs().max() > 0 for p in trained(model).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@every_variant
def test_a_variant_starts_exact_in_every_precision(name, dtype):
    model = variant(name).to(dtype)
    assert torch.equal(outputs(model), outputs(roberta().to(dtype)))


# ---- controls of the decomposition


def core_of(group="query", **fields):
    tuner = attach(roberta(), **fields).base_model
    return getattr(tuner, f"craft_{group}_core")["default"]


@pytest.mark.parametrize("group", ["query", "value"])
def test_controls_have_cores_of_hosvd_s_norm(group):
    norm = core_of(group).norm()
    for name in ("random_matched", "random_core", "trailing"):
        torch.testing.assert_close(core_of(group, **VARIANTS[name][0]).norm(), norm)
    assert core_of(group, decomposition="random").norm() < 0.8 * norm
    assert core_of(group, decomposition="trailing").norm() < 0.8 * norm


def test_trailing_directions_are_orthogonal_to_the_leading_ones_but_for_the_layers():
    trailing, hosvd = (
        attach(roberta(), decomposition=name).base_model for name in ("trailing", "hosvd")
    )
    for group in ("query", "value"):
        u1, u2, u3 = (
            [getattr(tuner, f"craft_{group}_U{mode}")["default"] for tuner in (trailing, hosvd)]
            for mode in (1, 2, 3)
        )
        assert torch.equal(*u1)
        assert all((a.T @ b).abs().max() < 1e-6 for a, b in (u2, u3))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"decomposition": "random", "core_norm": "hosvd"}, ("U1", "U2", "U3", "core")),
        ({"core": "random"}, ("core",)),
        ({"j": "basis", "j_basis": 7}, ("B1", "B2", "B3")),
    ],
)
def test_what_a_control_draws_differs_by_seed_and_by_projection(fields, names):
    def drawn(seed, group):
        tuner = attach(roberta(), decomposition_seed=seed, **fields).base_model
        return [getattr(tuner, f"craft_{group}_{name}")["default"] for name in names]

    first = drawn(0, "query")
    assert all(map(torch.equal, drawn(0, "query"), first))
    for other in (drawn(1, "query"), drawn(0, "value")):
        assert not any(torch.allclose(a, b) for a, b in zip(first, other, strict=True))


def test_the_three_modes_draw_apart():
    """Of equal ranks, too."""
    tuner = attach(roberta(), ranks=(3, 3, 3), j="basis", j_basis=4).base_model
    b1, b2, b3 = (getattr(tuner, f"craft_query_B{mode}")["default"] for mode in (1, 2, 3))
    assert not any(torch.allclose(a, b) for a, b in ((b1, b2), (b2, b3), (b1, b3)))


# ---- J of a basis


@pytest.mark.parametrize(("k", "rank"), [(1, 5), (7, 2), (100, 40)])
def test_a_step_of_coefficients_is_as_long_as_one_of_a_full_matrix(k, rank):
    basis = random_basis(k, rank, 0, "query", "B2")
    norm = torch.full((k,), rank / math.sqrt(k), dtype=torch.float64)
    torch.testing.assert_close(basis.flatten(1).norm(dim=1), norm)
    generator = torch.Generator().manual_seed(0)
    steps = 0.01 * torch.randn(200, k, generator=generator, dtype=torch.float64).sign()
    changes = torch.einsum("nk,kij->nij", steps, basis)
    assert changes.square().mean().sqrt() == pytest.approx(0.01, rel=0.1)


def test_only_the_coefficients_of_a_basis_train_and_its_matrices_do_not_move():
    model = attach(roberta(), j="basis", j_basis=7)
    shapes = {name.rpartition("_")[2]: tuple(p.shape) for name, p in trained(model).items()}
    assert shapes == {"c1": (7,), "c2": (7,), "c3": (7,)}
    basis = model.base_model.craft_query_B2["default"].clone()
    some_steps(model, weight_decay=0.1)
    assert all(p.abs().max() > 0 for p in trained(model).values())
    assert torch.equal(model.base_model.craft_query_B2["default"], basis)


def test_paper_start_of_a_basis_is_as_small_as_that_of_a_full_matrix():
    model = attach(Stack(3, 64, 64), ranks=(3, 40, 40), target_modules=["proj"], j="basis",
                   init="paper", eps=0.5, sigma=0.2)  # fmt: skip
    (group,) = model.base_model.groups["default"]
    change = model.base_model.change("default", group, 2).detach()
    assert change.square().mean().sqrt() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("save_factors", [True, False])
def test_a_basis_is_in_the_file_where_factors_are(save_factors, tmp_path):
    model = attach(roberta(), j="basis", j_basis=7, save_factors=save_factors)
    saved = get_peft_model_state_dict(model)
    names = {name.rpartition("_")[2] for name in saved if "craft_query" in name}
    frozen = {"core", "U1", "U2", "U3", "B1", "B2", "B3"}
    assert names == {"c1", "c2", "c3"} | (frozen if save_factors else set())


def test_a_basis_of_the_study_s_size_loads_bit_for_bit(tmp_path):
    def made():
        return Stack(6, 384, 384)

    model = excite(
        attach(made(), ranks=(6, 100, 100), target_modules=["proj"], j="basis"), scale=0.1
    )
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 384)
    assert torch.equal(PeftModel.from_pretrained(made(), tmp_path)(x), model(x))


def test_blocks_are_runs_of_consecutive_layers():
    model = attach(roberta(num_hidden_layers=5), layer_blocks=2, target_modules=["query"])
    groups = model.base_model.groups["default"]
    layers = [layer.attention.self.query for layer in model.roberta.encoder.layer]
    assert {g.name: g.layers for g in groups} == {
        "query_block0": layers[:3],
        "query_block1": layers[3:],
    }


def test_as_many_blocks_as_layers_are_tensors_of_one_layer():
    model = attach(roberta(), layer_blocks=3, ranks=(1, 5, 4))
    assert set(model.base_model.ranks().values()) == {(1, 5, 4)}
    assert len(model.base_model.groups["default"]) == 6


def test_a_rank_pattern_takes_names_and_patterns():
    model = attach(llama(), rank_pattern={"self_attn.v_proj": "energy:1", "q_.*": (1, 2, 3)})
    assert model.base_model.ranks() == {"q_proj": (1, 2, 3), "v_proj": (3, 8, 16)}


# ---- ranks by energy


def spectrum(group, mode):
    stack = torch.stack([w.detach() for w in group.weights()]).double()
    return torch.linalg.svdvals(stack.movedim(mode, 0).flatten(1)) ** 2


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("decomposition", ALGORITHMS)
def test_energy_is_the_fewest_that_hold_its_share_of_the_spectrum(share, decomposition):
    model = attach(roberta(), ranks=f"energy:{share}", decomposition=decomposition)
    for group in model.base_model.groups["default"]:
        for mode, rank in enumerate(model.base_model.ranks()[group.name]):
            values = spectrum(group, mode)
            held = values.cumsum(0) / values.sum()
            assert held[rank - 1] >= share and (rank == 1 or held[rank - 2] < share)


def test_all_of_the_energy_is_full_rank_and_little_of_it_is_one():
    assert attach(roberta(), ranks="energy:1.0").base_model.ranks()["query"] == (3, 16, 16)
    assert attach(roberta(), ranks="energy:0.01").base_model.ranks()["query"] == (1, 1, 1)


def test_ranks_of_three_kinds_stand_side_by_side():
    ranks = attach(roberta(), ranks=(1.0, 5, "energy:0.5")).base_model.ranks()["query"]
    assert ranks[:2] == (3, 5) and 1 < ranks[2] < 16


def test_an_adapter_of_energy_loads_onto_weights_of_another_spectrum(tmp_path):
    """Its ranks are in its file: the base model's own are not asked again."""

    def other():
        model = roberta()
        for layer in model.roberta.encoder.layer:
            layer.attention.self.query.weight.data[1:] *= 1e-3
        return model

    model = excite(attach(roberta(), ranks="energy:0.6"))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert attach(other(), ranks="energy:0.6").base_model.ranks() != model.base_model.ranks()
    with pytest.warns(UserWarning, match="made on other weights of query than"):
        loaded = PeftModel.from_pretrained(other(), tmp_path)
    assert loaded.base_model.ranks() == model.base_model.ranks()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": "energy:1.5"}, "fractions in .0, 1. or 'energy:<share>'"),
        ({"ranks": "energy:0"}, "three positive integers"),
        ({"ranks": 1.5}, "not 1.5"),
        ({"ranks": (0.0, 5, 4)}, "three positive integers"),
        ({"rank_pattern": {"value": (1, 2)}}, "three positive integers"),
        ({"j": "triangular"}, "j 'triangular' is not one of full, diagonal, basis"),
        ({"j": "basis", "j_basis": 0}, "j_basis must be a positive integer, not 0"),
        ({"core": "gaussian"}, "core 'gaussian' is not one of fitted, random"),
        ({"core_norm": "unit"}, "core_norm 'unit' is not one of own, hosvd"),
        ({"decomposition_seed": 0.5}, "decomposition_seed must be an integer, not 0.5"),
        ({"modes": [0, 1]}, "modes must be some of 1, 2, 3"),
        ({"modes": [1, 1]}, "modes must be some of 1, 2, 3"),
        ({"modes": []}, "nothing trains"),
        ({"layer_blocks": 0}, "layer_blocks must be a positive integer, not 0"),
    ],
)
def test_unusable_settings_are_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        CraftConfig(**fields)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # peft's own word on it
def test_settings_that_do_not_fit_the_model_are_refused_by_name():
    with pytest.raises(InputError, match="layer_blocks 4 exceeds the 3 layers of query"):
        attach(roberta(), layer_blocks=4)
    with pytest.raises(InputError, match="rank_pattern: key matches none of .*self.query, .*value"):
        attach(roberta(), rank_pattern={"key": RANKS})


# ---- memory


def test_the_decomposition_never_holds_the_stack_in_float64():
    """Layer by layer: the largest float64 tensor is far below N x d_out x d_in."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                    Largest.numbers = max(Largest.numbers, tensor.numel())
            return made

    layers, d_out, d_in = 12, 1024, 256
    model = Stack(layers, d_out, d_in, dtype=torch.bfloat16)
    with Largest():
        attach(model, ranks=(4, 16, 16), target_modules=["proj"])
    assert 0 < Largest.numbers <= max(layers * 256 * d_in, d_out**2) < layers * d_out * d_in / 2
