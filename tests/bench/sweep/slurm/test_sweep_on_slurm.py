"""A sweep of 24 runs on a real Slurm that is preempted, loses a node, runs out of time, is
cancelled in part and started again twice: it ends with 24 records, each run trained once."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_bench import ROOT, Bench

sys.path.insert(0, str(Path(__file__).parent))
from local_cluster import NotAllowed, lacking, running  # noqa: E402

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="craft-slurm-"))
    try:
        with running(folder) as started:
            yield started
    except NotAllowed as refusal:
        pytest.skip(f"Slurm may not start here: {refusal}")
    finally:
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


LONG = 75.0  # seconds: Slurm looks for jobs whose time runs out every 30


def epochs_in(seconds, bench):
    """How many epochs a run here has in a time."""
    bench.run("train.epochs=1", task="mnli", method="lora")
    clock = time.monotonic()
    bench.run("train.epochs=60", task="mnli", method="lora")
    return int(seconds * 60 / (time.monotonic() - clock))


class Sweep:
    """16 runs that start from 8 of MNLI, two to a job; 3 of the 24 are long."""

    def __init__(self, cluster, checkout, bench):
        self.cluster, self.checkout, self.bench = cluster, checkout, bench
        self.environment = {**cluster.environment, "PYTHONPATH": str(checkout)}
        self.epochs = (*range(3, 10), epochs_in(LONG, bench.elsewhere("measured")))

    def script(self, name, *arguments):
        return subprocess.run(
            [sys.executable, str(self.checkout / "scripts" / name), *arguments],
            cwd=self.bench.outputs.parent, env=self.environment, text=True, capture_output=True,
        )  # fmt: skip

    def overrides(self, *more):
        return self.bench.overrides("lease_seconds=10", *more, method="lora")

    def start(self):
        launcher = [
            "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=1",
            "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2.5",
            "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=30",
            "hydra.launcher.max_array_size=4", "hydra.launcher.runs_per_job=2",
        ]  # fmt: skip
        epochs = f"train.epochs={','.join(map(str, self.epochs))}"
        # the fake GPUs are no CUDA devices
        grid = self.overrides("start_from=mnli", "task=rte,mrpc", epochs, "train.device=cpu")
        done = self.script("train.py", "-m", *grid, *launcher)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self):
        done = self.script("sweep.py", "status", f"outputs={self.bench.outputs}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ours(self):
        return [job for job in self.cluster.jobs() if job.name.startswith("craft-")]

    def job(self, id_):
        return next((job for job in self.ours() if job.id == id_), None)

    def wait_for(self, what, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.5)
        logs = sorted(self.bench.outputs.glob("sweeps/*/logs/*log.out"))
        tails = [f"{path.name}: {path.read_text()[-600:]}" for path in logs[-6:]]
        said = (self.cluster.folder / "slurmctld.log").read_text().splitlines()[-40:]
        raise AssertionError("\n".join(["waited for too long", str(self.ours()), *tails, *said]))

    def job_of(self, task):
        """The job of the long run of a task, and that run's folder."""
        (path,) = self.bench.outputs.glob("sweeps/*/plan.json")
        plan = json.loads(path.read_text())["runs"]
        of = {f"task={task}", f"train.epochs={self.epochs[-1]}"}
        (run,) = (run for run in plan if of <= set(run["overrides"]))
        submitted = json.loads((path.parent / "submitted.json").read_text())
        job = [job for job, runs in submitted.items() if run["id"] in runs][-1]
        return job, self.bench.outputs / "runs" / run["name"]

    def trains(self, attempt):
        """Whether the long run of MNLI is in its n-th attempt and has begun to train."""
        job, folder = self.job_of("mnli")
        started = self.job(job) and self.job(job).state == "RUNNING"
        made = folder / "attempts.json"
        if not started or not made.is_file() or not (folder / "checkpoint.safetensors").is_file():
            return False
        return len(json.loads(made.read_text())) == attempt

    def attempts(self):
        _, folder = self.job_of("mnli")
        return [a["ended"] for a in json.loads((folder / "attempts.json").read_text())]

    def records(self):
        found = [json.loads(p.read_text()) for p in self.bench.outputs.glob("runs/*/record.json")]
        return {made["provenance"]["name"]: made for made in found}


def test_sweep_survives_what_a_cluster_does(sweep):
    cluster = sweep.cluster
    said = sweep.start()
    assert "to submit: 24 runs in 12 jobs" in said
    assert sum(line.startswith("job ") for line in said.splitlines()) == 9  # arrays of at most 4
    assert said.count("after afterok:") == 8
    assert len(sweep.ours()) == 12
    job, folder = sweep.job_of("mnli")  # which the faults that need time meet

    sweep.wait_for(lambda: sweep.trains(attempt=1))
    again = sweep.start()  # the first restart, while all is queued or runs: nothing is doubled
    assert "to submit: 0 runs in 0 jobs" in again

    # runs out of time: writes its checkpoint on submitit's signal and is requeued
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    sweep.wait_for(lambda: cluster.restarts(job) == 1)
    assert sweep.attempts() == ["interrupted"]
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=10")

    # preempted, with all else that runs, by a job of higher priority
    sweep.wait_for(lambda: sweep.trains(attempt=2))
    more = [other.id for other in sweep.ours() if other.state == "RUNNING"]
    urgent = cluster.call(
        "sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 2",
        f"--output={cluster.folder}/urgent.out",
    ).split()[-1]  # fmt: skip
    sweep.wait_for(lambda: urgent not in {other.id for other in cluster.jobs()})
    assert cluster.restarts(job) == 2
    assert sweep.attempts() == ["interrupted"] * 2
    assert all(cluster.restarts(other) for other in more if sweep.job(other))

    # loses its node, which comes back
    sweep.wait_for(lambda: sweep.trains(attempt=3))
    node = sweep.job(job).node
    cluster.pull_the_plug(node)
    time.sleep(5)
    cluster.start_node(node)
    sweep.wait_for(lambda: cluster.restarts(job) == 3)
    assert sweep.attempts() == ["interrupted", "interrupted", "killed"]

    # cancelled, a job that waits for that one: its runs alone are missing and submitted again
    waiting, _ = sweep.job_of("rte")
    cluster.call("scancel", waiting)
    sweep.wait_for(lambda: sweep.job(waiting) is None)
    assert re.search(r"^missing +2$", sweep.status(), re.MULTILINE)
    said = sweep.start()  # the second restart
    assert "to submit: 2 runs in 1 jobs" in said and f"after afterok:{job}" in said

    sweep.wait_for(lambda: not sweep.ours(), 1200)
    made = sweep.records()
    assert len(made) == 24
    assert {record["status"] for record in made.values()} == {"ok"}
    for name, record in made.items():
        ended = [attempt["ended"] for attempt in record["provenance"]["attempts"]]
        assert ended[-1] == "ok" and set(ended[:-1]) <= {"interrupted", "killed"}, (name, ended)
        assert record["provenance"]["environment"]["dirty"] is False
    broken = made[folder.name]
    assert len(broken["provenance"]["attempts"]) == 4
    assert "to submit: 0 runs in 0 jobs" in sweep.start() and not sweep.ours()

    alone = sweep.bench.elsewhere("unbroken")
    unbroken = alone.run(f"train.epochs={sweep.epochs[-1]}", task="mnli", method="lora")
    assert unbroken["result_sha256"] == broken["result_sha256"]

    status = sweep.status()
    assert "done          24" in status and "allocated GPU-seconds" in status


def test_cancel_ends_this_sweeps_jobs_alone(sweep):
    other = sweep.cluster.call(
        "sbatch", "--hold", "--wrap", "sleep 1", f"--output={sweep.cluster.folder}/other.out"
    ).split()[-1]
    grid = sweep.overrides("seed=100,101", "task=rte")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0",
                "+hydra.launcher.additional.hold=true"]  # fmt: skip
    done = sweep.script("train.py", "-m", *grid, *launcher)
    assert done.returncode == 0, done.stderr
    assert len(sweep.ours()) == 1 and len(sweep.cluster.jobs()) == 2
    said = sweep.script("sweep.py", "cancel", f"outputs={sweep.bench.outputs}")
    assert "1 jobs cancelled" in said.stdout, said.stderr
    assert [job.id for job in sweep.cluster.jobs()] == [other]
    sweep.cluster.call("scancel", other)


def test_sources_that_differ_from_the_commit_are_refused_unless_allowed(sweep):
    changed = sweep.checkout / "craft" / "errors.py"
    before = changed.read_text()
    changed.write_text(before + "# changed\n")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0",
                "+hydra.launcher.additional.hold=true"]  # fmt: skip
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
