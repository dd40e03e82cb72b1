"""A sweep's plan and state without a cluster: packing, the queue, what is missing."""

import json
import os
import subprocess
import sys
import time

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_bench import CONFIGS, ROOT, compose

from craft.bench.model.build import peft_config
from craft.bench.run import provenance
from craft.bench.run.provenance import commit
from craft.bench.run.record import Record
from craft.bench.settings.resolve import check
from craft.bench.sweep import launchers_on_path, slurm, snapshot, state
from craft.bench.sweep.state import PlannedRun, QueuedJob, SweepFolder
from craft.errors import InputError, Interrupted
from craft.files import write_json


def run_of(name, seconds=10.0, donor=None):
    return PlannedRun((f"seed={name}",), f"{name:0>10}" + "f" * 54, f"rte-{name}", seconds, donor)


def settings(**more):
    fields = OmegaConf.to_container(OmegaConf.load(CONFIGS / "hydra" / "launcher" / "slurm.yaml"))
    return slurm.SlurmSettings.of({k: v for k, v in {**fields, **more}.items() if k != "_target_"})


# --- experiments


OF_A_METHOD = [
    path
    for path in sorted((CONFIGS / "experiment").glob("*.yaml"))
    if any("method.peft" in key for key in OmegaConf.load(path).hydra.sweeper.params)
]


@pytest.mark.parametrize("path", OF_A_METHOD, ids=lambda path: path.stem)
def test_every_point_of_an_experiment_on_a_method_makes_its_config(path):
    grid = OmegaConf.to_container(OmegaConf.load(path).hydra.sweeper.params)
    grid = {**grid, "task": "rte", "seed": "0"}
    lines = BasicSweeper.split_arguments(
        OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in grid.items()]), None
    )[0]
    assert len(lines) > 1
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for line in lines:
            config = check(hydra.compose("train", [*line, f"experiment={path.stem}"]))
            peft_config(config.method, [])


# --- packing


@given(
    st.lists(st.floats(1, 5000), max_size=60), st.floats(10, 4000), st.none() | st.integers(1, 9)
)
def test_every_run_is_in_one_job_and_no_job_is_too_long(seconds, budget, most):
    runs = [run_of(n, each) for n, each in enumerate(seconds)]
    jobs = slurm.pack(runs, budget, most)
    assert sorted(run.id for job in jobs for run in job) == sorted(run.id for run in runs)
    for job in jobs:
        assert job and (most is None or len(job) <= most)
        assert len(job) == 1 or sum(run.seconds for run in job) <= budget + 1e-6


def test_short_runs_share_a_job_and_a_long_one_has_its_own():
    runs = [run_of(n, 20) for n in range(100)] + [run_of("long", 9000)]
    assert [len(job) for job in slurm.pack(runs, 1000, None)] == [1, 50, 50]


def test_runs_of_several_settings_start_from_one_donor(bench):
    own = [o for o in bench.overrides() if o.split("=")[0] not in ("task", "train.epochs")]
    recipe = [f"recipe.mnli.{name}=1e-3" for name in ("lr", "head_lr")]
    shared = [*own, *recipe, "recipe.mnli.epochs=3"]
    lines = [
        [*shared, f"task={task}", f"train.epochs={epochs}", "start_from=mnli"]
        for task in ("rte", "mrpc")
        for epochs in (1, 2)
    ]
    planned, asked = slurm.plan(settings(gpus_per_node=0), lines, lambda line: compose(*line))
    (donor,) = (run for run in planned.runs if run.name.startswith("mnli"))
    others = [run for run in planned.runs if run.id != donor.id]
    assert [run.id for run in others] == asked and len(others) == 4
    assert {run.donor for run in others} == {donor.id}
    assert not any(part.startswith("train.epochs") for part in donor.overrides)


def test_runs_that_start_from_another_are_in_jobs_that_wait_for_it():
    donor, early = run_of("mnli"), run_of("early")
    waiting = [run_of(f"w{n}", donor=donor.id) for n in range(3)]
    todo = [*waiting, early, donor]
    groups = slurm.grouped(settings(), todo, set())
    named = [(after, [[r.name for r in job] for job in jobs]) for after, jobs in groups]
    assert named == [
        (None, [["rte-mnli"]]), (donor.id, [["rte-w0", "rte-w1", "rte-w2"]]),
        (None, [["rte-early"]]),
    ]  # fmt: skip
    assert [after for after, _ in slurm.grouped(settings(), waiting, set())] == [None]
    assert [after for after, _ in slurm.grouped(settings(), waiting, {donor.id})] == [donor.id]


# --- the state


@pytest.fixture
def made(tmp_path):
    """A run in every state."""
    runs = [run_of(name) for name in ("done", "failed", "diverged", "running", "pending", "none",
                                      "killed")]  # fmt: skip
    for run in runs:
        folder = tmp_path / "runs" / f"{run.name}-{run.id[:10]}"
        if run.name in ("rte-pending", "rte-none"):
            continue
        folder.mkdir(parents=True)
        status = {"rte-done": "ok", "rte-failed": "failed", "rte-diverged": "diverged"}
        if run.name in status:
            provenance = {"cost": dict.fromkeys(("attach_seconds", "train_seconds"), 10.0)}
            provenance["cost"]["eval_seconds"] = 5.0
            error = "RuntimeError: no" if run.name == "rte-failed" else None
            content = Record(run.id, status[run.name], {"x": 1}, provenance, error)
            content.write(folder / "record.json")
    live = tmp_path / "runs" / f"rte-running-{runs[3].id[:10]}" / "lease.1" / "x.json"
    live.parent.mkdir()
    live.write_text(json.dumps({"holder": {"name": "x"}, "seconds": 60}))
    killed = [{"started": "2026-01-01T00:00:00+00:00", "seconds": 0.0, "ended": "killed"}] * 2
    write_json(tmp_path / "runs" / f"rte-killed-{runs[6].id[:10]}" / "attempts.json", killed)
    planned = SweepFolder(tmp_path / "sweeps" / "s", tmp_path, runs, gpus=1)
    planned.submitted = {"7_0": [runs[0].id, runs[4].id], "6": [runs[5].id]}
    planned.write()
    spent = [{**killed[0], "seconds": 50.0, "ended": "ok"}]
    write_json(tmp_path / "runs" / f"rte-done-{runs[0].id[:10]}" / "attempts.json", spent)
    return SweepFolder.read(planned.path)


def test_state_of_every_run_comes_from_records_leases_and_the_queue(made):
    jobs = [QueuedJob("7_0", "PENDING")]
    found = state.states(made.outputs, made.runs, state.holding(made.outputs, jobs))
    assert [one.state for one in found] == [
        "done", "failed", "diverged", "running", "pending", "missing", "missing",
    ]  # fmt: skip
    shown = "\n".join(state.lines(made, found, jobs))
    assert "failed: rte-failed: RuntimeError: no\n    craft train seed=failed" in shown
    assert "killed 2 times: rte-killed" in shown
    assert "attempts that have ended took 50 allocated GPU-seconds" in shown
    assert "(0 of 1 jobs run)" in shown


def test_record_that_was_changed_counts_as_none(made):
    path = next(made.outputs.glob("runs/rte-done*/record.json"))
    path.write_text(path.read_text().replace('"x": 1', '"x": 2'))
    with pytest.warns(UserWarning, match="set aside"):
        assert state.states(made.outputs, made.runs[:1], set())[0].state == "missing"


def test_silent_squeue_is_an_error_and_not_an_empty_queue(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="squeue"):
        state.queue(["x"])


def test_newest_sweep_is_taken(made):
    other = SweepFolder(made.outputs / "sweeps" / "t", made.outputs, [])
    time.sleep(0.02)
    other.write()
    assert state.newest(made.outputs) == other.path
    with pytest.raises(InputError, match="there is none under"):
        state.newest(made.path)


# --- what is submitted


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Commands of Slurm; returns how to say what sbatch, and what squeue, does."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def do(script, squeue=""):
        for name, does in {"sbatch": script, "srun": "", "squeue": squeue}.items():
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)

    return do


def test_node_has_its_job_before_it_imports_this_package_also_after_a_requeue(sbatch, tmp_path):
    sbatch("echo Submitted batch job 7")
    sweep = SweepFolder(tmp_path / "sweep", tmp_path, [run_of("a")])
    held = slurm.submit(settings(), sweep, [sweep.runs], tmp_path, None)
    assert held == {sweep.runs[0].id: "7"}
    assert SweepFolder.read(sweep.path).submitted == {"7": [sweep.runs[0].id]}
    path = sweep.path / "logs" / "7_submitted.pkl"
    for again in (False, True):  # what submitit does on its signal
        code = f"""
import sys
from submitit.core.utils import DelayedSubmission
job = DelayedSubmission.load({str(path)!r})
job._checkpoint_function().dump({str(path)!r})
print(job.function.runs, sorted({{"craft", "torch"}} & set(sys.modules)))
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True
        )
        assert done.stdout == "[['seed=a']] []\n", (again, done.stderr)


def test_refusal_of_the_site_is_one_line_and_what_was_submitted_is_remembered(sbatch, tmp_path):
    sweep = SweepFolder(tmp_path / "sweep", tmp_path, [run_of("a"), run_of("b")])
    sbatch("echo Submitted batch job 7")
    slurm.submit(settings(), sweep, [sweep.runs[:1]], tmp_path, None)
    sbatch("echo sbatch: error: QOSMaxSubmitJobPerUserLimit >&2; exit 1")
    with pytest.raises(InputError) as refused:
        slurm.submit(settings(), sweep, [sweep.runs[1:]], tmp_path, None)
    assert str(refused.value) == (
        "sbatch refused the jobs: sbatch: error: QOSMaxSubmitJobPerUserLimit"
    )
    assert SweepFolder.read(sweep.path).submitted == {"7": [sweep.runs[0].id]}


@pytest.fixture
def of_no_commit(tmp_path, monkeypatch):
    """Whatever the working tree looks like, there is a snapshot of it."""
    taken = (tmp_path, {"commit": "0" * 40, "dirty": False})
    monkeypatch.setattr(snapshot, "take", lambda *_: taken)


def test_launcher_that_waits_returns_the_end_of_each_run_in_order(bench, sbatch, of_no_commit):
    made = bench.run("train.epochs=1", "seed=1")
    lines = [bench.overrides("train.epochs=1", f"seed={seed}") for seed in (0, 1, 0)]
    sbatch("echo Submitted batch job 7")
    waits = settings(detach=False, gpus_per_node=0)
    ends = slurm.launch_on_slurm(waits, lines, lambda line: compose(*line))
    states = [end.status for end in ends]
    assert states == [JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.FAILED]
    assert ends[1].return_value == made["result"]["score"]["best"]["accuracy"]
    with pytest.raises(RuntimeError, match="rte-craft-.*-s0-.*: missing"):
        _ = ends[0].return_value


def test_launcher_that_waits_can_be_stopped(bench, sbatch, of_no_commit, monkeypatch):
    sbatch("echo Submitted batch job 7", squeue="echo '7|RUNNING'")
    monkeypatch.setattr(slurm, "stopped", lambda: True)
    waits = settings(detach=False, gpus_per_node=0)
    with pytest.raises(Interrupted, match="the jobs go on"):
        slurm.launch_on_slurm(waits, [bench.overrides()], lambda line: compose(*line))


# --- the launcher's settings and the snapshot


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nope": 1}, r"keys \['nope'\] are unknown"),
        ({"max_array_size": 0}, "max_array_size must be a whole number of at least 1, not 0"),
        ({"timeout_min": 2}, "signal_delay_s 120 must be at most half of the time limit, 60 s"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(InputError, match=message):
        settings(**fields)


@pytest.fixture
def launcher():
    """The launcher as Hydra makes it of its section."""
    launchers_on_path()
    from hydra_plugins.craft_launchers import SlurmLauncher

    fields = OmegaConf.to_container(OmegaConf.load(CONFIGS / "hydra" / "launcher" / "slurm.yaml"))
    return SlurmLauncher(**{k: v for k, v in fields.items() if k != "_target_"})


def test_machine_without_slurm_is_refused_before_a_sweep_begins(launcher, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="there is no squeue, sbatch on this machine's PATH"):
        launcher.setup(hydra_context=None, task_function=None, config=None)


def test_sweeper_that_waits_for_scores_is_refused_where_the_launcher_does_not_wait(launcher):
    target = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    launcher.config = OmegaConf.create({"hydra": {"sweeper": {"_target_": target}}})
    with pytest.raises(InputError, match="OptunaSweeper waits .*: give it hydra.launcher.detach="):
        launcher.launch([["seed=0"]], 0)


def test_package_inside_another_projects_checkout_has_no_commit(tmp_path, monkeypatch):
    """As an environment in somebody's repository: its commit is not this project's."""
    (tmp_path / ".gitignore").write_text("site-packages\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"]):
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)
    installed = tmp_path / "site-packages"
    (installed / "craft").mkdir(parents=True)
    monkeypatch.setattr(provenance, "ROOT", installed)
    assert commit() == {"commit": None, "dirty": None}


def test_snapshot_is_the_commit_and_knows_it(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    (root / "craft").mkdir(parents=True)
    (root / "craft" / "a.py").write_text("a = 1\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"]):
        subprocess.run(["git", *who, *command], cwd=root, check=True)
    monkeypatch.setattr(provenance, "ROOT", root)
    copy, taken = snapshot.take(tmp_path / "snapshots", allow_dirty=False)
    assert taken["dirty"] is False
    (root / "craft" / "a.py").write_text("a = 2\n")
    assert (copy / "craft" / "a.py").read_text() == "a = 1\n"
    with pytest.raises(InputError, match=r"craft/a.py differ from commit \w+: commit them, or"):
        snapshot.take(tmp_path / "snapshots", allow_dirty=False)
    dirty, taken = snapshot.take(tmp_path / "snapshots", allow_dirty=True)
    assert taken["dirty"] is True and dirty != copy
    assert (dirty / "craft" / "a.py").read_text() == "a = 2\n"
    monkeypatch.setattr(provenance, "ROOT", dirty)
    assert commit() == taken
