"""What is fast computes what its slow twin computes."""

import copy

import pytest
import torch
from test_batches import batches_of, prepared, tokens_of

from craft.bench.methods import launches
from craft.optimization import frozen_casts, loss_of

METHODS = ("craft", "lora", "dora", "bitfit", "full", "adapter_pfeiffer")


# --- casts of frozen weights


def logits_and_gradients(model, batch):
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**batch.inputs).logits
    loss_of(logits, batch.labels, False, len(batch.rows)).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return logits.detach(), found


@pytest.mark.parametrize("method", METHODS)
def test_casts_made_once_change_no_bit(method, bench):
    """Dropout on, twice, so that the second step has the casts of the first."""
    model = prepared(bench, method=method).train()
    (batch, *_) = batches_of(bench, tokens_of(bench), True)
    logits, gradients = logits_and_gradients(model, batch)
    with frozen_casts(model):
        for _ in range(2):
            ours, found = logits_and_gradients(model, batch)
            assert torch.equal(ours, logits)
            assert found.keys() == gradients.keys()
            assert all(torch.equal(found[n], value) for n, value in gradients.items())


def casts_of_weights(model, batch):
    """The shapes that are cast in a forward and backward, of matrices that do not train."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in frozen:
                seen.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    frozen = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
    with Watch():
        logits_and_gradients(model, batch)
    return seen


def test_frozen_weights_are_cast_in_the_first_step_alone(bench):
    model = prepared(bench, method="lora").train()
    (batch, *_) = batches_of(bench, tokens_of(bench), True)
    every_step = casts_of_weights(model, batch)
    assert len(every_step) == 2 * 2 * 6  # layers, weight and bias, projections and feed-forward
    with frozen_casts(model):
        assert sorted(casts_of_weights(model, batch)) == sorted(every_step)
        assert casts_of_weights(model, batch) == []
    assert casts_of_weights(model, batch) == every_step


def test_casts_leave_weights_and_results_in_float32_alone(bench):
    model = prepared(bench)
    weights = copy.deepcopy(model.state_dict())
    (batch, *_) = batches_of(bench, tokens_of(bench), True)
    logits = model(**batch.inputs).logits
    with frozen_casts(model):
        assert torch.equal(model(**batch.inputs).logits, logits)
        logits_and_gradients(model, batch)
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert all("forward" not in vars(m) for m in model.modules() if type(m) is torch.nn.Linear)


def test_weight_that_changes_in_place_is_cast_again(bench):
    model = prepared(bench)
    (batch, *_) = batches_of(bench, tokens_of(bench), True)
    with frozen_casts(model):
        logits_and_gradients(model, batch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        changed, _ = logits_and_gradients(model, batch)
    expected, _ = logits_and_gradients(model, batch)
    assert torch.equal(changed, expected)


# --- small matrices


def small_matrix_launches(layers):
    from peft import get_peft_model
    from transformers import RobertaConfig, RobertaModel

    from craft import CraftConfig

    config = RobertaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(RobertaModel(config), CraftConfig(ranks=(layers, 8, 8)))
    found = [m for m in model.modules() if type(m).__name__ == "SandwichLayer"]
    assert len(found) == 2 * layers
    ones = torch.ones(8, 8, dtype=torch.bfloat16)

    def work():
        made = []
        for layer in found:
            tuner, group, index = layer.places["default"]
            at = (torch.device("cpu"), torch.bfloat16)
            made.append(tuner.small.of_layer(tuner, "default", group, index, *at))
        torch.autograd.backward(made, [ones] * len(made))
        model.zero_grad()

    return launches(work)


def test_small_matrices_take_as_many_launches_for_many_layers_as_for_few():
    assert small_matrix_launches(2) == small_matrix_launches(5) < 60
