"""A sweep of 24 runs on a real Slurm that is preempted, loses a node, runs out of time, is
cancelled in part and started again twice: it ends with 24 records, each run trained once."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_bench import ROOT, Bench

sys.path.insert(0, str(Path(__file__).parent))
from local_cluster import lacking, running  # noqa: E402

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="craft-slurm-"))
    with running(folder) as started:
        yield started
    shutil.rmtree(folder, ignore_errors=True)


def sources(folder):
    """A checkout of what is tested, clean, whatever the working tree looks like."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listing.stdout.splitlines():
        if name.split("/")[0] in ("craft", "configs", "scripts", "requirements.lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                shutil.copyfile(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"]):
        who = ["-c", "user.name=a test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *who, *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def sweep(cluster, tiny_roberta, tiny_glue, tmp_path_factory):
    checkout = sources(tmp_path_factory.mktemp("checkout"))
    bench = Bench(tiny_roberta, tiny_glue, tmp_path_factory.mktemp("sweep") / "outputs")
    return Sweep(cluster, checkout, bench)


class Sweep:
    """16 runs that start from 8 of MNLI, two to a job."""

    def __init__(self, cluster, checkout, bench):
        self.cluster, self.checkout, self.bench = cluster, checkout, bench
        self.environment = {**cluster.environment, "PYTHONPATH": str(checkout)}

    def script(self, name, *arguments):
        return subprocess.run(
            [sys.executable, str(self.checkout / "scripts" / name), *arguments],
            cwd=self.bench.outputs.parent, env=self.environment, text=True, capture_output=True,
        )  # fmt: skip

    def overrides(self, *more):
        return self.bench.overrides("train.epochs=12", "lease_seconds=10", *more, method="lora")

    def start(self, *more):
        launcher = [
            "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=1",
            "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2.5",
            "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=30",
            "hydra.launcher.max_array_size=4", "hydra.launcher.runs_per_job=2", *more,
        ]  # fmt: skip
        grid = [o for o in self.overrides("start_from=mnli") if not o.startswith("task=")]
        # the fake GPUs are no CUDA devices
        grid = [o for o in grid if not o.startswith("train.device=")] + ["train.device=cpu"]
        done = self.script("train.py", "-m", *grid, "task=rte,mrpc", "seed=range(8)", *launcher)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ours(self):
        return {job: state for job, state in self.cluster.jobs().items() if state != "COMPLETING"}

    def wait_for(self, what, seconds=600):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(1)
        logs = sorted(self.bench.outputs.glob("sweeps/*/logs/*log.out"))
        tails = [f"{path.name}: {path.read_text()[-600:]}" for path in logs[-6:]]
        raise AssertionError("\n".join(["waited for too long", str(self.ours()), *tails]))

    def training(self):
        """A job that has begun to train, with its state RUNNING."""
        if not list(self.bench.outputs.glob("runs/*/checkpoint.safetensors")):
            return None
        return next((job for job, state in self.ours().items() if state == "RUNNING"), None)

    def let_one_run_out_of_time(self):
        """Whether a job was still training when its limit was cut to a minute."""
        job = self.training()
        command = ["scontrol", "update", f"JobId={job}", "TimeLimit=1"]
        done = subprocess.run(command, env=self.cluster.environment, capture_output=True)
        return job is not None and done.returncode == 0

    def records(self):
        found = [json.loads(p.read_text()) for p in self.bench.outputs.glob("runs/*/record.json")]
        return {made["provenance"]["name"]: made for made in found}


def test_sweep_survives_what_a_cluster_does(sweep):
    cluster = sweep.cluster
    said = sweep.start()
    assert "to submit: 24 runs in 12 jobs" in said
    assert sum(line.startswith("job ") for line in said.splitlines()) >= 3  # arrays of at most 4
    assert said.count("after afterok:") == 8
    assert len(sweep.ours()) == 12
    again = sweep.start()  # the first restart, while all is queued or running: nothing is doubled
    assert "to submit: 0 runs in 0 jobs" in again
    assert len(sweep.ours()) <= 12

    sweep.wait_for(sweep.training)
    urgent = ["sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 2"]
    cluster.call(*urgent, f"--output={cluster.folder}/urgent.out")  # preempts all that runs
    sweep.wait_for(lambda: "RUNNING" not in sweep.ours().values() or "7" in sweep.ours())

    sweep.wait_for(sweep.let_one_run_out_of_time)
    cluster.pull_the_plug("b")
    time.sleep(20)
    with_b = cluster.folder / "slurmd.b.pid"
    with_b.unlink(missing_ok=True)
    cluster.start_node("b")

    waiting = sweep.wait_for(sweep.ours)
    cluster.call("scancel", next(iter(waiting)))
    status = sweep.script("sweep.py", "status", f"outputs={sweep.bench.outputs}")
    assert status.returncode == 0 and ": 24 runs" in status.stdout, status.stderr

    for _ in range(4):  # the second restart, and more where a dependency was cancelled with its job
        sweep.wait_for(lambda: not sweep.ours(), 1200)
        if len(sweep.records()) == 24:
            break
        sweep.start()
    made = sweep.records()
    assert len(made) == 24
    assert {record["status"] for record in made.values()} == {"ok"}
    for name, record in made.items():
        ended = [attempt["ended"] for attempt in record["provenance"]["attempts"]]
        assert ended[-1] == "ok" and "ok" not in ended[:-1] and "failed" not in ended, (name, ended)
        assert record["provenance"]["environment"]["dirty"] is False
    broken = [m for m in made.values() if len(m["provenance"]["attempts"]) > 1]
    assert broken, "nothing was interrupted"
    assert "24 done" in sweep.start()

    alone = sweep.bench.elsewhere("unbroken")
    one = next(m for m in broken if m["provenance"]["config"]["start_from"] is None)
    seed = one["provenance"]["config"]["seed"]
    unbroken = alone.run("train.epochs=12", f"seed={seed}", task="mnli", method="lora")
    assert unbroken["result_sha256"] == one["result_sha256"]

    status = sweep.script("sweep.py", "status", f"outputs={sweep.bench.outputs}").stdout
    assert "done          24" in status and "allocated GPU-seconds" in status


def test_cancel_ends_this_sweeps_jobs_alone(sweep):
    other = sweep.cluster.call(
        "sbatch", "--hold", "--wrap", "sleep 1", f"--output={sweep.cluster.folder}/other.out"
    ).split()[-1]
    grid = sweep.overrides("seed=100,101", "task=rte")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0",
                "hydra.launcher.additional={hold: true}"]  # fmt: skip
    done = sweep.script("train.py", "-m", *grid, *launcher)
    assert done.returncode == 0, done.stderr
    assert len(sweep.ours()) == 2
    said = sweep.script("sweep.py", "cancel", f"outputs={sweep.bench.outputs}")
    assert "1 jobs cancelled" in said.stdout, said.stderr
    assert list(sweep.ours()) == [other]
    sweep.cluster.call("scancel", other)


def test_sources_that_differ_from_the_commit_are_refused_unless_allowed(sweep):
    changed = sweep.checkout / "craft" / "errors.py"
    before = changed.read_text()
    changed.write_text(before + "# changed\n")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0",
                "hydra.launcher.additional={hold: true}"]  # fmt: skip
    try:
        line = ["-m", *sweep.overrides("seed=200,201", "task=rte"), *launcher]
        refused = sweep.script("train.py", *line)
        assert refused.returncode == 2
        assert "craft/errors.py differ from commit" in refused.stderr
        allowed = sweep.script("train.py", *line, "hydra.launcher.allow_dirty=true")
        assert allowed.returncode == 0 and "with changes" in allowed.stdout, allowed.stderr
    finally:
        changed.write_text(before)
        sweep.script("sweep.py", "cancel", f"outputs={sweep.bench.outputs}")


def test_refusal_of_the_site_is_one_line(sweep):
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0",
                "hydra.launcher.partition=nowhere"]  # fmt: skip
    done = sweep.script("train.py", "-m", *sweep.overrides("seed=300,301", "task=rte"), *launcher)
    assert done.returncode == 2, done.stderr
    assert "sbatch" in done.stderr.splitlines()[-1] and "partition" in done.stderr
    assert os.listdir(sweep.bench.outputs / "sweeps")
