"""What goes wrong on a cluster, injected: full and read-only disks, damaged files, too little
memory, values that are not finite, a broken tracker, and files from elsewhere that want to run
code."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
from dataclasses import replace

import conftest
import injected
import pytest
import torch
from fake_wandb import FakeWandb
from injected import injecting
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_bench import ROOT, Bench

import craft.bench.run.execute
import craft.bench.run.run
import craft.bench.training.loop
import craft.files
from craft.bench.model.build import peft_config
from craft.bench.model.locate import locate
from craft.bench.model.trusted import refuse_targets
from craft.bench.run.adapter import check_adapter
from craft.bench.run.finished.predict import evaluate
from craft.bench.run.folder import Attempts
from craft.bench.run.provenance import without_secrets
from craft.bench.run.record import Record
from craft.bench.settings.declared import read
from craft.bench.settings.resolve import check
from craft.bench.settings.sections import Model
from craft.bench.training import memory
from craft.errors import InputError, Interrupted
from craft.tucker import use_cache

EACH = 3  # steps of an epoch
HOW = ["truncated", pytest.param("bit-flipped", marks=pytest.mark.slow)]


def SLOW(value):  # noqa: N802
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_cache_of_decompositions():
    yield
    use_cache(None)


@pytest.fixture(scope="module")
def unbroken(tiny_roberta, tiny_glue, tmp_path_factory):
    """The result that every run here must end with."""
    from tiny_bench import Bench

    return Bench(tiny_roberta, tiny_glue, tmp_path_factory.mktemp("unbroken")).run()["result"]


def stop_at(step):
    steps = iter(range(1, 99))
    return lambda: next(steps) >= step


def fail_writes(monkeypatch, name, code=errno.ENOSPC, times=99):
    """Let the file system refuse files whose name holds `name`, `times` times."""
    left, sync = [times], os.fsync

    def refuse(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if name in path and left[0] > 0:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return sync(descriptor)

    monkeypatch.setattr(craft.files.os, "fsync", refuse)


# --- the table of faults


@pytest.mark.parametrize("status", [pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED])
def test_fault_that_is_not_survived_stands_in_the_table(status, tmp_path, monkeypatch):
    monkeypatch.setattr(injected, "COUNTS", {})
    with injecting("one that is"):
        pass
    with contextlib.suppress(RuntimeError), injecting("one that is not", "the run"):
        raise RuntimeError
    path = tmp_path / "faults.md"
    options = types.SimpleNamespace(getoption={"--faults": path}.get)
    conftest.pytest_sessionfinish(types.SimpleNamespace(config=options), status)
    head, _, *rows = [x for x in path.read_text().splitlines() if x.startswith("|")]
    assert rows == ["| one that is | 1 | 1 | nothing |", "| one that is not | 1 | 0 | the run |"]
    assert head == "| fault | injected | survived | to be computed again |"


def test_table_of_a_session_that_was_cut_off_is_not_written(tmp_path):
    path = tmp_path / "faults.md"
    options = types.SimpleNamespace(getoption={"--faults": path}.get)
    cut = types.SimpleNamespace(config=options)
    conftest.pytest_sessionfinish(cut, pytest.ExitCode.INTERRUPTED)
    assert not path.exists()


# --- disks


def test_disk_full_at_a_checkpoint_costs_the_checkpoint_alone(bench, unbroken, monkeypatch):
    with injecting("disk full while a checkpoint is written"):
        fail_writes(monkeypatch, "checkpoint.safetensors")
        with pytest.warns(UserWarning, match="was not written .No space left.*training goes on"):
            made = bench.run("train.checkpoint_minutes=0")
        assert made["result"] == unbroken
        assert not list(bench.folder().glob(".*.tmp"))


def test_disk_full_at_the_record_leaves_a_run_that_goes_on(bench, unbroken, monkeypatch):
    with injecting("disk full while the record is written", "the last epoch"):
        with monkeypatch.context() as patch:
            fail_writes(patch, "record.json")
            with pytest.raises(OSError, match="No space left"):
                bench.run()
        assert not (bench.folder() / "record.json").exists()
        assert bench.run()["result"] == unbroken


def test_disk_full_at_the_cache_costs_the_cache_alone(bench, unbroken, monkeypatch):
    with injecting("disk full while a decomposition is cached"):
        fail_writes(monkeypatch, "cache/tucker")
        with pytest.warns(UserWarning, match="was not cached .No space left"):
            assert bench.run()["result"] == unbroken


@pytest.mark.parametrize("kilobytes", [4, SLOW(40), SLOW(120)])
def test_real_small_disk(kilobytes, bench, unbroken, tmp_path):
    """A tmpfs that fills up at one moment or another; with room, the same command ends the run."""
    bench.outputs.mkdir()
    size = f"size={kilobytes}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(bench.outputs)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        with injecting("a small disk that fills up", "at most the run"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(
                    (OSError, InputError, SafetensorError), match="No space|code: 28"
                ):
                    bench.run("train.checkpoint_minutes=0")
            grow = ["mount", "-o", "remount,size=64m", str(bench.outputs)]
            subprocess.run(grow, check=True)
            assert bench.run("train.checkpoint_minutes=0")["result"] == unbroken
    finally:
        subprocess.run(["umount", str(bench.outputs)], check=True)


def test_read_only_results_are_refused_in_a_line_and_finished_runs_are_found(
    bench, unbroken, tmp_path
):
    bench.run()
    bound = ["mount", "--bind", str(bench.outputs), str(bench.outputs)]
    if subprocess.run(bound, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(bench.outputs)], check=True)
        with injecting("read-only results"):
            assert bench.run()["result"] == unbroken  # done already
            with pytest.raises(InputError, match="outputs: .* cannot be written .Read-only"):
                bench.run("seed=1")
    finally:
        subprocess.run(["umount", str(bench.outputs)], check=True)
    assert bench.run("seed=1")["status"] == "ok"


# --- damaged files


def damage(path, how):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes({"truncated": content[: len(content) // 2], "bit-flipped": content}[how])


@pytest.mark.parametrize("how", HOW)
def test_damaged_record_is_set_aside_and_made_anew(how, bench, unbroken):
    with injecting(f"record {how}", "the run"):
        bench.run()
        damage(bench.folder() / "record.json", how)
        with pytest.warns(UserWarning, match=r"record.json.*set aside as record.json.damaged"):
            assert bench.run()["result"] == unbroken
        assert (bench.folder() / "record.json.damaged").is_file()


def test_no_flipped_bit_in_a_record_goes_unseen(bench):
    bench.run()
    path = bench.folder() / "record.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 150):
        with injecting("record bit-flipped", "the run"):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            try:
                found = Record.read(path).plain()
            except InputError:
                continue
            assert found == json.loads(whole)  # white space between the values
    path.write_bytes(whole)
    assert Record.read(path).plain()["status"] == "ok"


@pytest.mark.parametrize("how", HOW)
def test_damaged_checkpoint_is_set_aside_and_the_run_starts_over(how, bench, unbroken):
    with injecting(f"checkpoint {how}", "the run until then"):
        with pytest.raises(Interrupted):
            bench.run(stop=stop_at(4))
        damage(bench.folder() / "checkpoint.safetensors", how)
        with pytest.warns(UserWarning, match="checkpoint set aside as .*, starting over"):
            assert bench.run()["result"] == unbroken


@pytest.mark.parametrize("how", HOW)
def test_damaged_cache_is_set_aside_and_decomposed_again(how, bench, unbroken):
    with injecting(f"decomposition in the cache {how}", "the decomposition"):
        bench.run()
        cached = sorted((bench.outputs / "cache" / "tucker").glob("*.safetensors"))
        for path in cached:
            damage(path, how)
        shutil.rmtree(bench.outputs / "runs")
        with pytest.warns(UserWarning, match="set aside, decomposing again"):
            assert bench.run()["result"] == unbroken


def test_damaged_list_of_attempts_is_set_aside(tmp_path):
    with injecting("list of attempts truncated"):
        (tmp_path / "attempts.json").write_text('[{"started": "2026')
        with pytest.warns(UserWarning, match="set aside as attempts.json.damaged"):
            assert len(Attempts(tmp_path / "attempts.json").made) == 1


# --- memory


def too_big(monkeypatch, rows, error=torch.OutOfMemoryError, after=0):
    """A forward of more rows finds too little memory, from the n-th on."""
    backward, calls = craft.bench.training.loop._backward, []

    def limited(model, batch, *more):
        calls.append(len(batch.rows))
        if len(batch.rows) > rows and len(calls) > after:
            raise error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return backward(model, batch, *more)

    monkeypatch.setattr(craft.bench.training.loop, "_backward", limited)
    return calls


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, SLOW(MemoryError), SLOW(RuntimeError)])
def test_too_little_memory_is_a_failed_record_with_the_advice(error, bench, monkeypatch):
    with injecting("too little memory, by itself"):
        too_big(monkeypatch, 4, error)
        with pytest.raises(memory.OutOfMemory, match="train.accumulate=2 makes micro-batches of 4"):
            bench.run()
        made = json.loads((bench.folder() / "record.json").read_text())
        assert made["status"] == "failed"
        assert "train.auto_accumulate=true" in made["error"]


def test_too_little_memory_in_evaluation_is_not_answered_by_smaller_steps(bench, monkeypatch):
    """Whose batches are its own, and may be the larger ones."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    said = []
    with injecting("too little memory in evaluation"):
        monkeypatch.setattr(craft.bench.training.loop, "predict", full)
        with pytest.raises(memory.OutOfMemory, match="train.eval_batch_size="):
            bench.run("train.auto_accumulate=true", said=said)
        made = json.loads((bench.folder() / "record.json").read_text())
        assert made["status"] == "failed" and "in evaluation" in made["error"]
        assert not any("on with" in line for line in said)


def test_auto_accumulate_finds_the_micro_batch_that_fits(bench, monkeypatch):
    """With the gradients of the whole batch: see test_accumulated_gradient_is_the_big_batchs."""
    with injecting("too little memory, train.auto_accumulate=true", "the epoch until then"):
        calls, said = too_big(monkeypatch, 2, after=EACH + 1), []
        made = bench.run("train.auto_accumulate=true", said=said)
        assert made["status"] == "ok"
        assert made["provenance"]["accumulate"] == 4
        assert [line.split(", on with ")[1] for line in said[:2]] == [
            "train.accumulate=2", "train.accumulate=4",
        ]  # fmt: skip
        assert made["result"]["steps"] == 2 * EACH
        epoch = [8, 8, 4]
        assert calls[: EACH + 2] == [*epoch, 8, 8]  # the first epoch is not done again
        assert calls[-10:] == [2] * 10


def test_auto_accumulate_ends_with_the_result_of_the_whole_batch(bench, monkeypatch, tmp_path):
    """Within rounding, dropout apart, whose masks are another batch's."""
    from tiny_loop import loop_of, model_of, state

    def trained(settings_of):
        config, model = model_of(bench, dropout=False)
        loop = loop_of(config, model, tmp_path, settings=settings_of(config.train))
        with pytest.raises(Interrupted):  # a step before the end of the first epoch
            craft.bench.training.loop.fit(model, dataclasses.replace(loop, stop=stop_at(2)))
        return config, model, loop

    config, model, loop = trained(lambda settings: settings)
    halved = dataclasses.replace(config.train, accumulate=2)
    craft.bench.training.loop.fit(model, dataclasses.replace(loop, settings=halved))
    ours = state(model)
    config, model, loop = trained(lambda settings: settings)
    craft.bench.training.loop.fit(model, loop)
    for name, value in state(model).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)


# --- values


@pytest.mark.parametrize("value", [float("inf"), SLOW(float("nan"))])
@pytest.mark.parametrize("clip", [1.0, SLOW(0.0)])
def test_gradient_that_is_not_finite_ends_the_run_as_diverged(value, clip, bench, monkeypatch):
    with injecting("gradient that is not finite"):
        update, steps = craft.bench.training.loop._update, []

        def spoilt(parameters, optimizer, scaler, clip):
            steps.append(1)
            if len(steps) == 2:
                next(iter(parameters.values())).grad.view(-1)[0] = value
            update(parameters, optimizer, scaler, clip)

        monkeypatch.setattr(craft.bench.training.loop, "_update", spoilt)
        assert bench.run(f"train.clip={clip}")["status"] == "diverged"


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_fp16_scaler_skips_and_counts_a_step_whose_gradient_is_not_finite(
    clip, bench, monkeypatch, tmp_path
):
    """On the CPU, whose fp16 the config refuses because it is slow; the scaler is the same."""
    from tiny_loop import loop_of, model_of, state

    with injecting("gradient that is not finite, under the fp16 scaler", "the step, left out"):
        config, model = model_of(bench, f"train.clip={clip}", dropout=False)
        settings = dataclasses.replace(config.train)
        object.__setattr__(settings, "precision", "fp16")
        update, scales, moved = craft.bench.training.loop._update, [], []

        def spoilt(parameters, optimizer, scaler, clip):
            before = state(model)
            if len(scales) == 1:
                next(iter(parameters.values())).grad.view(-1)[0] = float("inf")
            scales.append(scaler.get_scale())
            update(parameters, optimizer, scaler, clip)
            after = state(model)
            moved.append(any(not torch.equal(after[name], before[name]) for name in before))

        monkeypatch.setattr(craft.bench.training.loop, "_update", spoilt)
        fitted = craft.bench.training.loop.fit(
            model, loop_of(config, model, tmp_path, settings=settings)
        )
        assert fitted.status == "ok"
        assert (fitted.progress.step, fitted.progress.skipped_steps) == (2 * EACH, 1)
        assert moved == [False, False, True, True, True, True]  # the first has a rate of 0
        assert scales[2] == scales[1] / 2
        assert all(value.isfinite().all() for value in state(model).values())


# --- the hub

UNREACHABLE = """
import sys
from craft.bench.model.locate import locate
from craft.errors import InputError
from craft.bench.settings.sections import Model
def section(name): return Model(repository=name, revision="0" * 40)
print(locate(section("someone/cached")).digest)
try:
    locate(section("someone/else"))
except InputError as error:
    print(error)
"""


@pytest.mark.slow  # the hub's client tries for 20 seconds
def test_hub_that_is_down_is_no_matter_with_a_cache_and_one_line_without(tiny_roberta, tmp_path):
    """Nothing listens at the address of this hub."""
    with injecting("hub down"):
        cached = tmp_path / "hub" / "models--someone--cached" / "snapshots" / ("0" * 40)
        shutil.copytree(tiny_roberta, cached)
        place = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
        place |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", UNREACHABLE], env={**os.environ, **place}, text=True,
            capture_output=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digest, refused = done.stdout.splitlines()
        there = locate(read(Model, {"path": str(tiny_roberta)}))
        assert digest == there.digest
        assert "someone/else is neither reachable nor cached" in refused
        assert refused.endswith("give a local copy: model.path=FOLDER")


# --- tracking


class BrokenWandb(FakeWandb):
    """Works until the given call."""

    def __init__(self, breaks_at):
        super().__init__()
        self.breaks_at, self.modes = breaks_at, []

    def init(self, **given):
        self.modes.append(given["mode"])
        if self.breaks_at == "init" and given["mode"] == "online":
            raise ConnectionError(f"no route to host with key {os.environ['WANDB_API_KEY']}")
        return super().init(**given)

    def log(self, values, step):
        if self.breaks_at == "log":
            raise BrokenPipeError("the service went away")
        super().log(values, step)

    def finish(self, exit_code):
        if self.breaks_at == "finish":
            raise BrokenPipeError("the service went away")
        super().finish(exit_code)


@pytest.mark.parametrize("at", ["init", SLOW("log"), SLOW("finish")])
def test_broken_wandb_is_named_once_and_training_goes_on(at, bench, unbroken, monkeypatch):
    with injecting(f"wandb broken at {at}", "nothing"):
        fake = BrokenWandb(at)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
        with pytest.warns(UserWarning, match="wandb: ") as said:
            assert bench.run("logger=wandb")["result"] == unbroken
        ours = [str(w.message) for w in said if str(w.message).startswith("wandb")]
        assert len(ours) == 1
        assert "0123456789abcdef" not in ours[0]
        if at == "init":
            assert fake.modes == ["online", "offline"] and len(fake.logged) == 2


# --- secrets


def test_no_secret_stands_in_a_record_or_an_error(bench, monkeypatch, capsys):
    with injecting("a secret in an error and on the command line"):
        secrets = {"WANDB_API_KEY": "a1b2c3d4e5f6a1b2c3d4", "HF_TOKEN": "hf_abcdefghijklmnopqrst"}
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)

        def fails(model, loop):
            raise RuntimeError(f"401 for {secrets['WANDB_API_KEY']} and {secrets['HF_TOKEN']}")

        monkeypatch.setattr(craft.bench.run.execute, "fit", fails)
        with pytest.raises(RuntimeError):
            craft.bench.run.run.run(
                bench.config(), f"train.py --key {secrets['WANDB_API_KEY']}", lambda: False, print
            )
        for path in bench.files():
            text = path.read_bytes().decode(errors="replace")
            assert not any(value in text for value in secrets.values()), path
        made = json.loads((bench.folder() / "record.json").read_text())
        assert made["error"] == "RuntimeError: 401 for $WANDB_API_KEY and $HF_TOKEN"


def test_secrets_are_known_by_their_shape_too():
    text = "https://me:pass-word@host/x and hf_ABCDEFGHIJKLMNOPQRSTUV, commit " + "a" * 40
    assert without_secrets(text) == (f"https://$SECRET@host/x and $SECRET, commit {'a' * 40}")


# --- files from elsewhere


def test_config_can_name_no_code(bench):
    for target in (
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "peft.PeftModel",
        "craft.bench.run.run",
    ):
        with injecting("a config that names code to call"):
            config = bench.config()
            method = replace(config.method, peft={"_target_": target, "command": "touch run"})
            with pytest.raises(InputError, match=f"_target_: {target} is no PeftConfig"):
                peft_config(method, modules_to_save=[])
    with injecting("a config that names code to call"):
        nested = {**config.method.peft, "ranks": {"_target_": "os.system", "command": "id"}}
        with pytest.raises(InputError, match="_target_: os.system is not allowed here"):
            peft_config(replace(config.method, peft=nested), modules_to_save=[])
    with pytest.raises(InputError, match="not allowed"):
        refuse_targets([{"a": ({"_target_": "x"},)}])


@pytest.fixture(scope="module")
def adapter(tiny_roberta, tiny_glue, tmp_path_factory):
    from tiny_bench import Bench

    made = Bench(tiny_roberta, tiny_glue, tmp_path_factory.mktemp("made"))
    made.run("train.max_steps=1", method="lora")
    return made.folder() / "best"


def changed_adapter(adapter, tmp_path, **fields):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    return folder


REFUSED = {
    "an adapter that names a module to import": (
        {"auto_mapping": {"parent_library": "evil", "base_model_class": "X"}}, "auto_mapping",
    ),
    "an adapter that names others to fetch": ({"peft_type": "XLORA"}, "peft_type 'XLORA'"),
    "an adapter of no known kind": ({"peft_type": "EVIL"}, "peft_type 'EVIL'"),
    "an adapter that names code to call": ({"x": {"_target_": "os.system"}}, "os.system is not"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_adapter_from_elsewhere_cannot_run_code(fault, adapter, tmp_path):
    fields, message = REFUSED[fault]
    with injecting(fault):
        check_adapter(adapter)
        with pytest.raises(InputError, match=message):
            check_adapter(changed_adapter(adapter, tmp_path, **fields))


def test_adapter_of_another_backbone_rank_or_shape_is_refused_with_what_differs(
    adapter, bench, tiny_bert, tmp_path
):
    overrides = bench.overrides("mode=evaluate", f"adapter={adapter}", method="lora")
    from tiny_bench import compose

    assert "accuracy" in evaluate(check(compose(*overrides)))
    with injecting("an adapter of another backbone"):
        other = [o for o in overrides if not o.startswith("model.path")]
        with pytest.raises(InputError, match="made on roberta.* with the digest .*; bert.* has"):
            evaluate(check(compose(*other, f"model.path={tiny_bert}")))
    rest = [o for o in overrides if not o.startswith("adapter=")]
    with injecting("an adapter of another rank"):
        folder = changed_adapter(adapter, tmp_path / "rank", r=4)
        with pytest.raises(InputError, match=r"does not fit: .*mismatch.*\[8, 32\].*\[4, 32\]"):
            evaluate(check(compose(*rest, f"adapter={folder}")))
    with injecting("an adapter that lacks tensors"):
        folder = changed_adapter(adapter, tmp_path / "lacks")
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors.pop(next(name for name in tensors if "lora_B" in name))
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(InputError, match="does not fit: .*missing adapter keys.*lora_B"):
            evaluate(check(compose(*rest, f"adapter={folder}")))


def evaluated(bench, folder, *more, **choices):
    return evaluate(bench.config("mode=evaluate", f"adapter={folder}", *more, **choices))


BACKBONES = {
    "model.random=true": "was made on model.random=false, not on model.random=true",
    "model.vertical.rank=2": "was made on model.vertical=null, not on model.vertical={rank:2,",
}


@pytest.mark.parametrize("other", BACKBONES)
def test_adapter_made_on_the_backbone_as_it_stands_is_refused_elsewhere(other, adapter, bench):
    with pytest.raises(InputError, match=re.escape(BACKBONES[other])):
        evaluated(bench, adapter, other, method="lora")


def test_adapter_made_on_random_weights_is_evaluated_on_these_alone(bench):
    made = bench.run("train.max_steps=1", "seed=3", "model.random=true", method="lora")
    best = bench.folder() / "best"
    same = evaluated(bench, best, "model.random=true", "seed=3", method="lora")
    assert same == pytest.approx(made["result"]["score"]["best"])
    message = "was made on weights drawn from seed=3, not from seed=4"
    with pytest.raises(InputError, match=message):
        evaluated(bench, best, "model.random=true", "seed=4", method="lora")
    with pytest.raises(InputError, match="was made on model.random=true, not on model.random=fal"):
        evaluated(bench, best, "seed=3", method="lora")


def test_pooler_that_the_weights_lack_is_the_runs_own(bench, tiny_bert, tmp_path):
    bert = Bench(tiny_bert, bench.glue, tmp_path / "bert")
    made = bert.run("train.max_steps=1", "seed=3", method="lora")
    best = bert.folder() / "best"
    assert evaluated(bert, best, "seed=3", method="lora") == pytest.approx(
        made["result"]["score"]["best"]
    )
    with pytest.raises(InputError, match="weights drawn from seed=3, not from seed=4"):
        evaluated(bert, best, "seed=4", method="lora")


def test_adapter_of_another_task_or_number_of_labels_is_refused(adapter, bench, tmp_path):
    with pytest.raises(InputError, match="was made on task=rte, not on task=mrpc"):
        evaluated(bench, adapter, method="lora", task="mrpc")
    folder = shutil.copytree(adapter, tmp_path / "elsewhere")
    (folder / "made_on.json").unlink()
    message = r"elsewhere has a head of 2 outputs \(classifier.out_proj.weight\); task=mnli has 3"
    with pytest.raises(InputError, match=message):
        evaluated(bench, folder, method="lora", task="mnli")
    assert "accuracy" in evaluated(bench, folder, method="lora", task="mrpc")  # nothing contradicts


def test_adapter_of_another_tokenizer_is_refused_and_older_origins_load(adapter, bench, tmp_path):
    encoder = shutil.copytree(bench.model, tmp_path / "encoder")
    with (encoder / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    other = Bench(encoder, bench.glue, bench.outputs)
    with pytest.raises(InputError, match="with the tokenizer digest .*; encoder has"):
        evaluated(other, adapter, method="lora")
    older = shutil.copytree(adapter, tmp_path / "older")
    origin = json.loads((older / "made_on.json").read_text())
    origin["model"] = {key: origin["model"][key] for key in ("name", "digest")}
    (older / "made_on.json").write_text(json.dumps(origin))
    assert "accuracy" in evaluated(other, older, method="lora")


def test_pickle_is_never_loaded(adapter, bench, tmp_path):
    with injecting("an adapter as a pickle"):
        folder = shutil.copytree(adapter, tmp_path / "pickled")
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(InputError, match="holds no adapter_model.safetensors"):
            evaluate(bench.config("mode=evaluate", f"adapter={folder}", method="lora"))
