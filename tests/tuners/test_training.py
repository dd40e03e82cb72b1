"""Training: evaluation in between, activation checkpointing, precision, Trainer."""

import gc
import weakref

import pytest
import torch
from tiny_models import (
    IDS,
    LABELS,
    VOCABULARY,
    attach,
    excite,
    gradients,
    loss,
    outputs,
    roberta,
    some_steps,
    t5,
    trained,
)
from transformers import RobertaForSequenceClassification, Trainer, TrainingArguments

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_.*` is deprecated")
REENTRANT = pytest.mark.parametrize("reentrant", [False, True])


def count_small_matrices(model):
    """A list that grows by a group's name whenever its small matrices are made."""
    made, tuner = [], model.base_model
    original = tuner.small_matrices

    def counted(adapter, group):
        made.append(group.name)
        return original(adapter, group)

    tuner.small_matrices = counted
    return made


# ---- one product a forward


def test_the_small_matrices_of_a_group_are_made_once_a_forward():
    model = excite(attach(roberta()))
    made = count_small_matrices(model)
    for _ in range(2):
        made.clear()
        loss(model).backward()
        assert made == ["query", "value"]
        made.clear()
        outputs(model)
        assert made == ["query", "value"]


def test_nothing_of_a_step_is_kept_after_its_backward():
    """Not even for the garbage collector to find."""
    model, kept = excite(attach(roberta())), []
    tuner = model.base_model
    original = tuner.small_matrices

    def watched(adapter, group):
        matrices = original(adapter, group)
        kept.append(weakref.ref(matrices))
        return matrices

    tuner.small_matrices = watched
    gc.disable()
    try:
        loss(model).backward()
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


def test_evaluation_between_the_steps_of_training_changes_nothing():
    quiet, watched = attach(roberta()), attach(roberta())
    for _ in range(3):
        some_steps(quiet, steps=1)
        outputs(watched)
        some_steps(watched, steps=1)
        with torch.inference_mode():
            watched(input_ids=IDS[:2])
    assert torch.equal(outputs(quiet), outputs(watched))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_trains_after_evaluation_in_inference_mode(dtype):
    model = attach(roberta().to(dtype))
    with torch.inference_mode():
        before = loss(model.eval()).item()
    assert loss(some_steps(model)).item() < before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_attached_in_inference_mode_runs(dtype):
    with torch.inference_mode():
        model = attach(roberta().to(dtype))
        first = model(input_ids=IDS).logits
    assert torch.equal(outputs(model), first) and torch.equal(outputs(model), first)


def test_a_forward_without_backward_does_not_leave_old_matrices_behind():
    model = excite(attach(roberta()))
    loss(model)  # left without a backward
    excite(model, seed=2)
    fresh = excite(attach(roberta()), seed=2)
    loss(fresh).backward()
    loss(model).backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, gradients(fresh)[name])


def test_layers_run_out_of_order_see_the_weights_of_now():
    """A layer run alone, after an update, by whichever of the group runs first."""
    model = excite(attach(roberta()))
    layers = [layer.attention.self.query for layer in model.roberta.encoder.layer]
    x = torch.randn(2, 16)
    with torch.no_grad():
        layers[2](x)
        excite(model, seed=2)
        now = layers[1](x)
        delta = layers[1].get_delta_weight("default")
        torch.testing.assert_close(now, layers[1].base_layer(x) + x @ delta.T)


# ---- activation checkpointing


def checkpointed(model, reentrant):
    if reentrant:
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model.train()


@REENTRANT
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    plain = excite(attach(roberta(**dropout))).train()
    saving = checkpointed(excite(attach(roberta(**dropout))), reentrant)
    for _ in range(2):  # accumulated
        for model in (plain, saving):
            torch.manual_seed(0)
            loss(model).backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient, rtol=1e-5, atol=1e-7)


@REENTRANT
def test_activation_checkpointing_with_two_forwards_before_a_backward(reentrant):
    plain = excite(attach(roberta())).train()
    saving = checkpointed(excite(attach(roberta())), reentrant)
    for model in (plain, saving):
        (loss(model, IDS[:2], LABELS[:2]) + loss(model, IDS[2:], LABELS[2:])).backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient, rtol=1e-5, atol=1e-7)


@REENTRANT
def test_activation_checkpointing_trains_as_without_it(reentrant):
    plain = attach(roberta()).train()
    saving = checkpointed(attach(roberta()), reentrant)
    torch.testing.assert_close(
        outputs(some_steps(plain)), outputs(some_steps(saving)), rtol=0, atol=1e-4
    )


def test_activation_checkpointing_makes_the_small_matrices_once_a_forward():
    model = checkpointed(excite(attach(roberta())), reentrant=False)
    made = count_small_matrices(model)
    for _ in range(2):
        made.clear()
        loss(model).backward()
        assert made == ["query", "value"]


def test_reentrant_checkpointing_makes_them_again_for_each_layer_it_runs_again():
    model = checkpointed(excite(attach(roberta())), reentrant=True)
    made = count_small_matrices(model)
    loss(model).backward()
    assert made[:2] == ["query", "value"] and made[2:] == ["query", "value"] * 3


def test_activation_checkpointing_of_an_encoder_and_decoder():
    plain = excite(attach(t5())).train()
    saving = checkpointed(excite(attach(t5())), reentrant=False)
    for model in (plain, saving):
        torch.manual_seed(0)
        loss(model, labels=IDS).backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient, rtol=1e-5, atol=1e-7)


# ---- precision


def test_float32_updates_train_on_a_bf16_backbone():
    model = attach(roberta().bfloat16())
    before = loss(model).item()
    some_steps(model, steps=5)
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert all(p.abs().max() > 0 for p in trained(model).values())
    assert loss(model).item() < before
    frozen = roberta().bfloat16().state_dict()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and "modules_to_save" not in name:
            name = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(parameter, frozen[name.replace("original_module.", "")])


def test_updates_far_below_bf16_s_resolution_add_up():
    """Steps of 1e-6 on D of order one vanish in bf16, and must not."""
    model = excite(attach(roberta().bfloat16()), scale=1.0)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    some_steps(model, steps=4, lr=1e-6)
    moved = [(p - before[name]).abs().max() for name, p in trained(model).items()]
    assert all(2e-6 < m < 6e-6 for m in moved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast_stays_near_float32(dtype):
    plain, mixed = excite(attach(roberta())), excite(attach(roberta()))
    loss(plain).backward()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(mixed)
    value.backward()
    for name, gradient in gradients(plain).items():
        found = gradients(mixed)[name]
        assert found.dtype == torch.float32
        assert (found - gradient).norm() < 0.1 * gradient.norm()


def test_autocast_leaves_the_small_product_in_float32():
    model, made = excite(attach(roberta())), []
    tuner = model.base_model
    original = tuner.small_matrices

    def watched(adapter, group):
        made.append(original(adapter, group))
        return made[-1]

    tuner.small_matrices = watched
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs(model)
    for matrices, group in zip(made, tuner.groups["default"], strict=True):
        assert torch.equal(matrices, original("default", group).detach())


# ---- Trainer


DATA = [
    {"input_ids": torch.randint(3, VOCABULARY, (7,), generator=g), "labels": i % 2}
    for i, g in enumerate(torch.Generator().manual_seed(seed) for seed in range(16))
]


def trainer(model, folder, **fields):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.02,
        weight_decay=0.1,
        save_steps=2,
        logging_steps=2,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **fields,
    )
    return Trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA)


@pytest.fixture
def attached(tmp_path):
    """Fresh models over one backbone on disk, dropout on, each with another start of the head."""
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    roberta(**dropout).save_pretrained(tmp_path / "backbone")
    return lambda: attach(RobertaForSequenceClassification.from_pretrained(tmp_path / "backbone"))


def test_trainer_resumes_to_the_end_of_an_unbroken_run(attached, tmp_path):
    unbroken = attached()
    trainer(unbroken, tmp_path / "run").train()
    resumed = excite(attached())
    trainer(resumed, tmp_path / "resumed").train(
        resume_from_checkpoint=str(tmp_path / "run/checkpoint-4")
    )
    assert all(p.abs().max() > 0 for p in trained(unbroken).values())
    for name, parameter in trained(unbroken).items():
        assert torch.equal(trained(resumed)[name], parameter)
    assert torch.equal(outputs(resumed.eval()), outputs(unbroken.eval()))


def test_trainer_loads_the_best_model_at_the_end(attached, tmp_path):
    model = attached()
    run = trainer(
        model,
        tmp_path / "run",
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that the best one is not the last
    )
    run.train()
    history = {r["step"]: r["eval_loss"] for r in run.state.log_history if "eval_loss" in r}
    best = max(history, key=history.get)
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}") and best != 6
    assert run.evaluate()["eval_loss"] == pytest.approx(history[best], rel=1e-6)
