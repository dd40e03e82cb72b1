"""Vertical LoRA: layers as increments of others, against a plain SVD, and adapters on top."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import Stack, attach, gpt2, llama, outputs, roberta, some_steps, t5

from craft.errors import InputError
from craft.vertical import make_vertical, read_vertical

SIX = 6  # projections of a RoBERTa layer


def queries(model):
    return [layer.attention.self.query.weight.detach() for layer in model.roberta.encoder.layer]


def tail(difference, rank):
    """What a plain SVD of this rank leaves of it, in the Frobenius norm."""
    return torch.linalg.svdvals(difference.double())[rank:].norm()


@pytest.mark.parametrize("reference", ["previous", "first"])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_error_of_each_weight_is_that_of_a_plain_svd(reference, rank):
    before, model = queries(roberta(num_hidden_layers=5)), roberta(num_hidden_layers=5)
    made = make_vertical(model, rank, reference, compound=3, target_modules=["query"])
    after = queries(model)
    assert made.model is model
    for index, base in {1: 0, 2: 1 if reference == "previous" else 0, 4: 3}.items():
        name = f"roberta.encoder.layer.{index}.attention.self.query"
        increment = made.increments[name]
        assert increment.reference == name.replace(f".{index}.", f".{base}.")
        product = increment.b.double() @ increment.a.double()
        torch.testing.assert_close(after[index].double(), after[base] + product, rtol=0, atol=1e-6)
        left = (after[index] - before[index]).double().norm()
        torch.testing.assert_close(left, tail(before[index] - after[base], rank), rtol=1e-5, atol=0)
        assert made.errors[name] == pytest.approx(float(left / before[index].norm()), rel=1e-5)
    assert len(made.increments) == 3
    for index in (0, 3):  # the first layers of the compounds
        assert torch.equal(after[index], before[index])


@pytest.mark.parametrize("reference", ["previous", "first"])
@pytest.mark.parametrize("build", [roberta, llama, gpt2, t5])
def test_full_rank_is_exact_up_to_rounding(build, reference):
    made = make_vertical(build(), 10_000, reference)
    assert max(made.errors.values()) < 1e-6
    assert (outputs(made.model) - outputs(build())).norm() < 1e-4 * outputs(build()).norm()


def test_the_error_falls_with_the_rank():
    largest = [max(make_vertical(roberta(), rank).errors.values()) for rank in (1, 4, 8, 16)]
    assert largest == sorted(largest, reverse=True) and largest[-1] < 1e-6


def test_the_parameters_of_the_backbone_are_counted_before_and_after():
    model = roberta(num_hidden_layers=4)
    made = make_vertical(model, 2, compound=4)
    backbone = sum(p.numel() for p in model.roberta.parameters())
    assert made.parameters_before == backbone
    full, low = 4 * 16 * 16 + 2 * 8 * 16, 4 * 2 * (16 + 16) + 2 * 2 * (8 + 16)
    assert made.parameters_after == backbone - 3 * (full - low)
    assert len(made.increments) == 3 * SIX
    assert torch.equal(
        model.classifier.dense.weight, roberta(num_hidden_layers=4).classifier.dense.weight
    )


def test_biases_and_norms_stay_and_so_do_projections_not_chosen():
    model, plain = roberta(), roberta().state_dict()
    make_vertical(model, 1, target_modules=r".*layer\.\d\.attention\.self\.(key|value)")
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, plain[n])}
    assert changed == {
        f"roberta.encoder.layer.{i}.attention.self.{p}.weight"
        for i in (1, 2)
        for p in ("key", "value")
    }


def test_the_increments_and_the_first_layers_are_the_model(tmp_path):
    made = make_vertical(roberta(), 3)
    made.write(tmp_path / "vertical.safetensors")
    model = roberta()
    for layer in model.roberta.encoder.layer[1:]:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data.zero_()
    again = read_vertical(model, tmp_path / "vertical.safetensors")
    assert torch.equal(outputs(again.model), outputs(made.model))
    assert again.errors == made.errors and again.parameters_after == made.parameters_after


@pytest.mark.parametrize("method", ["lora", "craft"])
def test_adapters_go_on_top(method, tmp_path):
    def vertical():
        return make_vertical(roberta(), 3).model

    def adapted():
        if method == "craft":
            return attach(vertical())
        targets = ["query", "value"]
        return get_peft_model(vertical(), LoraConfig(target_modules=targets, task_type="SEQ_CLS"))

    model = adapted()
    assert torch.equal(outputs(model.eval()), outputs(vertical()))
    some_steps(model)
    trained = outputs(model)
    assert not torch.equal(trained, outputs(vertical()))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(outputs(PeftModel.from_pretrained(vertical(), tmp_path)), trained)
    if method == "craft":  # the adapter belongs to the vertical backbone, not to the pre-trained
        with pytest.warns(UserWarning, match="made on other weights of query, value than"):
            PeftModel.from_pretrained(roberta(), tmp_path)
    torch.testing.assert_close(outputs(model.merge_and_unload()), trained, rtol=0, atol=1e-5)


def test_a_bfloat16_backbone_keeps_its_dtype():
    made = make_vertical(roberta().bfloat16(), 3)
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}
    assert outputs(made.model).isfinite().all()


def test_what_cannot_be_done_is_refused_by_name():
    for fields, message in (
        ({"rank": 0}, "rank must be a positive integer, not 0"),
        ({"rank": 2, "compound": 2.5}, "compound must be a positive integer"),
        ({"rank": 2, "reference": "last"}, "reference 'last' is not one of previous, first"),
        ({"rank": 2, "target_modules": ["qerry"]}, "no layers to take increments of: .*qerry"),
    ):
        with pytest.raises(InputError, match=message):
            make_vertical(roberta(), **fields)
    stack = Stack(3, 4, 4)
    stack.layers[2]["proj"].weight = stack.layers[0]["proj"].weight
    with pytest.raises(InputError, match="layers.0.proj and layers.2.proj share one weight"):
        make_vertical(stack, 1)
