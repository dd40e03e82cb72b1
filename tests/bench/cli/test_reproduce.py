"""`make reproduce-glue`: what it finds, chooses and plans, and that it survives being stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest
from tiny_bench import ROOT

from craft.bench.cli import reproduce
from craft.bench.cli.main import run
from craft.bench.sweep.suite import Here, choose, find
from craft.errors import InputError

MINI = ROOT / "results" / "models" / "roberta-mini" / "model.safetensors"
BOTH = {"roberta_base": "base", "roberta_large": "large"}
NEITHER = dict.fromkeys(BOTH)


def asked(**given):
    return Namespace(**{"methods": None, "tasks": None, "seeds": None, **given})


def findings(gpu=None, weights=NEITHER, glue=None):
    return Here(gpu, 2, weights, glue)


# --- what is chosen


@pytest.mark.parametrize(
    "found, wanted, suite",
    [
        (findings(), None, "mini"),
        (findings(weights=BOTH, glue="hub"), None, "mini"),  # no GPU: hours
        (findings("a GPU", BOTH, "hub"), None, "paper"),
        (findings("a GPU"), "mini", "mini"),
        (findings(weights=BOTH, glue="glue"), "paper", "paper"),
        (findings(glue="glue"), "small", "small"),
    ],
)
def test_suite_follows_from_what_is_there(found, wanted, suite):
    assert choose(found, wanted)[0] == suite


@pytest.mark.parametrize(
    "found, wanted, message",
    [
        (
            findings("a GPU"),
            None,
            r"GPU: a GPU; missing: roberta_base or roberta_large weights .*GLUE_DIR=.*SUITE=mini",
        ),
        (findings("a GPU", BOTH), None, r"missing: GLUE \(GLUE_DIR=FOLDER\); or take SUITE=mini"),
        (
            findings(glue="hub"),
            "paper",
            r"missing roberta_base or roberta_large weights \(MODEL_DIR=FOLDER\)",
        ),
        (findings(glue="hub"), "small", r"missing GLUE \(GLUE_DIR=FOLDER\)"),
        (findings(), "large", r"SUITE 'large' is not one of mini, small, paper"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_one_line(found, wanted, message):
    with pytest.raises(InputError, match=message) as refused:
        choose(found, wanted)
    assert "\n" not in str(refused.value)


def test_folders_that_lack_what_they_should_hold_are_refused(tmp_path):
    lacking = "neither roberta-base/config.json nor roberta-large/config.json in"
    with pytest.raises(InputError, match=lacking):
        find(str(tmp_path), None, hub_answers=False)
    with pytest.raises(InputError, match="there is neither CoLA/ nor cola/ in"):
        find(None, str(tmp_path), hub_answers=False)


def test_folders_that_were_given_are_found(tmp_path):
    (tmp_path / "CoLA").mkdir()
    for name in ("roberta-base", "roberta-large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    found = find(str(tmp_path), str(tmp_path), hub_answers=True)
    assert found.glue == str(tmp_path)
    assert found.weights["roberta_large"] == str(tmp_path / "roberta-large")


def test_one_of_the_papers_models_is_enough(tmp_path):
    (tmp_path / "roberta-base").mkdir()
    (tmp_path / "roberta-base" / "config.json").write_text("{}")
    found = find(str(tmp_path), None, hub_answers=False)
    base = str(tmp_path / "roberta-base")
    assert found.weights == {"roberta_base": base, "roberta_large": None}
    found = findings("a GPU", found.weights, "glue")
    assert choose(found, None) == (
        "paper",
        "GPU: a GPU; GLUE and weights are there; roberta_large is left out",
    )
    assert choose(found, "paper") == ("paper", "asked for; roberta_large is left out")
    (sweep,) = reproduce.grids("paper", asked(), found)
    assert sweep.values["row"] == ["base_craft"] and f"model.path={base}" in sweep.fixed


# --- what is planned


def test_mini_suite_is_the_grid_of_its_experiment():
    (sweep,) = reproduce.grids("mini", asked(), findings())
    assert len(sweep.runs()) == 7 * 9 and sweep.fixed == ["experiment=mini"]
    given = asked(methods="craft", tasks="rte,wnli", seeds="3,4")
    (sweep,) = reproduce.grids("mini", given, findings())
    assert [run[1:] for run in sweep.runs()] == [
        ["method=craft", f"task={task}", f"seed={seed}"]
        for task in ("rte", "wnli")
        for seed in (3, 4)
    ]


def test_paper_suite_is_craft_on_both_models_and_the_rows_that_are_added():
    found = findings("a GPU", BOTH, "glue")
    base, large = reproduce.grids("paper", asked(methods="lora"), found)
    assert base.values["row"] == ["base_craft", "base_lora"] and len(base.values["task"]) == 8
    assert large.values["row"] == ["large_craft", "large_lora"]
    assert "data.dir=glue" in base.fixed and "model.path=base" in base.fixed


def test_planned_run_is_the_one_that_is_made(bench):
    overrides = bench.overrides()
    (planned,) = reproduce.plan([reproduce.Grid(overrides, {"seed": ["0"]})])
    assert not planned.done()
    made = bench.run("seed=0")
    assert planned.done() and planned.folder.path == bench.folder()
    assert planned.tokens == made["result"]["tokens"]


def test_precision_found_faster_at_the_first_start_stays(bench):
    sweep = reproduce.Grid(bench.overrides(), {"seed": ["0"]})
    precision, rate = reproduce.calibrate(sweep, bench.outputs)
    assert precision in ("bf16", "fp32") and rate > 0
    other = {"bf16": "fp32", "fp32": "bf16"}[precision]
    (bench.outputs / "precision.json").write_text(json.dumps({"cpu": other}))
    assert reproduce.calibrate(sweep, bench.outputs)[0] == other


# --- the command


def command(outputs, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "scripts/reproduce.py", f"outputs={outputs}", *options], cwd=ROOT,
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def main(*words):
    run("reproduce", "craft reproduce", words)


def test_unknown_option_is_refused():
    with pytest.raises(InputError, match="'suit=mini' is not one of suite=, methods=, tasks="):
        main("suit=mini")


@pytest.mark.parametrize("workers", ["0", "two", "-1", "1.5"])
def test_impossible_number_of_workers_is_refused_at_once(workers, capsys):
    message = f"workers: '{workers}' is not a whole number of at least 1"
    with pytest.raises(InputError, match=message):
        main("suite=mini", f"workers={workers}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("slurm", "there"), [(None, True), ("partition=gpu", True), ("gpus_per_node=0", False)]
)
def test_gpus_of_slurms_nodes_are_not_said_to_be_here(slurm, there, monkeypatch, capsys):
    line = ["launcher=slurm", *([] if slurm is None else [f"slurm={slurm}"])]
    monkeypatch.setattr("torch.cuda.is_available", lambda: not there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    monkeypatch.setattr("craft.bench.sweep.suite.hub_answers", lambda: False)
    monkeypatch.setattr(reproduce, "submit", lambda *_: None)
    if there:
        with pytest.raises(InputError, match="^GPU: on Slurm's nodes; missing: .*SUITE=mini$"):
            main(*line)
    else:
        main(*line)
        assert "mini: there is no GPU" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not MINI.is_file(), reason="no weights in results/models/roberta-mini")
def test_embedded_suite_survives_two_interruptions_and_ends_with_its_tables(tmp_path):
    options = ("suite=mini", "methods=craft,head", "tasks=wnli,rte", "workers=2")
    records = tmp_path / "runs"
    for count in (1, 2):
        process = command(tmp_path, *options)
        while len([*records.glob("*/record.json")]) < count and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 130, errors
        assert "4 runs" in said and "start again to go on" in errors
    before = {path: path.stat().st_mtime_ns for path in records.glob("*/record.json")}
    said, errors = (process := command(tmp_path, *options)).communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "synthetic, not GLUE" in said and "tables and" in said
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
    assert len([*records.glob("*/record.json")]) == 4
    assert (tmp_path / "report" / "scores.csv").is_file()


# --- on Slurm

FAKES = {
    "srun": "exit 1",
    "squeue": 'cat "$QUEUE"',
    "sbatch": 'echo "$@" >> "$SUBMITTED"; echo "Submitted batch job 7"',
}


@pytest.fixture
def on_slurm(tmp_path):
    """`make reproduce-glue LAUNCHER=slurm` beside a queue that only takes notes: runs it, and
    returns its end and what was submitted."""
    for name, does in FAKES.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    queue, submitted = tmp_path / "queue", tmp_path / "submitted"
    queue.touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QUEUE": str(queue)}
    environment |= {"SUBMITTED": str(submitted)}
    environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    options = ["launcher=slurm", "suite=mini", "methods=head,lora", "tasks=wnli", "seeds=0"]
    # a working tree is seldom clean while it is tested
    options += [f"outputs={tmp_path}/outputs", "slurm=gpus_per_node=0 allow_dirty=true"]

    def script(*more, answer=""):
        done = subprocess.run(
            [sys.executable, "scripts/reproduce.py", *options, *more], cwd=ROOT, env=environment,
            text=True, capture_output=True, input=answer,
        )  # fmt: skip
        return done, submitted.read_text().splitlines() if submitted.is_file() else []

    return script


PLANNED = "to submit: 2 runs in 1 jobs, about"


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["n\n", ""])
def test_nothing_is_submitted_without_a_yes(answer, on_slurm):
    done, submitted = on_slurm(answer=answer)
    assert PLANNED in done.stdout and "submit? [y/N]" in done.stdout
    assert (done.returncode, submitted) == (2, [])
    assert done.stderr.splitlines()[-1] == "error: nothing was submitted"


@pytest.mark.slow
@pytest.mark.parametrize(("more", "answer"), [([], "y\n"), (["yes=1"], "")])
def test_plan_is_submitted_after_a_yes(more, answer, on_slurm, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no commit to submit")
    done, submitted = on_slurm(*more, answer=answer)
    assert done.returncode == 0, done.stderr
    assert PLANNED in done.stdout and ("submit?" in done.stdout) == (not more)
    assert len(submitted) == 1 and "make sweep-status" in done.stdout
    (plan,) = tmp_path.glob("outputs/sweeps/mini-*/plan.json")
    assert len(json.loads(plan.read_text())["runs"]) == 2
    (tmp_path / "queue").write_text("7|PENDING|INVALID\n")
    again, submitted = on_slurm("yes=1")
    assert again.returncode == 0, again.stderr
    assert "2 pending" in again.stdout and len(submitted) == 1
