"""Intruder dimensions against their definition in numpy, and that looking for them changes
nothing."""

import copy
import json

import numpy as np
import pytest
import torch
from peft import PeftModel

from craft.bench.model.build import attach, build
from craft.bench.model.intruders import COSINE, LEADING, Intruders, intruders, largest_cosines
from craft.bench.model.locate import locate
from craft.errors import InputError
from craft.files import digest_of_tensors

CHANGING = "craft lora dora pissa vera lora_xs lotr fourierft vblora tinylora unilora full".split()


@pytest.fixture
def built(bench):
    """Of a method: its model with all that trains moved, and a way to the backbone as it was."""

    def of(method, size):
        more = ["method.peft.vector_length=8"] if method == "vblora" else []
        config = bench.config(*more, method=method)
        backbone = locate(config.model)
        model = attach(build(backbone, config.task, 0), config.method, 1)
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += size * torch.randn_like(parameter)
        return model, lambda: build(backbone, config.task, 0)

    return of


def tuned_of(model, path):
    """The weight after peft's own merging of a whole model."""
    merged = copy.deepcopy(model)
    merged = merged.merge_and_unload()
    return merged.get_submodule(path).weight.detach().numpy()


def by_definition(base, tuned):
    u, u_tuned = np.linalg.svd(base)[0], np.linalg.svd(tuned)[0]
    return [max(abs(u[:, j] @ u_tuned[:, i]) for j in range(len(u))) for i in range(LEADING)]


@pytest.mark.parametrize("method", ["craft", "lora", "pissa", "vera", "full"])
def test_count_and_mean_are_those_of_the_definition(method, built):
    model, original = built(method, 0.3)
    before, cosines = original(), []
    for layer in range(2):
        for name in ("query", "value"):
            path = f"roberta.encoder.layer.{layer}.attention.self.{name}"
            base = before.get_submodule(path).weight.detach().numpy()
            if method == "vera":  # which peft merges, but has not as a whole
                part = model.get_base_model().get_submodule(path)
                tuned = base + part.get_delta_weight("default").detach().numpy()
            else:
                tuned = tuned_of(model, path)
            cosines += by_definition(base.astype(float), tuned.astype(float))
    found = intruders(model, original)
    assert found.weights == 4 and found.reason is None
    assert found.count == sum(c < COSINE for c in cosines)
    assert found.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-5)


def test_tests_above_see_intruders(built):
    assert 0 < intruders(*built("lora", 0.3)).count < 40
    assert intruders(*built("lora", 1e-3)).count == 0


@pytest.mark.parametrize("method", CHANGING)
def test_every_method_that_merges_is_measured_and_left_as_it_was(method, built):
    model, original = built(method, 0.1)
    before = digest_of_tensors({n: p.detach().clone() for n, p in model.state_dict().items()})
    found = intruders(model, original)
    assert found.reason is None and found.weights > 0 and 0 < found.mean_cosine <= 1 + 1e-9
    assert digest_of_tensors(dict(model.state_dict())) == before
    assert not any(getattr(module, "merged", False) for module in model.modules())


def test_pissa_is_held_against_the_pretrained_weights(built):
    """Not against what is left of them, of which its first directions would be intruders."""
    model, original = built("pissa", 0.0)
    found = intruders(model, original)
    assert found.count == 0 and found.mean_cosine == pytest.approx(1.0, abs=1e-4)


def test_planted_direction_is_counted_once_in_each_weight(built):
    """A mixture of all left singular vectors, for one of them alone is no new direction."""
    model, original = built("lora", 0.0)
    torch.manual_seed(0)
    expected, single = 0, True
    for module in model.modules():
        if hasattr(module, "lora_A"):
            u, s, v = torch.linalg.svd(module.base_layer.weight.detach())
            signs = torch.randint(2, (len(u),)) * 2.0 - 1
            left = u[:, 3] if single else u @ signs / len(u) ** 0.5
            module.lora_A["default"].weight.data[0] = v[5]
            module.lora_B["default"].weight.data[:, 0] = 20 * s[0] * left
            expected, single = expected + (not single), not single
    found = intruders(model, original)
    assert (found.count, found.weights) == (expected, 4) and expected == 2


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_weights_that_are_not_square(shape):
    generator = torch.Generator().manual_seed(0)
    base, change = (torch.randn(shape, generator=generator) for _ in range(2))
    tuned = base + change
    u, u_tuned = (torch.linalg.svd(w.double(), full_matrices=False).U for w in (base, tuned))
    expected = (u.T @ u_tuned[:, :LEADING]).abs().amax(0)
    torch.testing.assert_close(largest_cosines(base, tuned), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["head", "bitfit"])
def test_method_that_changes_no_matrix_has_none(method, built):
    assert intruders(*built(method, 0.1)) == Intruders(0, 0, None)


def test_adapter_that_cannot_be_merged_says_so(built):
    with pytest.raises(InputError) as refused:
        built("adapter_houlsby", 0.1)[0].merge_adapter()
    found = intruders(*built("adapter_houlsby", 0.1))
    assert found == Intruders(None, None, None, str(refused.value))


def test_values_without_singular_vectors_are_a_reason(built):
    model, original = built("lora", float("nan"))
    found = intruders(model, original)
    assert found.count is None and "attention.self.query holds NaN or inf values" in found.reason
    assert not any(getattr(module, "merged", False) for module in model.modules())


def test_record_holds_those_of_the_last_epoch_beside_its_result(bench):
    made = bench.run("train.epochs=3", "train.lr=0.3", method="lora")
    found = made["provenance"]["intruders"]
    assert found.keys() == {"count", "weights", "mean_cosine", "reason", "leading", "cosine"}
    assert (found["weights"], found["leading"], found["cosine"]) == (4, LEADING, COSINE)
    config = bench.config(method="lora")
    backbone, expected = locate(config.model), {}
    for epoch in ("last", "best"):
        base = build(backbone, config.task, 0)
        loaded = PeftModel.from_pretrained(base, str(bench.folder() / epoch))
        expected[epoch] = intruders(loaded, lambda: build(backbone, config.task, 0))
    assert found["mean_cosine"] == pytest.approx(expected["last"].mean_cosine, abs=1e-9)
    assert found["count"] == expected["last"].count
    assert made["result"]["score"]["best_epoch"] < 3  # or the two would be one
    assert expected["best"].mean_cosine != pytest.approx(expected["last"].mean_cosine, abs=1e-6)
    assert (
        json.loads((bench.folder() / "record.json").read_text())["provenance"]
        == (made["provenance"])
    )
