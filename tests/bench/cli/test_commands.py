"""`python scripts/train.py` as a user meets it: what it refuses, how it stops, how sweeps go on."""

import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import peft
import pytest
from fake_wandb import FakeWandb
from hydra.errors import MissingConfigException
from injected import injecting
from safetensors import SafetensorError
from tiny_bench import ROOT, Bench, compose

import craft.bench.run.execute
from craft.bench.cli.process import LastLine, explain
from craft.bench.run import signals
from craft.bench.settings.resolve import check, donor_line
from craft.bench.training.loop import Interrupted, fit
from craft.errors import InputError

SCRIPTS = ROOT / "scripts"

RANKS = "method.peft.ranks"


@pytest.fixture(autouse=True)
def _state_of_the_process():
    """The script sets signal handlers and logging for a process of its own."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    LastLine.sweep = None
    root.level, root.handlers[:] = before
    signals._received.clear()


@pytest.fixture
def train(monkeypatch, tmp_path):
    """The script run in this process: its exit code; what is no user's error is raised."""

    def script(*overrides):
        monkeypatch.setattr(sys, "argv", ["scripts/train.py", *overrides])
        try:
            runpy.run_path(str(SCRIPTS / "train.py"), run_name="__main__")
        except SystemExit as leave:
            return leave.code
        return 0

    monkeypatch.chdir(tmp_path)
    return script


def process(*overrides, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "train.py"), *overrides], cwd=cwd, env=environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def records(bench):
    return [json.loads(path.read_text()) for path in sorted(bench.outputs.rglob("record.json"))]


# --- bad input


REFUSED = {
    "unknown task": (["task=foo"], r"task 'foo' is not one of cola, mnli, .*, wnli$"),
    "unknown method": (["method=foo"], r"method 'foo' is not one of .*craft, .*lora, "),
    "unknown model": (["model=foo"], r"model 'foo' is not one of local, roberta_base, "),
    "unknown data source": (["data=foo"], r"data 'foo' is not one of hub, local, mini$"),
    "unknown logger": (["logger=foo"], r"logger 'foo' is not one of none, wandb$"),
    "unknown key": (["foo=1"], r"config key 'foo' is unknown; the config has mode, .*train, "),
    "unknown key of train": (["train.foo=1"], r"'train.foo' is unknown; train has lr, head_lr, "),
    "unknown key, added": (["+train.foo=1"], r"train: keys \['foo'\] are unknown or missing"),
    "missing key": (["~train.device"], r"train: keys \['device'\] are unknown or missing"),
    "unknown field": (["method.peft.foo=1"], r"'method.peft.foo' is unknown; .* has .*ranks"),
    "unknown field, added": (
        ["+method.peft.rank=8"], r"method CRAFT: method.peft.rank is not one of .* ranks, ",
    ),
    "no such PeftConfig": (["method.peft._target_=craft.Foo"], r"method CRAFT: .*craft.Foo"),
    "two ranks": ([f"{RANKS}=[2,8]"], r"method CRAFT: method.peft.ranks must .*\[2, 8\]"),
    "rank 0": ([f"{RANKS}=[2,0,8]"], r"method CRAFT: .*ranks.*\[2, 0, 8\]"),
    "negative rank": ([f"{RANKS}=[2,8,-8]"], r"method CRAFT: .*ranks.*\[2, 8, -8\]"),
    "broken rank": ([f"{RANKS}=[2,8,8.5]"], r"method CRAFT: .*ranks.*8\.5"),
    "rank that is text": ([f"{RANKS}=[2,8,big]"], r"method CRAFT: .*ranks.*'big'"),
    "ranks that are text": ([f"{RANKS}=big"], r"method CRAFT: .*ranks.*'big'"),
    "ranks that are one number": ([f"{RANKS}=8"], r"method CRAFT: .*ranks.*8"),
    "ranks that are nothing": ([f"{RANKS}=null"], r"method CRAFT: .*ranks.*None"),
    "true as a rank": ([f"{RANKS}=[2,8,true]"], r"method CRAFT: .*ranks.*True"),
    "unknown init": (["method.peft.init=warm"], "method.peft.init 'warm' is not one of exact, pap"),
    "CRAFT's target": (["+method.peft.target_modules=[nope]"], r"method CRAFT: .*nope"),
    "fp16 on a CPU": (["train.precision=fp16"], "needs a CUDA device; on a CPU take bf16 or fp32"),
    "unknown precision": (["train.precision=fp8"], "'fp8' is not one of fp32, bf16, fp16"),
    "unknown device": (["train.device=tpu"], "device 'tpu' is not one of auto, cpu, cuda"),
    "unknown batching": (["train.batching=x"], "'x' is not one of packed, grouped, padded"),
    "batch of nothing": (["train.batch_size=0"], "train.batch_size must be a whole .* not 0$"),
    "broken batch": (["train.batch_size=1.5"], "train.batch_size must be a whole .* not 1.5"),
    "uneven accumulation": (["train.accumulate=3"], "train.batch_size 8 is not a multiple of .* 3"),
    "learning rate in words": (["train.lr=fast"], "train.lr must be a number from 0 .* not 'fast'"),
    "infinite learning rate": (["train.lr=inf"], "train.lr must be a number from 0 .* not inf"),
    "negative decay": (["train.weight_decay=-1"], "train.weight_decay must be a number .* not -1"),
    "warm-up of 2": (["train.warmup=2"], "train.warmup must be a number from 0 to 1, not 2"),
    "beta of 1": (["train.beta2=1"], "train.beta2 must be below 1"),
    "tf32 in words": (["train.tf32=maybe"], "train.tf32 must be true or false, not 'maybe'"),
    "negative seed": (["seed=-1"], "seed must be a whole number of at least 0, not -1"),
    "unknown mode": (["mode=foo"], "mode 'foo' is not one of train, evaluate, predict"),
    "nothing to evaluate": (["mode=evaluate"], "mode=evaluate needs adapter=FOLDER"),
    "no learning rate": (["~train.lr"], r"train: keys \['lr'\] are unknown or missing"),
    "too long for the model": (
        ["train.max_length=65"], "train.max_length 65 exceeds the 64 positions of roberta",
    ),
    "a folder that is not there": (["data.dir=nowhere"], "data.dir: nowhere is not a folder"),
    "an empty folder": (["data.dir=."], "rte: split train is not in .; it would be RTE/train.tsv"),
    "no cached data": (
        ["data=hub", "~data.dir"], r"nyu-mll/glue \(rte\).* data=local data.dir=FOLDER$",
    ),
    "no cached model": (
        ["model=roberta_base", "model.path=null"],
        r"FacebookAI/roberta-base is neither reachable nor cached .* model.path=FOLDER$",
    ),
    "no model there": (["model.path=."], "model.path: there is no config.json in ."),
    "override that is none": (["train.lr"], "train.lr"),
}  # fmt: skip


def assert_refused(bench, code, captured, message):
    """Exit code 2, one line, nothing written."""
    assert code == 2, captured.err
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert captured.out == ""
    assert not bench.outputs.exists() or bench.files() == []


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_that_names_it(case, bench, train, capsys):
    overrides, message = REFUSED[case]
    given = [] if "data=hub" in overrides else overrides
    line = bench.overrides(*given)
    if not given:
        line = [o for o in line if not o.startswith("data")] + overrides[:1]
    assert_refused(bench, train(*line), capsys.readouterr(), message)


@pytest.mark.parametrize(
    "key", ["model.path", "data.dir", "train.lr", "train.head_lr", "train.epochs"]
)
def test_value_that_must_be_given_is_asked_for(key, bench, train, capsys):
    line = [o for o in bench.overrides() if not o.startswith(f"{key}=")]
    assert_refused(bench, train(*line), capsys.readouterr(), rf"{key}=VALUE$")


def test_missing_recipe_row_is_named(bench, train, capsys):
    line = [o for o in bench.overrides("~recipe.rte") if not o.startswith("train.lr")]
    message = (
        "the recipe of CRAFT on local gives no lr, weight_decay, warmup, beta2, eps for task rte: "
    )
    message += "give train.lr=VALUE train.weight_decay=VALUE"
    assert_refused(bench, train(*line), capsys.readouterr(), message)


def test_all_that_must_be_given_is_asked_for_at_once(bench, train, capsys):
    absent = ("model.path=", "data.dir=", "train.lr=", "train.head_lr=", "train.epochs=")
    line = [o for o in bench.overrides() if not o.startswith(absent)]
    message = "model.path, data.dir must be given; the recipe of CRAFT on local gives no lr, "
    message += "head_lr, epochs for task rte: give model.path=VALUE data.dir=VALUE "
    message += "train.lr=VALUE train.head_lr=VALUE train.epochs=VALUE$"
    assert_refused(bench, train(*line), capsys.readouterr(), message)


@pytest.mark.parametrize(
    "method, override, message",
    [
        ("lora", "method.peft.r=abc", "LoRA: method.peft.r must be a number, not 'abc'$"),
        ("lora", "+method.peft.bias=1", "method.peft.bias must be 'none' or 'all' or "),
        ("lora", "+method.peft.use_rslora=2", "use_rslora must be true or false, not 2$"),
        ("lora", "method.peft.r=2.5", "method LoRA: "),
        ("bitfit", "+method.peft.target_modules=[nope]", "method BitFit: target module nope not"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(method, override, message, bench, train, capsys):
    line = bench.overrides(override, method=method)
    assert_refused(bench, train(*line), capsys.readouterr(), message)


def test_a_warning_is_one_line_that_names_no_code(bench, train):
    done = process(
        *bench.overrides("method.peft.ranks=[2,40,8]", "train.max_steps=1"),
        cwd=bench.outputs.parent,
    )
    _, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    (line,) = [line for line in err.splitlines() if "exceed" in line]
    wanted = (
        "warning: ranks (2, 40, 8) exceed the shape (2, 32, 32) of query, value; using (2, 32, 8)"
    )
    assert line == wanted and "warnings.warn" not in err


def test_target_that_matches_nothing_is_refused_for_lora_too(bench, train, capsys):
    line = bench.overrides("+method.peft.target_modules=[nope]", method="lora")
    assert_refused(
        bench, train(*line), capsys.readouterr(), "method LoRA: target module nope .* query"
    )


TRAIN = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"
FILES = {
    "missing column": (
        TRAIN.replace("sentence2", "text"), r"RTE/train.tsv: columns \['sentence2'\] are missing",
    ),
    "unknown label": (
        f"{TRAIN}1\ta\tb\tmaybe\n",
        r"RTE/train.tsv, line 3: label 'maybe' is not one of entailment, not_entailment",
    ),
    "wrong number of columns": (
        f"{TRAIN}1\ta\tentailment\n", r"RTE/train.tsv, line 3: 3 fields instead of 4",
    ),
    "empty": ("", r"RTE/train.tsv: columns .* are missing"),
    "header alone": (TRAIN[:35].split("\n")[0] + "\n", "rte: split train is empty"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_broken_file_is_named_with_its_line(fault, bench, train, capsys, tmp_path):
    content, message = FILES[fault]
    shutil.copytree(bench.glue / "RTE", tmp_path / "broken" / "RTE")
    (tmp_path / "broken" / "RTE" / "train.tsv").write_text(content)
    line = bench.overrides(f"data.dir={tmp_path / 'broken'}")
    assert_refused(bench, train(*line), capsys.readouterr(), message)


MODELS = {
    "without weights": ("model.safetensors", None, r"holds no weights \(model.safetensors\)"),
    "with cut weights": ("model.safetensors", 1000, r"folder/model.safetensors: "),
    "without a tokenizer": ("tokenizer.json", None, "folder holds no tokenizer"),
    "with a cut tokenizer": ("tokenizer.json", 1000, "folder: the tokenizer: "),
    "of no known kind": ("config.json", 2, "folder: "),
}


@pytest.mark.parametrize("fault", MODELS)
def test_model_folder_that_cannot_be_used_is_named(fault, bench, train, capsys, tmp_path):
    name, size, message = MODELS[fault]
    folder = shutil.copytree(bench.model, tmp_path / "folder")
    content = b"{}" if name == "config.json" else (folder / name).read_bytes()[:size]
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(content)
    line = bench.overrides(f"model.path={folder}")
    assert_refused(bench, train(*line), capsys.readouterr(), message)


def test_missing_recipe_names_method_and_model():
    with pytest.raises(MissingConfigException) as raised:
        compose("recipe=craft/llama")
    expected = "method craft has no recipe for model 'llama'; it has one for roberta_base, "
    expected += "roberta_large, roberta_mini; recipe=local asks for its values"
    assert explain(raised.value) == expected


def test_error_that_is_not_the_users_stays_whole(bench, train, capsys, monkeypatch):
    def broken(model, loop):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(craft.bench.run.execute, "fit", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        train(*bench.overrides())
    assert [made["status"] for made in records(bench)] == ["failed"]


# --- one run


def test_script_trains_and_says_what_it_made(bench, train, capsys):
    assert train(*bench.overrides()) == 0
    first = capsys.readouterr().out
    (made,) = records(bench)
    assert made["status"] == "ok"
    assert made["provenance"]["command"].startswith("craft train model=local ")
    score, path = made["result"]["score"], bench.folder() / "record.json"
    headline = f"accuracy {score['best']['accuracy']:.4f} (epoch {score['best_epoch']})"
    assert first == f"{bench.folder().name}: ok, {headline}; {path}\n"
    assert train(*bench.overrides()) == 0
    assert "done already" in capsys.readouterr().out


def test_outputs_may_be_relative_to_where_the_user_stands(bench, train, tmp_path):
    assert train(*bench.overrides("outputs=here")) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"here"}
    assert len(list((tmp_path / "here" / "runs").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signal_leaves_a_checkpoint_and_the_next_start_goes_on(
    number, bench, train, capsys, monkeypatch
):
    def signalled(model, loop):
        os.kill(os.getpid(), number)
        return fit(model, loop)

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", signalled)
        assert train(*bench.overrides()) == 130
    assert "interrupted: stopped at step 1 of 6; start again to go on" in capsys.readouterr().err
    assert (bench.folder() / "checkpoint.safetensors").is_file() and records(bench) == []
    signals._received.clear()
    assert train(*bench.overrides()) == 0
    (made,) = records(bench)
    assert made["result"] == bench.elsewhere("unbroken").run()["result"]


def test_second_interrupt_stops_at_once(bench, train, monkeypatch):
    def impatient(model, loop):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(craft.bench.run.execute, "fit", impatient)
    assert train(*bench.overrides()) == 130
    assert json.loads((bench.folder() / "attempts.json").read_text())[0]["ended"] == "interrupted"


# --- sweeps


def test_refusal_after_the_first_step_is_a_failed_run_and_one_line(
    bench, train, capsys, monkeypatch
):
    def late(model, loop):
        raise InputError("a word too late")

    monkeypatch.setattr(craft.bench.run.execute, "fit", late)
    assert train(*bench.overrides()) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: a word too late"
    assert train("-m", *bench.overrides()) == 2
    last = r"not ok: 1 of 1 runs: rte-craft-roberta\d+-s0-\w+ \(failed\)"
    assert re.fullmatch(last, capsys.readouterr().err.splitlines()[-1])
    made = json.loads((bench.folder() / "record.json").read_text())
    assert (made["status"], made["error"]) == ("failed", "InputError: a word too late")


def test_sweep_finishes_the_rest_when_one_job_is_refused(bench, train, capsys):
    code = train("-m", *bench.overrides(f"{RANKS}=[0,8,8],[2,8,8]", "seed=0,1"))
    captured = capsys.readouterr()
    assert code == 2
    assert [made["status"] for made in records(bench)] == ["ok", "ok"]
    lines = [line for line in captured.err.splitlines() if "error" in line]
    assert len(lines) == 3  # each job's own, and the last word
    assert all("ranks" in line and "[0, 8, 8]" in line for line in lines)
    assert [f"seed={seed}" in line for seed, line in enumerate(lines[:2])] == [True, True]
    assert lines[-1].startswith("error: ")


def test_sweep_finishes_the_rest_when_one_job_breaks(bench, train, monkeypatch, capsys):
    attempts = []

    def first_breaks(model, loop):
        attempts.append(1)
        if len(attempts) == 1:
            raise ZeroDivisionError("a bug")
        return fit(model, loop)

    monkeypatch.setattr(craft.bench.run.execute, "fit", first_breaks)
    with injecting("one failing run in a sweep", "that run"):
        assert train("-m", *bench.overrides("seed=0,1")) == 1
        err = capsys.readouterr().err
        assert "Traceback" in err
        last = (
            r"not ok: 1 of 2 runs: rte-craft-roberta\d+-s0-\w+: ZeroDivisionError: a bug \(failed\)"
        )
        assert re.fullmatch(last, err.splitlines()[-1])
        assert sorted(made["status"] for made in records(bench)) == ["failed", "ok"]
    assert train("-m", *bench.overrides("seed=0,1")) == 0
    assert len(attempts) == 3
    assert [made["status"] for made in records(bench)] == ["ok", "ok"]


@pytest.fixture
def full_disk_at_the_adapters(monkeypatch):
    """As safetensors says it, after a part of the files is there."""
    write, calls = peft.peft_model.safe_save_file, []

    def fill(tensors, path, **more):
        calls.append(path)
        if len(calls) > 1:
            return write(tensors, path, **more)
        Path(path).write_bytes(b"half")
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(peft.peft_model, "safe_save_file", fill)


def test_full_disk_at_the_adapters_is_one_line_and_the_run_goes_on(
    bench, train, full_disk_at_the_adapters, capsys
):
    unbroken = bench.elsewhere("unbroken")
    with injecting("disk full while adapters are saved", "the last epoch"):
        more = ["train.epochs=2", "train.checkpoint_minutes=0"]
        assert train(*bench.overrides(*more)) == 1
        err = capsys.readouterr().err.splitlines()
        (line,) = [said for said in err if "  epoch " not in said and "it/s" not in said]
        folder = bench.folder()
        assert line == (
            f"error: {folder.name}: Error while serializing: I/O error: No space left on device "
            "(os error 28); the same command goes on once there is room"
        )
        left = {path.name for path in folder.iterdir()}
        assert left >= {"checkpoint.safetensors", "attempts.json"}
        assert not [name for name in left if name.startswith((".", "last", "best", "lease"))]
        assert train(*bench.overrides(*more)) == 0
        assert records(bench)[0]["result"] == unbroken.run(*more)["result"]


def test_full_disk_in_a_sweep_is_a_line_and_the_rest_is_finished(
    bench, train, full_disk_at_the_adapters, capsys
):
    assert train("-m", *bench.overrides("seed=0,1")) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: rte-craft-roberta")]
    assert err.splitlines()[-1].startswith("not ok: 1 of 2 runs: rte-craft-roberta")
    assert sorted(made["status"] for made in records(bench)) == ["failed", "ok"]


def test_sweep_names_the_run_that_diverged(bench, train, capsys):
    more = ["train.lr=1e-2,1e30", "train.epochs=1", "train.head_lr=${train.lr}", "train.warmup=0"]
    assert train("-m", *bench.overrides(*more)) == 0
    last = r"not ok: 1 of 2 runs: rte-craft-roberta\d+-s0-\w+ \(diverged\)"
    assert re.fullmatch(last, capsys.readouterr().err.splitlines()[-1])


def test_interrupted_sweep_starts_no_other_job(bench, train, capsys, monkeypatch):
    def signalled(model, loop):
        os.kill(os.getpid(), signal.SIGTERM)
        return fit(model, loop)

    monkeypatch.setattr(craft.bench.run.execute, "fit", signalled)
    assert train("-m", *bench.overrides("seed=0,1,2")) == 130
    assert bench.folder().name.startswith(f"rte-craft-{bench.model.name}-s0-")  # the only one


def test_sweep_over_an_unknown_task_starts_nothing(bench, train, capsys):
    code = train("-m", *bench.overrides("task=rte,foo"))
    assert code == 2
    assert "error: task 'foo' is not one of cola" in capsys.readouterr().err
    assert records(bench) == []


# --- the same in a process of its own


def test_process_refuses_in_one_line(bench, tmp_path):
    started = process(*bench.overrides(f"{RANKS}=[2,8]"), cwd=tmp_path)
    out, err = started.communicate(timeout=120)
    assert (started.returncode, out) == (2, ""), err
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and "ranks" in err
    assert list(tmp_path.iterdir()) == []


def test_process_runs_a_sweep_and_another_finds_it_done(bench, tmp_path, train, capsys):
    line = ["-m", *bench.overrides("method=craft,lora", "train.max_length=64")]
    line = [part for part in line if not part.startswith(RANKS)]
    first = process(*line, cwd=tmp_path)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    made = records(bench)
    assert [(m["status"], m["provenance"]["config"]["method"]["label"]) for m in made] == [
        ("ok", "CRAFT"), ("ok", "LoRA"),
    ]  # fmt: skip
    assert out.count(": ok, accuracy") == 2
    assert "Traceback" not in err
    assert train(*line) == 0
    assert capsys.readouterr().out.count("done already") == 2
    assert records(bench) == made


def test_terminated_process_leaves_a_checkpoint_and_another_ends_with_the_unbroken_result(
    bench, tmp_path, train
):
    line = bench.overrides("train.epochs=40")
    first = process(*line, cwd=tmp_path)
    while "epoch 2" not in (said := first.stderr.readline()):
        assert said, "ended before its second epoch"
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert "interrupted: stopped at step" in err
    assert (bench.folder() / "checkpoint.safetensors").is_file()
    assert train(*line) == 0
    (made,) = records(bench)
    assert [a["ended"] for a in made["provenance"]["attempts"]] == ["interrupted", "ok"]
    unbroken = bench.elsewhere("unbroken").run("train.epochs=40")
    assert made["result_sha256"] == unbroken["result_sha256"]


# --- tracking


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return fake


def test_wandb_gets_config_metrics_and_record(bench, wandb):
    made = bench.run("logger=wandb")
    assert wandb.given["mode"] == "offline"
    assert wandb.given["project"] == "craft"
    assert made["id"].startswith(wandb.given["id"])
    assert wandb.given["config"]["train"]["epochs"] == 2
    assert wandb.logged == [(entry["step"], entry) for entry in made["result"]["history"]]
    assert wandb.summary["status"] == "ok"
    assert wandb.summary["record"]["result"] == made["result"]
    assert wandb.summary["accuracy"] == made["result"]["score"]["best"]["accuracy"]
    assert wandb.ended == [0]


def test_wandb_run_ends_with_an_interrupted_run(bench, wandb):
    with pytest.raises(Interrupted):
        bench.run("logger=wandb", stop=lambda: True)
    assert wandb.ended == [1]


def test_wandb_is_told_of_a_diverged_run(bench, wandb):
    made = bench.run("logger=wandb", "train.lr=1e30", "train.head_lr=1e30")
    assert made["status"] == wandb.summary["status"] == "diverged"
    assert wandb.ended == [1]


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [
        (None, None, "offline"),
        (None, "k", "online"),
        ("offline", "k", "offline"),
        ("disabled", None, "disabled"),
    ],
)
def test_wandb_is_offline_unless_a_key_or_a_mode_is_set(mode, key, expected, monkeypatch):
    for name, value in (("WANDB_MODE", mode), ("WANDB_API_KEY", key)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert craft.bench.run.provenance.wandb_mode() == expected


def test_logger_changes_no_result_and_real_wandb_works_offline(bench):
    pytest.importorskip("wandb")
    logged = bench.run("logger=wandb")
    assert len(list((bench.folder() / "wandb").glob("offline-run-*"))) == 1
    assert logged["result"] == bench.elsewhere("other").run()["result"]


def test_without_wandb_only_logger_none_runs(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    with pytest.raises(InputError, match="wandb is not installed; install it or take logger=none"):
        bench.run("logger=wandb")
    assert bench.files() == []
    assert bench.run()["status"] == "ok"


def test_tiny_bert_runs_by_the_same_command(tiny_bert, tiny_glue, tmp_path, train):
    other = Bench(tiny_bert, tiny_glue, tmp_path / "outputs")
    assert train(*other.overrides(task="mnli")) == 0
    (made,) = records(other)
    assert {"accuracy", "accuracy_matched", "accuracy_mismatched"} == set(
        made["result"]["score"]["best"]
    )


def test_reader_that_leaves_ends_a_script_without_a_word():
    code = "from craft.bench.cli.process import start; start(lambda: print('line\\n' * 100_000))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["model", "data"])
def test_hub_that_is_out_of_reach_is_one_line(source, bench, tmp_path):
    line = bench.overrides() if source == "data" else ["logger=none"]
    line = [o for o in line if not o.startswith("data")] + ["data=hub"]
    environment = {k: v for k, v in os.environ.items() if k not in OFFLINE} | {
        "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "scripts/train.py", *line], cwd=ROOT, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "is neither reachable nor cached" in done.stderr


def test_deprecations_between_peft_and_transformers_are_not_the_users():
    said = "warnings.warn('`is_gradient_checkpointing` is deprecated', FutureWarning)"
    code = "import warnings; from craft.bench.cli.process import start; "
    code += f"start(lambda: [{said} for _ in range(2)])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_use_of_an_adapter_asks_for_nothing_of_its_training(bench, train, capsys):
    made = bench.run()
    recipe = ("train.lr=", "train.head_lr=", "train.epochs=")
    line = [o for o in bench.overrides() if not o.startswith(recipe)]
    line.append(f"adapter={bench.folder() / 'best'}")
    assert train("mode=evaluate", *line) == 0
    score = made["result"]["score"]
    assert json.loads(capsys.readouterr().out)["accuracy"] == score["best"]["accuracy"]
    written = bench.outputs / "predicted.tsv"
    assert train("mode=predict", f"predict.output={written}", *line) == 0
    assert written.is_file()


def test_mnli_on_its_matched_dev_set_alone_is_a_run_of_its_own(bench):
    both = bench.run(task="mnli")
    matched = bench.run("task.dev=[validation_matched]", task="mnli")
    assert matched["id"] != both["id"]
    of_both, alone = both["result"]["score"]["last"], matched["result"]["score"]["last"]
    assert alone["accuracy"] == of_both["accuracy_matched"]


def test_donor_is_trained_as_its_own_recipe_says(bench, train, capsys):
    recipe = ["recipe.mnli.lr=1e-2", "recipe.mnli.head_lr=1e-2", "recipe.mnli.epochs=1"]
    shared = [o for o in bench.overrides() if not o.startswith(("train.", "task="))]
    donor = [*shared, "train.device=cpu", *recipe, "recipe.mnli.max_length=32"]
    assert train(*donor, "task=mnli") == 0
    (mnli,) = (bench.outputs / "runs").glob("mnli-*")
    own = ["train.epochs=2", "train.lr=1e-3", "train.head_lr=1e-3", "train.max_length=24"]
    assert train(*donor, *own, "task=rte", "task.dev=[validation]", "start_from=mnli") == 0
    (rte,) = (bench.outputs / "runs").glob("rte-*")
    made = json.loads((rte / "record.json").read_text())["provenance"]
    assert made["start_from"]["run"] == mnli.name and made["config"]["train"]["epochs"] == 2
    capsys.readouterr()
    assert train(*donor, *own, "recipe.mnli.epochs=3", "task=rte", "start_from=mnli") == 2
    assert "start_from=mnli needs the finished run mnli-" in capsys.readouterr().err


def test_donor_keeps_its_row_and_what_its_recipe_lacks():
    row = ["row=large_adpt_p_0.8", "task=rte", "train.epochs=2", "train.lr=1", "seed=3"]
    cfg = compose(*row, "start_from=mnli")
    line = donor_line(cfg, [*row, "start_from=mnli"])
    assert line == ["row=large_adpt_p_0.8", "seed=3", "task=mnli", "start_from=null"]
    donor = check(compose(*line, "train.device=cpu"))
    assert (donor.train.epochs, donor.train.lr) == (5, 3e-4)  # the row's, not RoBERTa-large's
    local = ["model=local", "train.epochs=2", "+train.warmup=0.5", "train.max_steps=9"]
    line = donor_line(compose(*local, "start_from=mnli"), local)
    assert line == [*local, "task=mnli", "start_from=null"]
    line = donor_line(compose("task=rte", "start_from=mnli"), ["task=rte", "train.max_steps=9"])
    assert line == ["task=mnli", "start_from=null"]
