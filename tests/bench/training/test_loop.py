"""The loop: its schedule and optimizer, its seeds, and that no interruption changes a result."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import torch
from tiny_bench import Bench
from tiny_loop import loop_of, model_of, state, trainable
from transformers import get_linear_schedule_with_warmup

import craft.bench.training.loop
from craft.bench.training.batches import layout_of
from craft.bench.training.checkpoint import load_checkpoint
from craft.bench.training.loop import (
    Interrupted,
    Seeds,
    fit,
    learning_rate,
    loss_of,
    make_optimizer,
    steps_in,
)
from craft.errors import InputError
from craft.files import read_tensors

EACH = 3  # steps of an epoch: 20 rows in batches of 8


class StopAt:
    """Asks to stop at the n-th step of an attempt."""

    def __init__(self, step):
        self.steps = step

    def __call__(self):
        self.steps -= 1
        return self.steps <= 0


# --- schedule and optimizer


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("share", [0.0, 0.06, 0.5, 1.0])
def test_learning_rate_is_transformers_linear_schedule(share, total):
    warmup = math.ceil(share * total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total + 2):
        assert learning_rate(0.3, step, warmup, total) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("method", ["craft", "lora", "full", "head", "bitfit"])
def test_optimizer_covers_what_trains_and_decays_matrices_alone(method, bench):
    config, model = model_of(bench, "train.head_lr=3e-3", "train.weight_decay=0.1", method=method)
    optimizer = make_optimizer(model, config.train)
    covered = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(covered) == len({id(p) for p in covered})
    assert {id(p) for p in covered} == {id(p) for p in trainable(model).values()}
    heads = {id(p) for name, p in trainable(model).items() if ".classifier." in name}
    assert heads
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            assert group["peak"] == (3e-3 if id(parameter) in heads else 1e-2)


@pytest.mark.parametrize("method", ["craft", "lora"])
@pytest.mark.parametrize("still", ["lr", "head_lr"])
def test_head_learning_rate_moves_the_head_alone(method, still, bench, tmp_path):
    config, model = model_of(bench, f"train.{still}=0", method=method)
    before = state(model)
    fit(model, loop_of(config, model, tmp_path))
    for name, value in state(model).items():
        of_head = ".classifier." in name
        assert torch.equal(value, before[name]) == (of_head == (still == "head_lr")), name


def test_learning_rate_of_every_step_follows_the_schedule(bench, tmp_path, monkeypatch):
    config, model = model_of(bench, "train.head_lr=3e-3", "train.warmup=0.5")
    seen, update = [], craft.bench.training.loop._update

    def recorded(parameters, optimizer, scaler, clip):
        seen.append({group["peak"]: group["lr"] for group in optimizer.param_groups})
        update(parameters, optimizer, scaler, clip)

    monkeypatch.setattr(craft.bench.training.loop, "_update", recorded)
    fit(model, loop_of(config, model, tmp_path))
    total = 2 * EACH
    assert seen == [
        {peak: learning_rate(peak, step, 3, total) for peak in (1e-2, 3e-3)}
        for step in range(total)
    ]


def test_gradients_are_clipped_to_the_given_norm(bench, tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def recorded(self, *arguments, **named):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    for clip in (0.01, 0):
        config, model = model_of(bench, f"train.clip={clip}")
        fit(model, loop_of(config, model, tmp_path))
    assert norms[: 2 * EACH] == pytest.approx([0.01] * 2 * EACH, rel=1e-3)
    assert min(norms[2 * EACH :]) > 0.1


# --- batches and steps


@pytest.mark.parametrize(
    ("rows", "size", "epochs", "steps"), [(20, 8, 2, 6), (16, 8, 1, 2), (3, 8, 5, 5)]
)
def test_last_incomplete_batch_is_a_step(rows, size, epochs, steps, bench):
    config = bench.config(f"train.batch_size={size}", f"train.epochs={epochs}")
    assert steps_in(rows, config.train) == (steps // epochs, steps)


def gradients_of_steps(bench, tmp_path, monkeypatch, *more, **choices):
    """The gradients of every step of two epochs at the start's parameters, without dropout."""
    frozen = ["train.lr=0", "train.head_lr=0", "train.clip=0"]
    config, model = model_of(bench, *frozen, *more, dropout=False, **choices)
    found, update = [], craft.bench.training.loop._update

    def recorded(parameters, optimizer, scaler, clip):
        found.append({name: p.grad.clone() for name, p in parameters.items()})
        update(parameters, optimizer, scaler, clip)

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.training.loop, "_update", recorded)
        fitted = fit(model, loop_of(config, model, tmp_path))
    return found, [entry["loss"] for entry in fitted.progress.history], fitted.progress


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_accumulated_gradient_is_the_big_batchs(task, bench, tmp_path, monkeypatch):
    """Also of the last batch, whose 4 rows fill not all of its micro-batches."""
    whole, losses, progress = gradients_of_steps(bench, tmp_path, monkeypatch, task=task)
    assert len(whole) == 2 * EACH
    for micro in (2, 4, 8):
        parts, other, more = gradients_of_steps(
            bench, tmp_path, monkeypatch, f"train.accumulate={micro}", task=task
        )
        assert other == pytest.approx(losses, rel=1e-5)
        assert (more.step, more.tokens) == (progress.step, progress.tokens)
        for ours, theirs in zip(parts, whole, strict=True):
            for name, gradient in theirs.items():
                assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name


def test_losses_are_the_means_over_the_batch():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(loss_of(logits, labels, False, 6), expected)
    scores = torch.rand(6)
    expected = torch.nn.functional.mse_loss(logits[:, 0], scores)
    torch.testing.assert_close(loss_of(logits[:, :1], scores, True, 6), expected)


def test_run_ends_after_max_steps_with_an_evaluation(bench):
    result = bench.run("train.max_steps=4", "train.epochs=5")["result"]
    assert result["steps"] == 4
    assert [entry["step"] for entry in result["history"]] == [3, 4]
    assert result["history"][-1]["lr"] == pytest.approx(learning_rate(1e-2, 3, 1, 4))


def test_loss_falls_on_an_easy_task(bench):
    result = bench.run("train.epochs=20", task="sst2")["result"]
    losses = [entry["loss"] for entry in result["history"]]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.85 * losses[0]  # 0.63 to 0.74 with other seeds


def test_scores_are_learned_too(bench):
    result = bench.run("train.epochs=8", task="stsb")["result"]
    losses = [entry["loss"] for entry in result["history"]]
    assert losses[-1] < 0.7 * losses[0]
    assert set(result["score"]["best"]) == {"pearson", "spearman"}


def reads_of(monkeypatch, work):
    """How often Python read a value of a tensor, which on a GPU waits for it."""
    reads = []

    def counting(original):
        def counted(*arguments, **named):
            reads.append(1)
            return original(*arguments, **named)

        return counted

    with monkeypatch.context() as patch:
        for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
            patch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
        work()
    return len(reads)


def test_loop_reads_no_tensor_within_a_step(bench, tmp_path, monkeypatch):
    """Reads are as many with 20 steps an epoch as with 3."""
    config, model = model_of(bench)
    counts = []
    for size in (8, 1):
        settings = dataclasses.replace(config.train, batch_size=size)
        loop = loop_of(config, model, tmp_path, settings=settings)
        counts.append(reads_of(monkeypatch, functools.partial(fit, model, loop)))
    assert counts[0] == counts[1] > 0


# --- seeds


def test_derived_seeds_differ_from_each_other_and_between_runs():
    seeds = {value for seed in range(3) for value in dataclasses.astuple(Seeds.of(seed))}
    assert len(seeds) == 3 * len(dataclasses.fields(Seeds))
    assert Seeds.of(3) == Seeds.of(3)


def test_every_method_starts_from_the_same_head(bench):
    def head(method, seed):
        _, model = model_of(bench, method=method, seed=seed)
        return {n: p for n, p in state(model).items() if ".classifier." in n}

    first = head("craft", 0)
    for method in ("lora", "bitfit", "head"):
        other = head(method, 0)
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first), method
    assert not any(
        torch.equal(value, first[name])
        for name, value in head("craft", 1).items()
        if value.ndim > 1
    )


def test_every_method_sees_the_same_batches(bench, tmp_path, monkeypatch):
    seen, backward = {}, craft.bench.training.loop._backward

    def recorded(model, batch, *rest):
        seen.setdefault(method, []).append(batch.rows.tolist())
        return backward(model, batch, *rest)

    monkeypatch.setattr(craft.bench.training.loop, "_backward", recorded)
    for method in ("craft", "lora"):
        bench.elsewhere(method).run(method=method)
    assert seen["craft"] == seen["lora"]
    epochs = seen["craft"][:EACH], seen["craft"][EACH:]
    assert epochs[0] != epochs[1]
    assert all(sorted(sum(epoch, [])) == list(range(20)) for epoch in epochs)


def test_random_stream_is_another_in_every_micro_batch(bench, tmp_path, monkeypatch):
    config, model = model_of(bench, "train.accumulate=2")
    seeds, seed = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda value: seeds.append(value) or seed(value))
    fit(model, loop_of(config, model, tmp_path))
    assert len(seeds) == len(set(seeds)) == 2 * 5  # of 4, 4, 4, 4 and 4 rows


def test_seed_changes_the_result_and_nothing_else_does(bench):
    results = [
        bench.elsewhere(name).run(f"seed={seed}")["result_sha256"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert results[0] == results[1] != results[2]


def test_state_of_the_global_generator_changes_nothing(bench):
    results = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        np.random.seed(seed)
        results.append(bench.elsewhere(f"o{seed}").run()["result_sha256"])
    assert results[0] == results[1]


# --- best and last epoch


def test_first_of_equal_best_epochs_counts(bench, tmp_path):
    config, model = model_of(bench, "train.epochs=4")
    values, states = iter([0.5, 0.7, 0.7, 0.6]), []

    def score(logits):
        states.append((logits["validation"], state(model)))
        return {"accuracy": next(values)}

    fitted = fit(model, loop_of(config, model, tmp_path, score=score))
    assert fitted.progress.best_epoch == 2
    assert [entry["accuracy"] for entry in fitted.progress.history] == [0.5, 0.7, 0.7, 0.6]
    assert (fitted.logits["best.validation"].numpy() == states[1][0]).all()
    assert (fitted.logits["last.validation"].numpy() == states[3][0]).all()
    assert fitted.best.keys() == states[1][1].keys()
    assert all(torch.equal(fitted.best[n], value) for n, value in states[1][1].items())
    assert all(torch.equal(p, states[3][1][n]) for n, p in trainable(model).items())


# --- interruptions


PLACES = (1, 2, 1, 5)  # in mid-epoch, at the first epoch's end, after it, at the run's last step


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["train.precision=bf16", "train.accumulate=2"],
        ["train.accumulate=4", "train.batching=padded"],
        ["train.accumulate=2", "train.batching=grouped"],
    ],
    ids=lambda more: ",".join(more) or "fp32",
)
@pytest.mark.parametrize("method", ["craft", "lora"])
def test_interrupted_run_ends_with_the_unbroken_result(method, more, bench, monkeypatch):
    made = layout_of  # grouped batches of so small a model are cut where a forward is cheap
    monkeypatch.setattr(
        "craft.bench.run.execute.layout_of",
        lambda *how: dataclasses.replace(made(*how), price=1.0),
    )
    more = [*more, "train.epochs=3"]
    unbroken = bench.elsewhere("unbroken").run(*more, method=method)
    for place in PLACES:
        with pytest.raises(Interrupted, match=f"of {3 * EACH}; start again to go on"):
            bench.run(*more, method=method, stop=StopAt(place))
        assert {p.name for p in bench.folder().iterdir()} == {
            "attempts.json",
            "checkpoint.safetensors",
        }
    resumed = bench.run(*more, method=method)
    assert resumed["result_sha256"] == unbroken["result_sha256"]
    assert resumed["result"] == unbroken["result"]
    assert [a["ended"] for a in resumed["provenance"]["attempts"]] == ["interrupted"] * 4 + ["ok"]
    assert not (bench.folder() / "checkpoint.safetensors").exists()


def test_dropout_is_on_while_training(bench, tmp_path):
    """So that the resume tests would see a random stream that goes astray."""
    losses = []
    for dropout in (True, False):
        config, model = model_of(bench, dropout=dropout)
        fitted = fit(model, loop_of(config, model, tmp_path))
        losses.append(fitted.progress.history[0]["loss"])
    assert losses[0] != losses[1]


def test_run_stopped_by_max_steps_in_mid_epoch_resumes_at_its_last_step(bench):
    more = ["train.max_steps=4", "train.epochs=5"]
    with pytest.raises(Interrupted):
        bench.run(*more, stop=StopAt(4))
    resumed = bench.run(*more)
    assert resumed["result"] == bench.elsewhere("unbroken").run(*more)["result"]


@pytest.mark.parametrize("broken", [2, 3, 4, 9])
def test_broken_run_goes_on_from_its_last_checkpoint(broken, bench):
    """Broken without a chance to save: what is saved every step, here, is what is left."""
    calls = []

    def fail_at(step):
        def stop():
            calls.append(1)
            if len(calls) == step:
                raise MemoryError
            return False

        return stop

    more = ["train.checkpoint_minutes=0", "train.epochs=3"]
    with pytest.raises(MemoryError):
        bench.run(*more, stop=fail_at(broken))
    assert json.loads((bench.folder() / "record.json").read_text())["status"] == "failed"
    resumed = bench.run(*more, stop=fail_at(0))
    assert len(calls) == 3 * EACH + 1  # the step that was not saved any more
    assert resumed["result"] == bench.elsewhere("unbroken").run("train.epochs=3")["result"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_checkpoint_is_named_and_set_aside_and_the_run_starts_over(damage, bench):
    with pytest.raises(Interrupted):
        bench.run(stop=StopAt(4))
    path = bench.folder() / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": content[:-40], "flipped": content, "empty": b""}[damage])
    with pytest.warns(
        UserWarning, match=r"checkpoint.safetensors.damaged, starting over: .*checkpoint\.saf"
    ):
        resumed = bench.run()
    assert resumed["result"] == bench.elsewhere("unbroken").run()["result"]
    assert path.with_name(f"{path.name}.damaged").is_file()


def test_checkpoint_of_another_run_is_not_taken(bench, tmp_path):
    config, model = model_of(bench)
    with pytest.raises(Interrupted):
        fit(model, loop_of(config, model, tmp_path, stop=StopAt(1)))
    path = tmp_path / "checkpoint.safetensors"
    with pytest.warns(UserWarning, match="belongs to another run"):
        found = load_checkpoint(
            path, "other", trainable(model), make_optimizer(model, config.train)
        )
    assert found is None


def test_checkpoint_holds_what_trains_its_moments_and_no_backbone(bench, tmp_path):
    config, model = model_of(bench)
    with pytest.raises(Interrupted):
        fit(model, loop_of(config, model, tmp_path, stop=StopAt(4)))
    tensors, facts = read_tensors(tmp_path / "checkpoint.safetensors")
    names = set(trainable(model))
    for kind in ("parameter", "exp_avg", "exp_avg_sq", "best"):
        found = {n.removeprefix(f"{kind}.") for n in tensors if n.startswith(f"{kind}.")}
        assert found == names, kind
    assert facts["adam_steps"] == facts["progress"]["step"] == 4


# --- what goes wrong


@pytest.mark.parametrize("task", ["rte", "stsb"])
@pytest.mark.parametrize(
    "more", [[], ["train.max_steps=1"]], ids=["in the loss", "in the last step"]
)
def test_run_that_is_not_finite_any_more_is_recorded_as_diverged(task, more, bench):
    made = bench.run("train.lr=1e30", "train.head_lr=1e30", "train.warmup=0", *more, task=task)
    assert made["status"] == "diverged"
    assert made["result"]["history"] == []
    assert made["result"]["score"]["best"] is None
    assert json.loads((bench.folder() / "record.json").read_text()) == made


def test_run_that_diverges_later_keeps_its_good_epochs(bench, tmp_path):
    config, model = model_of(bench, "train.epochs=3")
    observed = []

    def spoil(progress, total, running):
        observed.append(progress.step)
        if progress.step == EACH + 1 and running is not None:
            running.fill_(float("nan"))

    fitted = fit(model, loop_of(config, model, tmp_path, observe=spoil))
    assert fitted.status == "diverged"
    assert len(fitted.progress.history) == 1 and observed[-1] == 2 * EACH
    assert {"best.validation", "last.validation"} == set(fitted.logits)


def test_fp16_on_a_cpu_is_refused(bench):
    with pytest.raises(InputError, match="train.precision=fp16 needs a CUDA device"):
        bench.config("train.precision=fp16")


def test_threads_are_the_runs_own(bench, monkeypatch):
    seen = []

    def recorded(model, loop):
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise RuntimeError("broken")
        return fit(model, loop)

    monkeypatch.setattr("craft.bench.run.execute.fit", recorded)
    assert torch.get_num_threads() == 1
    bench.run("train.threads=2")
    assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="broken"):
        bench.run("train.threads=2", "seed=1")
    assert torch.get_num_threads() == 1
    assert seen == [2, 2]


def test_bf16_changes_the_result_but_not_much(bench):
    fp32, bf16 = (
        bench.elsewhere(precision).run(f"train.precision={precision}")
        for precision in ("fp32", "bf16")
    )
    losses = [made["result"]["history"][0]["loss"] for made in (fp32, bf16)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_bert_trains_and_resumes(tiny_bert, tiny_glue, tmp_path):
    bench = Bench(tiny_bert, tiny_glue, tmp_path / "outputs")
    with pytest.raises(Interrupted):
        bench.run(stop=StopAt(2))
    assert bench.run()["result"] == bench.elsewhere("unbroken").run()["result"]
