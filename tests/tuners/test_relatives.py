"""LoTR, LoRA-XS, SuperLoRA, bottleneck adapters and BitFit: their oracles, their life in peft."""

import copy
import re

import pytest
import tensorly
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tensorly.tucker_tensor import tucker_to_tensor
from tiny_models import (
    IDS,
    LABELS,
    gpt2,
    loss,
    outputs,
    parameters_as_saved,
    roberta,
    some_steps,
)
from tiny_tuners import CONFIGS, RELATIVES, adapter_parameters, attach, excite
from torch import nn
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

from craft import BottleneckConfig, BottleneckModel, LoraXsConfig, LotrConfig
from craft.errors import InputError
from craft.tuners import SuperLoraConfig
from craft.tuners.lora_xs import truncated_svd

FOUR = ["query", "value", "attention.output.dense", "output.dense"]
MERGEABLE = [name for name in CONFIGS if name not in ("houlsby", "pfeiffer", "drop")]


def bert(seed=0, **changes):
    """As `roberta`: 3 layers of width 16."""
    torch.manual_seed(seed)
    fields = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 20,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertForSequenceClassification(BertConfig(**{**fields, **changes})).eval()


MODELS = {"roberta": roberta, "bert": bert}
every_model = pytest.mark.parametrize("model", MODELS)
every_tuner = pytest.mark.parametrize("name", [*RELATIVES])


# ---- oracles: the formula in float64, on the plain model


def leaves_of(model):
    """The adapter's parameters once more, as the variables of an oracle."""
    parameters = adapter_parameters(model).items()
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters}


def loss_with(base, changed):
    """The loss of the plain model with some of its parameters replaced."""
    return functional_call(base, changed, (), {"input_ids": IDS, "labels": LABELS}).loss


def compare(model, leaves, expected, accuracy=1e-9):
    """Loss and every gradient of a tuned model against those of an oracle in its variables."""
    expected.backward()
    found = loss(model)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=accuracy, atol=accuracy)
    parameters = adapter_parameters(model)
    assert set(parameters) == set(leaves)
    for name, leaf in leaves.items():
        assert ".key." in name or leaf.grad.norm() > 1e-6, name  # attention ignores a key's bias
        torch.testing.assert_close(parameters[name].grad, leaf.grad, rtol=accuracy, atol=accuracy)


def weights_of(base, pattern):
    """The names of the weights of one projection, in layer order."""
    matches = [name for name, _ in base.named_parameters() if re.search(f"{pattern}.weight$", name)]
    assert len(matches) == 3
    return matches


@every_model
@pytest.mark.parametrize("share", ["all", "projection"])
def test_lotr_is_its_formula(model, share):
    base = MODELS[model]().double()
    tuned = excite(attach(copy.deepcopy(base), "lotr", share=share).double())
    leaves, changed = leaves_of(tuned), {}
    for projection in ("query", "value"):
        owner = "all" if share == "all" else projection
        u, v = (leaves[f"base_model.lotr_{owner}_{side}.default"] for side in "UV")
        core = leaves[f"base_model.lotr_{projection}_G.default"]
        for layer, name in enumerate(weights_of(base, projection)):
            update = 2 / 3 * u @ core[layer] @ v.T  # alpha / r
            changed[name] = base.get_parameter(name).detach() + update
    compare(tuned, leaves, loss_with(base, changed))


def plain_svd(weight, rank):
    """LAPACK's, with the largest entry of every column of U made positive."""
    u, sigma, vt = torch.linalg.svd(weight, full_matrices=False)
    u, half = u[:, :rank], sigma[:rank, None] * vt[:rank]
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return u * signs, half * signs.T


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (3, 16), (16, 3)])
def test_truncated_svd_is_a_plain_svd(shape):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(truncated_svd(weight, 3), plain_svd(weight, 3), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_model
def test_lora_xs_is_its_formula_on_a_plain_svd(model):
    base = MODELS[model]().double()
    tuned = excite(attach(copy.deepcopy(base), "lora_xs_four").double())
    leaves, changed = leaves_of(tuned), {}
    for group, pattern in {
        "attention_self_query": "query",
        "attention_self_value": "value",
        "attention_output_dense": r"attention\.output\.dense",
        "N_output_dense": r"\d\.output\.dense",
    }.items():
        r = leaves[f"base_model.lora_xs_{group}_R.default"]
        for layer, name in enumerate(weights_of(base, pattern)):
            weight = base.get_parameter(name).detach()
            u, half = plain_svd(weight, 3)
            changed[name] = weight + 16 / 3 * u @ r[layer] @ half  # alpha / r
    # the factors are kept in float32
    compare(tuned, leaves, loss_with(base, changed), accuracy=1e-5)


@every_model
def test_superlora_is_tensorly_s_tucker_tensor(model):
    base = MODELS[model]().double()
    tuned = excite(attach(copy.deepcopy(base), "superlora").double())
    leaves, changed = leaves_of(tuned), {}
    for projection in ("query", "value"):
        a, core, u, v = (leaves[f"base_model.superlora_{projection}_{n}.default"] for n in "ACUV")
        with tensorly.backend_context("pytorch", local_threadsafe=True):
            updates = 2 / 3 * tucker_to_tensor((core, [a, u, v]))  # alpha / r2
        for update, name in zip(updates, weights_of(base, projection), strict=True):
            changed[name] = base.get_parameter(name).detach() + update
    compare(tuned, leaves, loss_with(base, changed))


@every_model
def test_superlora_of_single_weights_is_peft_s_lora(model):
    tuned = excite(attach(MODELS[model](), "superlora_lora", alpha=5.0).double())
    config = LoraConfig(r=3, lora_alpha=5.0, target_modules=["query", "value"], task_type="SEQ_CLS")
    lora = get_peft_model(MODELS[model](), config).double().eval()
    pairs = {}
    for index, layer in enumerate(lora.base_model.model.base_model.encoder.layer):
        for projection in ("query", "value"):
            module = getattr(layer.attention.self, projection)
            u, v = (
                adapter_parameters(tuned)[f"base_model.superlora_{projection}_{n}.default"]
                for n in "UV"
            )
            module.lora_B["default"].weight.data = u[index].detach().clone()
            module.lora_A["default"].weight.data = v[index].detach().T.clone()
            pairs[projection, index] = module, u, v
    torch.testing.assert_close(outputs(tuned), outputs(lora), rtol=1e-9, atol=1e-9)
    loss(tuned).backward()
    loss(lora).backward()
    for (_, index), (module, u, v) in pairs.items():
        found = (u.grad[index], v.grad[index].T)
        expected = (module.lora_B["default"].weight.grad, module.lora_A["default"].weight.grad)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_model
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "drop"])
def test_bottleneck_is_its_formula(model, name, training):
    """In training too, where the adapter comes after dropout and before the residual sum."""
    base = MODELS[model](hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2).double()
    tuned = excite(attach(copy.deepcopy(base), name).double())
    leaves = leaves_of(tuned)

    def adapter(path):
        down, up = (
            f"base_model.model.{model}.{path}.bottleneck_{s}.default" for s in ("down", "up")
        )
        f = nn.functional.silu if name == "houlsby" else torch.relu

        def a(h):
            hidden = f(h @ leaves[f"{down}.weight"].T + leaves[f"{down}.bias"])
            return hidden @ leaves[f"{up}.weight"].T + leaves[f"{up}.bias"]

        return a if f"{down}.weight" in leaves else torch.zeros_like

    def forward_of(block, path):
        def houlsby(h, x):
            h = block.dropout(block.dense(h))
            return block.LayerNorm(x + h + adapter(f"{path}.dropout")(h))

        def pfeiffer(h, x):
            s = x + block.dropout(block.dense(h))
            return block.LayerNorm(s + adapter(f"{path}.LayerNorm")(block.LayerNorm(s)))

        return houlsby if name == "houlsby" else pfeiffer

    for index, layer in enumerate(base.base_model.encoder.layer):
        path = f"encoder.layer.{index}"
        layer.attention.output.forward = forward_of(
            layer.attention.output, f"{path}.attention.output"
        )
        layer.output.forward = forward_of(layer.output, f"{path}.output")
    base.train(training)
    tuned.train(training)
    torch.manual_seed(3)
    expected = loss(base)
    torch.manual_seed(3)
    compare(tuned, leaves, expected)


@every_model
def test_bitfit_is_training_the_biases(model):
    base = MODELS[model]().double()
    tuned = excite(attach(copy.deepcopy(base), "bitfit").double())
    leaves = leaves_of(tuned)
    biases = {
        name: parameter.detach()
        for name, parameter in base.named_parameters()
        if name.startswith(f"{model}.") and name.endswith(".bias")
    }
    assert len(biases) == len(leaves)
    changed = {
        name: bias + leaves[f"base_model.model.{name.removesuffix('.bias')}.bitfit_delta.default"]
        for name, bias in biases.items()
    }
    compare(tuned, leaves, loss_with(base, changed))


# ---- life in peft


@every_model
@every_tuner
def test_starts_at_the_backbone_and_trains_the_adapter_alone(model, name):
    base = MODELS[model]()
    tuned = attach(copy.deepcopy(base), name)
    if "lora_xs" in name:
        torch.testing.assert_close(outputs(tuned), outputs(base), rtol=0, atol=1e-3)
    else:
        assert torch.equal(outputs(tuned), outputs(base))
    adapter = adapter_parameters(tuned)
    trainable = {n for n, p in parameters_as_saved(tuned).items() if p.requires_grad}
    assert {n for n in trainable if "modules_to_save" not in n} == set(adapter)
    before = {n: p.detach().clone() for n, p in parameters_as_saved(tuned).items()}
    some_steps(tuned)
    changed = {n for n, p in parameters_as_saved(tuned).items() if not torch.equal(p, before[n])}
    assert changed == trainable - {n for n in trainable if ".key." in n} or changed == trainable
    assert not torch.allclose(outputs(tuned), outputs(base), atol=0.05)
    with tuned.disable_adapter():
        assert torch.equal(outputs(tuned), outputs(base))


@every_model
@every_tuner
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_it_is_the_same(model, name, low_cpu_mem_usage, tmp_path):
    tuned = some_steps(attach(MODELS[model](), name))
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    fresh = MODELS[model]()
    torch.manual_seed(9)  # not the draws of the first time
    loaded = PeftModel.from_pretrained(fresh, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(outputs(loaded.eval()), outputs(tuned))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    again = PeftModel.from_pretrained(MODELS[model](), tmp_path, is_trainable=True)
    assert set(adapter_parameters(again)) == {
        n
        for n, p in parameters_as_saved(again).items()
        if p.requires_grad and "modules_to_save" not in n
    }


@every_model
@pytest.mark.parametrize("name", MERGEABLE)
def test_merged_it_is_the_same(model, name):
    tuned = excite(attach(MODELS[model](), name))
    expected = outputs(tuned)
    tuned.merge_adapter()
    torch.testing.assert_close(outputs(tuned), expected, rtol=0, atol=1e-5)
    tuned.unmerge_adapter()
    assert torch.equal(outputs(tuned), expected)
    plain = tuned.merge_and_unload()
    torch.testing.assert_close(outputs(plain), expected, rtol=0, atol=1e-5)
    assert set(plain.state_dict()) == set(MODELS[model]().state_dict())


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_a_bottleneck_cannot_be_merged_but_unloaded(name):
    tuned = excite(attach(roberta(), name))
    assert not BottleneckModel.mergeable
    for merge in (tuned.merge_adapter, tuned.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    plain = tuned.unload()
    assert set(plain.state_dict()) == set(roberta().state_dict())
    assert torch.equal(outputs(plain), outputs(roberta()))


@every_model
@every_tuner
def test_second_adapter(model, name):
    tuned = excite(attach(MODELS[model](), name))
    first = outputs(tuned)
    changes = {"bitfit": {}, **dict.fromkeys(("houlsby", "pfeiffer", "drop"), {"bottleneck": 2})}
    tuned.add_adapter("second", CONFIGS[name](**changes.get(name, {"r": 2})))
    assert torch.equal(outputs(tuned), first)
    assert not any(p.requires_grad for p in adapter_parameters(tuned, "second").values())
    tuned.set_adapter("second")
    assert all(p.requires_grad for p in adapter_parameters(tuned, "second").values())
    assert not any(p.requires_grad for p in adapter_parameters(tuned).values())
    torch.testing.assert_close(outputs(tuned), outputs(MODELS[model]()), rtol=0, atol=1e-3)
    excite(tuned, "second", scale=0.5)
    second = outputs(tuned)
    assert not torch.allclose(second, first, atol=0.01)
    tuned.set_adapter("default")
    assert torch.equal(outputs(tuned), first)
    with pytest.warns(UserWarning, match="Setting active adapter to second"):
        tuned.delete_adapter("default")
    assert torch.equal(outputs(tuned), second)
    assert not adapter_parameters(tuned)


@every_tuner
def test_a_copy_is_another_model(name):
    tuned = excite(attach(roberta(), name))
    before = outputs(tuned)
    twin = some_steps(copy.deepcopy(tuned))
    assert torch.equal(outputs(tuned), before)
    assert not torch.allclose(outputs(twin), before, atol=0.01)


@every_tuner
def test_float32_adapter_on_a_bfloat16_backbone(name):
    tuned = attach(roberta().to(torch.bfloat16), name)
    assert all(p.dtype == torch.float32 for p in adapter_parameters(tuned).values())
    exact = excite(attach(roberta().to(torch.bfloat16).float(), name))
    excite(tuned)
    assert outputs(tuned).dtype == torch.bfloat16
    torch.testing.assert_close(outputs(tuned).float(), outputs(exact), rtol=0.1, atol=0.1)
    some_steps(tuned)
    assert all(p.isfinite().all() for p in tuned.parameters())


@every_tuner
def test_a_packed_batch_is_adapted_token_by_token(name):
    """(1, T, d), as packed batches have it: what an adapted module does to a token is its own."""
    tuned = excite(attach(roberta(), name))
    layer = tuned.base_model.model.roberta.encoder.layer[2].output
    torch.manual_seed(4)
    h, x = torch.randn(4, 7, 8), torch.randn(4, 7, 16)
    with torch.no_grad():
        together, apart = layer(h.view(1, 28, 8), x.view(1, 28, 16)), layer(h, x)
    torch.testing.assert_close(together.view(4, 7, 16), apart, rtol=0, atol=1e-6)


def test_two_active_biases_add_up():
    tuned = excite(attach(roberta(), "bitfit", task_type=None))
    tuned.add_adapter("second", CONFIGS["bitfit"](task_type=None))
    excite(tuned, "second")
    tuned.base_model.set_adapter(["default", "second"])
    layer = tuned.base_model.model.roberta.encoder.layer[0].output.dense
    x = torch.randn(2, 8)
    deltas = layer.bitfit_delta
    expected = layer.base_layer(x) + deltas["default"] + deltas["second"]
    torch.testing.assert_close(layer(x), expected)


# ---- choices and refusals


def adapted_layers(model):
    return {int(re.search(r"layer\.(\d)\.", name)[1]) for name in adapter_parameters(model)}


@pytest.mark.parametrize(("skip", "left"), [(0, {0, 1, 2}), (2, {2}), (0.5, {1, 2}), (0.67, {2})])
def test_adapterdrop_leaves_the_lowest_layers_alone(skip, left, tmp_path):
    config = CONFIGS["pfeiffer"](skip_layers=skip)
    tuned = get_peft_model(roberta(), config)
    assert adapted_layers(tuned) == left
    assert config.skip_layers == skip  # the fraction stays one, for a model of another depth
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    assert adapted_layers(PeftModel.from_pretrained(roberta(), tmp_path)) == left


def test_a_bottleneck_that_starts_near_the_backbone():
    tuned = attach(roberta(), "houlsby", init="normal")
    torch.testing.assert_close(outputs(tuned), outputs(roberta()), rtol=0, atol=0.05)
    assert not torch.equal(outputs(tuned), outputs(roberta()))


def test_bottleneck_on_modules_given_by_name():
    tuned = attach(roberta(), "houlsby", target_modules=["intermediate.dense"])
    assert len(adapter_parameters(tuned)) == 3 * 4
    assert all("intermediate.dense" in name for name in adapter_parameters(tuned))
    config = CONFIGS["houlsby"](task_type=None, target_modules=["mlp.c_fc"])
    tuned = get_peft_model(gpt2(), config)
    assert torch.equal(outputs(tuned), outputs(gpt2()))
    assert not torch.equal(outputs(excite(tuned)), outputs(gpt2()))


def test_lora_xs_without_saved_factors(tmp_path):
    tuned = some_steps(attach(roberta(), "lora_xs", save_factors=False))
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(
        outputs(PeftModel.from_pretrained(roberta(), tmp_path).eval()), outputs(tuned)
    )
    with pytest.raises(InputError, match="saved without its factors"):
        PeftModel.from_pretrained(roberta(seed=1), tmp_path)


def test_lora_xs_hands_out_the_same_slices_until_the_buffer_changes():
    tuner = attach(roberta(), "lora_xs").base_model
    (group, _) = tuner.groups["default"]
    u, v = tuner.outer_matrices("default", group, 1)
    again = tuner.outer_matrices("default", group, 1)
    assert u is again[0] and v is again[1]  # or a cast of them would be made anew each time
    tuner.double()
    assert tuner.outer_matrices("default", group, 1)[0].dtype == torch.float64


def test_lora_xs_clips_its_rank_with_a_warning():
    with pytest.warns(UserWarning, match=r"r 25 exceeds the shape \(16, 16\) of \w+; using 16"):
        tuned = attach(roberta(), "lora_xs", r=25)
    (group, _) = tuned.base_model.groups["default"]
    assert tuned.base_model.tensor("default", group, "R").shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LotrConfig(r=0), "r must be a positive integer, not 0"),
        (lambda: LotrConfig(share="some"), "share 'some' is not one of all, projection"),
        (lambda: LotrConfig(init_std=0.0), "init_std must be positive"),
        (lambda: SuperLoraConfig(form="lokr"), "form 'lokr' is not one of tucker, lora"),
        (lambda: SuperLoraConfig(ranks="energy:0.9"), "that starts at zero has no energy"),
        (lambda: SuperLoraConfig(ranks=(1, 2)), "three positive integers"),
        (lambda: SuperLoraConfig(r=0), "r must be a positive integer, not 0"),
        (lambda: LoraXsConfig(r=2.5), "r must be a positive integer, not 2.5"),
        (lambda: LoraXsConfig(init_std=-1.0), "init_std must not be negative"),
        (lambda: BottleneckConfig(placement="parallel"), "placement 'parallel' is not one of"),
        (lambda: BottleneckConfig(activation="sine"), "activation 'sine' is not one of swish"),
        (lambda: BottleneckConfig(init="zero"), "init 'zero' is not one of exact, normal"),
        (lambda: BottleneckConfig(bottleneck=0), "bottleneck must be a positive integer"),
        (lambda: BottleneckConfig(skip_layers=1.5), "skip_layers must be whole or a fraction"),
        (lambda: attach(roberta(), "lotr", target_modules=FOUR), "needs projections of one shape"),
        (lambda: attach(roberta(), "pfeiffer", skip_layers=3), "leaves none of 3 layers"),
        (lambda: attach(roberta(), "pfeiffer", target_modules=["query"]), "adapts LayerNorms"),
        (lambda: attach(gpt2(), "houlsby", task_type=None), "give target_modules"),
        (lambda: attach(roberta(), "bitfit", target_modules=["dropout"]), "has no bias"),
    ],
)
def test_refusals_name_what_is_wrong(make, message):
    with pytest.raises(InputError, match=message):
        make()
