"""CRAFT's own promises: what trains, where it starts, what it computes, and what it refuses."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tiny_models import (
    IDS,
    LABELS,
    RANKS,
    Stack,
    attach,
    excite,
    gpt2,
    gradients,
    llama,
    loss,
    outputs,
    roberta,
    some_steps,
    t5,
    trained,
)
from torch.func import functional_call
from transformers import AlbertConfig, AlbertForSequenceClassification, RobertaConfig, RobertaModel

from craft import CraftConfig, use_cache
from craft.errors import InputError

# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "width", "heads", "count"), [(24, 1024, 16, 41_152), (12, 768, 12, 40_288)]
)
@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape")
def test_trains_the_paper_s_number_of_adapter_parameters(layers, width, heads, count):
    config = RobertaConfig(
        vocab_size=4,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4,
        max_position_embeddings=4,
    )
    with torch.device("meta"):
        backbone = RobertaModel(config)
    backbone.to_empty(device="cpu").apply(lambda m: [p.data.zero_() for p in m.parameters()])
    model = attach(backbone, ranks=(24, 100, 100), decomposition="random")
    assert model.get_nb_trainable_parameters()[0] == count


def test_trains_the_adapter_and_the_head_and_nothing_else():
    model = attach(roberta())
    adapter = sum(p.numel() for p in trained(model).values())
    head = sum(p.numel() for p in model.classifier.modules_to_save.parameters())
    assert adapter == 2 * (2**2 + 5**2 + 4**2)
    assert model.get_nb_trainable_parameters()[0] == adapter + head


def test_ranks_are_clipped_with_a_warning_and_reported():
    with pytest.warns(
        UserWarning, match=r"ranks \(24, 5, 4\) exceed .* of query; using \(3, 5, 4\)"
    ):
        model = attach(roberta(), ranks=(24, 5, 4), target_modules=["query"])
    assert model.base_model.ranks() == {"query": (3, 5, 4)}


# ---- start ---------------------------------------------------------------------------------------


def test_exact_start_is_the_backbone_bit_for_bit():
    before = outputs(roberta())
    assert torch.equal(outputs(attach(roberta())), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exact_start_is_the_backbone_bit_for_bit_under_autocast(dtype):
    model, backbone = attach(roberta()), roberta()
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(outputs(model), outputs(backbone))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_exact_start_is_the_backbone_bit_for_bit_after_a_change_of_precision(dtype):
    model, backbone = attach(roberta()).to(dtype), roberta().to(dtype)
    assert torch.equal(outputs(model), outputs(backbone))


@pytest.mark.parametrize("build", [llama, gpt2, t5])
def test_exact_start_holds_for_other_shapes_of_attention(build):
    assert torch.equal(outputs(attach(build())), outputs(build()))


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    ranks=st.tuples(st.integers(1, 5), st.integers(1, 10), st.integers(1, 10)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape")
def test_exact_start_is_exact_for_every_shape_rank_and_dtype(shape, ranks, dtype):
    stack = Stack(*shape, dtype=dtype)
    x = torch.randn(3, shape[2]).to(dtype)
    before = stack(x)
    model = attach(stack, ranks=ranks, target_modules=["proj"])
    assert torch.equal(model(x), before)
    assert set(model.base_model.ranks().values()) == {
        tuple(min(r, n) for r, n in zip(ranks, shape, strict=True))
    }


def test_paper_start_moves_the_model_a_little():
    moved = (outputs(attach(roberta(), init="paper")) - outputs(roberta())).abs().max()
    assert 0 < moved < 1e-2


@pytest.mark.parametrize(("eps", "sigma"), [(0.01, 0.02), (0.5, 2.0)])
def test_paper_start_has_the_standard_deviation_of_its_equation(eps, sigma):
    model = attach(
        Stack(4, 64, 64),
        ranks=(4, 60, 60),
        target_modules=["proj"],
        init="paper",
        eps=eps,
        sigma=sigma,
    )
    numbers = torch.cat([p.detach().flatten() for p in trained(model).values()])
    assert numbers.mean().abs() < 0.05 * eps * sigma
    assert numbers.std().item() == pytest.approx(eps * sigma, rel=0.05)


def test_the_same_seed_gives_the_same_start():
    first, second = (attach(roberta(seed=3), init="paper") for _ in range(2))
    for name, parameter in trained(first).items():
        assert torch.equal(parameter, trained(second)[name])


# ---- what it computes ----------------------------------------------------------------------------


def dense_loss(model, backbone, ids=IDS, labels=LABELS):
    """Loss and logits by the paper's formula, and the J = I + D that they depend on.

    Reconstruct T and R, add T - R to W, multiply."""
    tuner, weights, js = model.base_model, {}, {}
    for group in tuner.groups["default"]:
        core, u1, u2, u3 = (tuner.tensor("default", group, n) for n in ("core", "U1", "U2", "U3"))
        j1, j2, j3 = (
            (torch.eye(len(d)) + d.detach()).requires_grad_()
            for d in (tuner.tensor("default", group, n) for n in ("D1", "D2", "D3"))
        )
        t = torch.einsum("abc,na,ib,jc->nij", core, u1 @ j1, u2 @ j2, u3 @ j3)
        r = torch.einsum("abc,na,ib,jc->nij", core, u1, u2, u3)
        for layer, update in enumerate(t - r):
            name = f"roberta.encoder.layer.{layer}.attention.self.{group.name}.weight"
            weights[name] = backbone.get_parameter(name).detach() + update
        js |= {f"craft_{group.name}_D{n}": j for n, j in enumerate((j1, j2, j3), 1)}
    fields = {"input_ids": ids, "labels": labels}
    result = functional_call(backbone, weights, kwargs=fields)
    return result.loss, result.logits, js


def test_factored_forward_equals_the_dense_formula_in_float64_with_gradients():
    model, backbone = attach(roberta()).double(), roberta().double()
    excite(model)
    value, logits, js = dense_loss(model, backbone)
    value.backward()
    loss(model).backward()
    torch.testing.assert_close(outputs(model), logits, rtol=0, atol=1e-10)
    assert (logits - outputs(roberta().double())).abs().max() > 0.1  # the update is not small
    for name, gradient in gradients(model).items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, js[name].grad, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    ranks=st.tuples(st.integers(1, 5), st.integers(1, 10), st.integers(1, 10)),
)
@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape")
def test_update_equals_the_dense_formula_for_every_shape_and_rank(shape, ranks):
    model = attach(Stack(*shape), ranks=ranks, target_modules=["proj"]).double()
    excite(model)
    tuner = model.base_model
    (group,) = tuner.groups["default"]
    names = ("core", "U1", "U2", "U3", "D1", "D2", "D3")
    core, u1, u2, u3, d1, d2, d3 = (tuner.tensor("default", group, name) for name in names)
    j1, j2, j3 = (torch.eye(len(d)) + d for d in (d1, d2, d3))
    t = torch.einsum("abc,na,ib,jc->nij", core, u1 @ j1, u2 @ j2, u3 @ j3)
    r = torch.einsum("abc,na,ib,jc->nij", core, u1, u2, u3)
    for layer, update in zip(group.layers, t - r, strict=True):
        delta = layer.get_delta_weight("default")
        torch.testing.assert_close(delta, update, rtol=0, atol=1e-12)
        x = torch.randn(2, shape[2], dtype=torch.float64)
        expected = x @ (layer.weight + update).T + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_two_forwards_before_one_backward_equal_the_dense_formula():
    model, backbone = attach(roberta()).double(), roberta().double()
    excite(model)
    batches = [(IDS, LABELS), (IDS.flip(0)[:, 2:], LABELS)]
    dense = [dense_loss(model, backbone, *batch) for batch in batches]
    sum(value for value, _, _ in dense).backward()
    (loss(model, *batches[0]) + loss(model, *batches[1])).backward()
    for name, gradient in gradients(model).items():
        expected = sum(js[name].grad for _, _, js in dense)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_accumulated_gradients_equal_the_dense_formula():
    model, backbone = attach(roberta()).double(), roberta().double()
    excite(model)
    expected = {}
    for half in (slice(0, 2), slice(2, 4)):
        loss(model, IDS[half], LABELS[half]).backward()
        value, _, js = dense_loss(model, backbone, IDS[half], LABELS[half])
        value.backward()
        expected = {name: expected.get(name, 0) + j.grad for name, j in js.items()}
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


def test_a_tiny_update_keeps_its_accuracy_in_float32():
    """M(J) - M(I) has lost half its digits for D of the paper's start; M written in D has not."""
    model = excite(attach(roberta()), scale=1e-6)
    tuner = model.base_model
    for group in tuner.groups["default"]:
        single = tuner.small_matrices("default", group)
        tuner.double()
        exact = tuner.small_matrices("default", group)
        tuner.float()
        assert ((single - exact).norm() / exact.norm()) < 1e-6


def test_a_double_backbone_under_autocast_keeps_its_precision():
    """Autocast leaves float64 alone, and so must the update."""
    model = excite(attach(roberta()).double())
    layer = model.roberta.encoder.layer[0].attention.self.query
    x = torch.randn(3, 16, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        update = layer(x) - layer.base_layer(x)
    torch.testing.assert_close(update, x @ layer.get_delta_weight("default").T)


def test_weight_decay_alone_pulls_the_update_to_zero():
    model = excite(attach(roberta()))
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1, weight_decay=1.0)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    (loss(model) * 0).backward()
    optimizer.step()
    for name, parameter in trained(model).items():
        torch.testing.assert_close(parameter, 0.9 * before[name])
    for _ in range(300):
        optimizer.step()
    torch.testing.assert_close(outputs(model), outputs(roberta()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [llama, gpt2, t5])
def test_non_square_projections_train_and_merge(build):
    model = attach(build()).double()
    start = loss(model, labels=IDS).item()
    model.train()
    optimizer = torch.optim.Adam(trained(model).values(), lr=0.05)
    for _ in range(5):
        loss(model, labels=IDS).backward()
        assert all(p.grad.abs().max() > 0 for p in trained(model).values())
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert loss(model, labels=IDS).item() < start
    adapted = outputs(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(outputs(merged), adapted, rtol=0, atol=1e-10)
    assert not any("craft" in name for name in merged.state_dict())


# ---- groups --------------------------------------------------------------------------------------


def test_groups_are_projections_over_the_layers_in_order():
    groups = attach(llama()).base_model.groups["default"]
    assert {g.name: g.shape for g in groups} == {"q_proj": (3, 16, 16), "v_proj": (3, 8, 16)}


def test_groups_are_in_layer_order_beyond_ten_layers():
    model = attach(roberta(num_hidden_layers=11))
    layers = [layer.attention.self.query for layer in model.roberta.encoder.layer]
    assert model.base_model.groups["default"][0].layers == layers


def test_attention_of_t5_s_encoder_decoder_and_cross_are_groups_of_their_own():
    names = {group.name for group in attach(t5()).base_model.groups["default"]}
    assert names == {
        f"{place}_{projection}"
        for place in (
            "encoder_block_N_layer_0_SelfAttention",
            "decoder_block_N_layer_0_SelfAttention",
            "decoder_block_N_layer_1_EncDecAttention",
        )
        for projection in "qv"
    }


def test_layers_of_one_projection_but_two_shapes_are_two_groups():
    stack = Stack(4, 6, 5)
    for layer in stack.layers[2:]:
        layer["proj"] = torch.nn.Linear(5, 6 + 1)
    stack.forward = None
    groups = attach(stack, target_modules=["proj"]).base_model.groups["default"]
    assert {g.name: g.shape for g in groups} == {
        "layers_N_proj_6x5": (2, 6, 5),
        "layers_N_proj_7x5": (2, 7, 5),
    }


def test_layers_to_transform_leaves_the_others_alone():
    model = excite(attach(roberta(), layers_to_transform=[0, 2]))
    assert [g.shape for g in model.base_model.groups["default"]] == [(2, 16, 16)] * 2
    middle = model.roberta.encoder.layer[1].attention.self
    assert type(middle.query) is torch.nn.Linear and type(middle.value) is torch.nn.Linear
    adapted = outputs(model)
    torch.testing.assert_close(outputs(model.merge_and_unload()), adapted, rtol=1e-5, atol=1e-5)


def test_all_linear_adapts_every_projection():
    groups = attach(roberta(), target_modules="all-linear").base_model.groups["default"]
    assert {g.shape for g in groups} == {(3, 16, 16), (3, 8, 16), (3, 16, 8)}
    assert len(groups) == 6


def test_generation_gives_the_tokens_of_the_merged_model():
    model = excite(attach(t5()))
    adapted = model.generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
    merged = model.merge_and_unload().generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
    assert torch.equal(adapted, merged)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranks", [(0, 5, 4), (-1, 5, 4), (2, 5), (2, 5, 4, 4), (2.5, 5, 4), "245", 5, None]
)
def test_ranks_that_are_not_three_positive_integers_are_refused(ranks):
    with pytest.raises(InputError, match="three positive integers"):
        CraftConfig(ranks=ranks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init": "zero"}, "init 'zero' is not one of exact, paper"),
        ({"decomposition": "als"}, "decomposition 'als' is not one of hosvd, hooi, random"),
        ({"eps": -1.0}, "eps must not be negative, not -1.0"),
        ({"sigma": float("nan")}, "sigma must not be negative, not nan"),
        ({"layers_pattern": "layer"}, "layers_pattern is given without layers_to_transform"),
        ({"target_modules": ".*query", "layers_to_transform": [0]}, "layers_to_transform .* list"),
    ],
)
def test_unusable_fields_are_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        CraftConfig(**fields)


def test_target_modules_that_match_nothing_are_named():
    with pytest.raises(ValueError, match="qerry.* not found in the base model"):
        attach(roberta(), target_modules=["qerry"])


def test_one_target_module_of_several_that_matches_nothing_is_named():
    with pytest.raises(InputError, match="module qerry not found .* named dense, .* query, value"):
        attach(roberta(), target_modules=["query", "qerry"])


def test_a_pattern_that_matches_nothing_is_named():
    with pytest.raises(InputError, match=r"module \.\*qerry not found in the base model"):
        attach(roberta(), target_modules=".*qerry")


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(InputError, match="the base model has no layer 3"):
        attach(roberta(), layers_to_transform=[0, 3])


def test_targets_that_share_a_weight_are_refused():
    stack = Stack(3, 4, 4)
    stack.layers[2]["proj"].weight = stack.layers[0]["proj"].weight
    with pytest.raises(InputError, match="layers.0.proj and layers.2.proj share one weight"):
        attach(stack, target_modules=["proj"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("LayerNorm", "LayerNorm is a LayerNorm; only Linear and Conv1D"),
        ("word_embeddings", "word_embeddings is a Embedding; only Linear and Conv1D"),
    ],
)
def test_a_target_that_is_not_linear_is_refused_by_name(target, message):
    with pytest.raises(InputError, match=message):
        attach(roberta(), target_modules=["query", target])


def test_albert_is_refused():
    config = AlbertConfig(
        vocab_size=30, embedding_size=4, hidden_size=8, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(InputError, match="albert shares one layer's weights"):
        attach(AlbertForSequenceClassification(config), target_modules=["query"])


def test_a_backbone_on_the_meta_device_is_refused():
    with pytest.raises(InputError, match="weights of query are on the meta device"):
        attach(roberta().to("meta"))


def test_weights_that_are_not_finite_are_refused_naming_their_group():
    backbone = roberta()
    backbone.roberta.encoder.layer[1].attention.self.value.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"value holds NaN or inf values \(slice 1\)"):
        attach(backbone)


@pytest.mark.parametrize("fields", [{"target_modules": ["query", "value", "LayerNorm"]}, {}])
def test_a_refused_adapter_leaves_the_model_as_it_was(fields):
    backbone, before = roberta(), outputs(roberta())
    names = [*backbone.state_dict()]
    if not fields:  # found only after every layer has been wrapped
        weight = backbone.roberta.encoder.layer[1].attention.self.value.weight
        value, weight.data[0, 0] = weight[0, 0].item(), float("nan")
    with pytest.raises(InputError):
        attach(backbone, **fields)
    assert [*backbone.state_dict()] == names
    if not fields:
        weight.data[0, 0] = value
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You are trying to modify a model with PEFT for a second")
        assert torch.equal(outputs(attach(backbone)), before)


def test_a_refused_second_adapter_leaves_the_first_as_it_was():
    model = some_steps(attach(roberta()))
    before = outputs(model)
    with pytest.raises(InputError):
        model.add_adapter("second", CraftConfig(ranks=RANKS, target_modules=["key", "LayerNorm"]))
    assert [*model.peft_config] == ["default"]
    assert not any("key.base" in name for name in model.state_dict())
    assert torch.equal(outputs(model), before)
    assert all(p.requires_grad for p in trained(model).values())


# ---- decomposition -------------------------------------------------------------------------------


def test_the_cache_spares_a_second_decomposition(tmp_path, monkeypatch):
    import craft.tucker

    calls = []
    original = craft.tucker.decompose
    monkeypatch.setattr(
        craft.tucker, "decompose", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    use_cache(tmp_path / "cache")
    try:
        first = attach(roberta())
        assert len(calls) == 2
        second = attach(roberta())
        assert len(calls) == 2
    finally:
        use_cache(None)
    attach(roberta())
    assert len(calls) == 4
    excite(first), excite(second)
    assert torch.equal(outputs(first), outputs(second))


def test_hosvd_is_the_best_of_its_ranks_and_hooi_is_better():
    """The three decompositions are wired to the tensors that the tuner uses."""
    kept = {}
    for name in ("random", "hosvd", "hooi"):
        model = attach(roberta(), decomposition=name)
        kept[name] = model.base_model.craft_query_core["default"].norm()
    assert kept["random"] < kept["hosvd"] <= kept["hooi"]


def test_importing_craft_is_enough_for_peft_s_own_function():
    model = attach(roberta())
    assert isinstance(model, PeftModel)
    assert type(model.base_model).__name__ == "CraftModel"
