"""Merging: the weights become W + dW, and unmerging gives W back, bit for bit."""

import copy
import re

import pytest
import torch
from tiny_models import IDS, attach, excite, gpt2, outputs, roberta, some_steps, trained
from transformers import RobertaForSequenceClassification

from craft import CraftConfig

LOSS = r"merging into {} weights rounds the update: relative error (\S+) on average, (\S+) at worst"


def adapted_layers(model):
    return [layer for group in model.base_model.groups["default"] for layer in group.layers]


def weights(model):
    return [layer.get_base_layer().weight.detach().clone() for layer in adapted_layers(model)]


@pytest.mark.parametrize("build", [roberta, gpt2])
def test_merged_equals_unmerged_and_unmerge_is_exact(build):
    model = excite(attach(build()), scale=0.1)
    frozen, adapted = weights(model), outputs(model)
    model.merge_adapter()
    assert not any(torch.equal(w, f) for w, f in zip(weights(model), frozen, strict=True))
    assert (outputs(model) - adapted).abs().max() < 1e-6 * adapted.abs().max()
    model.unmerge_adapter()
    assert all(torch.equal(w, f) for w, f in zip(weights(model), frozen, strict=True))
    assert torch.equal(outputs(model), adapted)


def test_disable_adapter_gives_the_backbone_back_while_merged():
    model = excite(attach(roberta()))
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(roberta()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_16_bit_weights_adds_in_float32_and_rounds_once(dtype):
    model = excite(attach(roberta().to(dtype)), scale=0.02)
    frozen, adapted = weights(model), outputs(model)
    updates = [layer.get_delta_weight("default") for layer in adapted_layers(model)]
    assert {u.dtype for u in updates} == {torch.float32}
    expected = [(w.float() + u).to(dtype) for w, u in zip(frozen, updates, strict=True)]
    lost = [
        ((e.float() - (w.float() + u)).norm() / u.norm()).item()
        for e, w, u in zip(expected, frozen, updates, strict=True)
    ]
    with pytest.warns(UserWarning, match=LOSS.format(str(dtype).split(".")[1])) as caught:
        model.merge_adapter()
    mean, worst = re.search(LOSS.format(r"\w+"), str(caught[0].message)).groups()
    assert float(mean) == pytest.approx(sum(lost) / len(lost), rel=0.06)  # printed with 2 digits
    assert float(worst) == pytest.approx(max(lost), rel=0.06)
    assert all(torch.equal(w, e) for w, e in zip(weights(model), expected, strict=True))
    model.unmerge_adapter()
    assert all(torch.equal(w, f) for w, f in zip(weights(model), frozen, strict=True))
    assert torch.equal(outputs(model), adapted)


@pytest.mark.filterwarnings("ignore:merging into bfloat16", "ignore:Already following adapters")
def test_adapters_merged_one_after_the_other_are_rounded_once():
    together, apart = (attach(roberta().bfloat16(), task_type=None) for _ in range(2))
    for model in (together, apart):
        model.add_adapter("second", CraftConfig(ranks=(1, 3, 2)))
        excite(model, scale=0.02)
        excite(model, "second", scale=0.02, seed=2)
    together.merge_adapter(["default", "second"])
    apart.merge_adapter(["default"])
    apart.merge_adapter(["second"])
    for one, other in zip(weights(together), weights(apart), strict=True):
        assert torch.equal(one, other)
    apart.unmerge_adapter()
    for weight, frozen in zip(weights(apart), weights(attach(roberta().bfloat16())), strict=True):
        assert torch.equal(weight, frozen)


def test_merging_twice_warns_and_changes_nothing():
    model = excite(attach(roberta()))
    model.merge_adapter()
    merged = weights(model)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert all(torch.equal(w, m) for w, m in zip(weights(model), merged, strict=True))


def test_unmerge_follows_a_change_of_precision():
    model = excite(attach(roberta()))
    model.merge_adapter()
    model.bfloat16()
    model.unmerge_adapter()
    for weight, exact in zip(weights(model), weights(attach(roberta())), strict=True):
        assert torch.equal(weight, exact.bfloat16())


def test_safe_merge_refuses_an_update_that_is_not_finite():
    model = excite(attach(roberta()))
    trained(model)["craft_value_D2"].data[0, 0] = float("inf")
    before = weights(model)
    with pytest.raises(ValueError, match="update of adapter default holds NaN or inf"):
        model.merge_adapter(safe_merge=True)
    value = before[3:]  # query comes first, and its update is finite
    assert all(torch.equal(w, b) for w, b in zip(weights(model)[3:], value, strict=True))


def test_merge_and_unload_leaves_a_plain_model_with_the_same_logits(tmp_path):
    model = some_steps(attach(roberta()))
    adapted = outputs(model)
    merged = model.merge_and_unload()
    assert type(merged) is RobertaForSequenceClassification
    assert merged.state_dict().keys() == roberta().state_dict().keys()
    torch.testing.assert_close(outputs(merged), adapted, rtol=0, atol=1e-6)
    merged.save_pretrained(tmp_path)
    assert torch.equal(
        outputs(RobertaForSequenceClassification.from_pretrained(tmp_path)), outputs(merged)
    )


def test_merge_and_unload_of_a_bf16_model_warns_of_the_rounding():
    model = some_steps(attach(roberta().bfloat16()))
    layers = adapted_layers(model)
    adapted = outputs(model)
    expected = [
        (layer.base_layer.weight.float() + layer.get_delta_weight("default")).bfloat16()
        for layer in layers
    ]
    with pytest.warns(UserWarning, match=LOSS.format("bfloat16")):
        merged = model.merge_and_unload()
    assert merged.state_dict().keys() == roberta().state_dict().keys()
    assert {t.dtype for t in merged.state_dict().values() if t.is_floating_point()} == {
        torch.bfloat16
    }
    assert all(
        torch.equal(layer.base_layer.weight, e) for layer, e in zip(layers, expected, strict=True)
    )
    torch.testing.assert_close(outputs(merged), adapted, rtol=0.1, atol=0.1)
    assert all(layer.unmerged_weight is None for layer in layers)  # no second copy of the weights


def test_unload_gives_the_backbone_back():
    model = excite(attach(roberta()))
    assert torch.equal(outputs(model.unload()), outputs(roberta()))


def test_a_merged_copy_unmerges_on_its_own():
    model = excite(attach(roberta()))
    adapted = outputs(model)
    model.merge_adapter()
    twin = copy.deepcopy(model)
    twin.unmerge_adapter()
    assert torch.equal(outputs(twin, IDS), adapted)
    assert all(layer.merged for layer in adapted_layers(model))
