"""`hydra/launcher=gpus` on a machine that says it has GPUs: which run sees which."""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
from tiny_bench import CONFIGS, ROOT

from craft.bench.sweep import gpus
from craft.errors import InputError

APP = f"""
import json, os, time
from pathlib import Path

import hydra
import torch

from craft.bench.cli.process import start
from craft.bench.sweep import launchers_on_path

@hydra.main(version_base="1.3", config_path="{CONFIGS}", config_name="train")
def main(cfg):
    began = time.time()
    time.sleep(0.5)
    seen = {{"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "worker": os.getpid()}}
    path = Path(cfg.outputs) / f"{{cfg.seed}}.json"
    path.write_text(json.dumps({{**seen, "began": began, "ended": time.time()}}))

if __name__ == "__main__":
    torch.cuda.device_count = lambda: 2
    launchers_on_path()
    start(main)
"""


def sweep(tmp_path, *launcher, visible="3,5", seeds=6):
    """What each run of a sweep has seen, and the process that started them."""
    (tmp_path / "app.py").write_text(APP)
    line = [
        "-m",
        "hydra/launcher=gpus",
        "~hydra.callbacks.last_line",
        *launcher,
        f"seed=range({seeds})",
        f"outputs={tmp_path}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "app.py", *line], cwd=tmp_path, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("?.json"))], done


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_worker_sees_one_gpu_and_each_gpu_has_its_runs(each, tmp_path):
    seen, done = sweep(tmp_path, f"hydra.launcher.runs_per_gpu={each}")
    assert done.returncode == 0, done.stderr
    assert len(seen) == 6 and {run["gpu"] for run in seen} == {"3", "5"}
    workers = defaultdict(set)
    for run in seen:
        workers[run["gpu"]].add(run["worker"])
        together = [r for r in seen if r["gpu"] == run["gpu"] and r["began"] <= run["began"]]
        assert sum(r["ended"] > run["began"] for r in together) <= each
    assert not workers["3"] & workers["5"]
    assert all(len(found) <= each for found in workers.values())


@pytest.mark.slow
def test_fewer_gpus_may_be_asked_for(tmp_path):
    seen, done = sweep(tmp_path, "hydra.launcher.gpus=1", seeds=2)
    assert done.returncode == 0, done.stderr
    assert {run["gpu"] for run in seen} == {"3"}


def test_fewer_gpus_may_be_asked_for_and_more_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(InputError, match="3 GPUs are asked for, torch sees 2"):
        gpus.asked_for(3)
    monkeypatch.setattr(
        importlib.import_module("hydra_plugins.hydra_joblib_launcher._core"),
        "launch",
        lambda launcher, **_: (launcher.joblib["n_jobs"], os.environ["CUDA_VISIBLE_DEVICES"]),
    )
    assert gpus.launch_on_gpus(SimpleNamespace(gpus=1, runs_per_gpu=1), [], 0) == (1, "3")


def test_machine_without_a_gpu_is_refused_in_a_line_and_nothing_is_left(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    line = ["-m", "hydra/launcher=gpus", "seed=0,1", f"outputs={tmp_path / 'outputs'}"]
    done = subprocess.run(
        [sys.executable, "scripts/train.py", *line], cwd=ROOT, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: hydra/launcher=gpus: torch sees no GPU on this machine\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("named", "count", "found"),
    [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("GPU-a", 1, ["GPU-a"]), ("", 0, [])],
)
def test_gpus_are_named_as_the_environment_names_them(named, count, found, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible_gpus() == found


def test_worker_that_is_replaced_leaves_its_place_to_the_next(tmp_path, monkeypatch):
    """joblib ends a worker whose memory has grown, and starts another."""
    fork = multiprocessing.get_context("fork")  # at once: it has all imported

    def work(ours):
        gpus.take_place(str(tmp_path), ["3", "5"])
        ours.send(os.environ["CUDA_VISIBLE_DEVICES"])
        signal.pause()

    def worker():
        theirs, ours = fork.Pipe(duplex=False)
        process = fork.Process(target=work, args=(ours,))
        process.start()
        workers.append(process)
        return theirs.recv()

    workers = []
    try:
        assert [worker(), worker()] == ["3", "5"]
        monkeypatch.setattr(gpus, "PATIENCE", 0.5)
        with pytest.raises(RuntimeError, match="all 2 places are taken"):
            gpus.take_place(str(tmp_path), ["3", "5"])
        workers[0].kill()
        workers[0].join()
        assert worker() == "3"
    finally:
        for process in workers:
            process.kill()
            process.join()
