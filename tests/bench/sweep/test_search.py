"""A search selects on a part of train that is held out, never on the split that is reported."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from hydra.errors import MissingConfigException
from tiny_bench import ROOT, compose, task_of

from craft.bench.cli.process import explain
from craft.bench.glue import sources
from craft.bench.glue.splits import data_of, held_out
from craft.bench.run.identity import identity
from craft.bench.settings.declared import plain
from craft.bench.settings.resolve import check
from craft.errors import InputError
from craft.files import read_tensors


@pytest.mark.parametrize("task", ["rte", "stsb", "mnli"])
def test_held_out_rows_are_of_train_and_not_trained_on(task, bench):
    config = bench.config(task=task)
    data = sources.load(config.task, config.data, ("train", *config.task.dev))
    parts = held_out(task_of(task), data).splits
    held = [idx for name in config.task.dev for idx in parts[name].idx]
    assert sorted(held + parts["train"].idx) == sorted(data.splits["train"].idx)
    assert len(held) == 2 and not set(held) & set(parts["train"].idx)
    whole = data.splits["train"]
    for part in parts.values():
        for n, idx in enumerate(part.idx):
            row = whole.idx.index(idx)
            assert [c[n] for c in part.texts] == [c[row] for c in whole.texts]
            assert part.labels[n] == whole.labels[row]


def test_run_of_a_search_is_scored_on_the_held_out_part_and_says_so(bench):
    made = bench.run("selection=train_holdout", "train.epochs=1")
    tensors, _ = read_tensors(bench.folder() / "predictions.safetensors")
    config = bench.config("selection=train_holdout")
    assert tensors["idx.validation"].tolist() == data_of(config).splits["validation"].idx
    assert made["result"]["config"]["selection"] == "train_holdout"
    assert made["provenance"]["config"]["selection"] == "train_holdout"
    assert made["provenance"]["data"]["examples"] == {"train": 18, "validation": 2}


def test_selection_on_dev_keeps_every_run_its_identity(bench):
    kept = identity(plain(bench.config("selection=dev")), "", "", "")
    assert "selection" not in kept
    with pytest.raises(InputError, match="selection 'test' is not one of dev, train_holdout"):
        bench.config("selection=test")


def test_search_experiment_holds_out_a_part_of_train(bench):
    given = [o for o in bench.overrides() if not o.startswith("train.lr")]
    config = check(compose(*given, "experiment=search_lr", "train.lr=1"))
    assert config.selection == "train_holdout" and config.search is True


def test_run_of_a_search_on_dev_is_not_the_run_that_is_reported_and_says_so(bench):
    reported = bench.config("search=false")
    searched = bench.config("search=true")
    assert "search" not in identity(plain(reported), "", "", "")
    assert identity(plain(searched), "", "", "")["search"] is True
    made = bench.run("search=true", "train.epochs=1")
    assert made["result"]["config"]["search"] is True
    assert made["provenance"]["config"]["selection"] == "dev"


# --- Optuna

INSTALLED = importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


def optuna(bench, tmp_path, *more):
    line = [o for o in bench.overrides() if not o.startswith("train.lr")]
    line += ["experiment=search_optuna", f"hydra.sweep.dir={tmp_path / 'sweep'}", *more]
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *line], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *extra_path()])}, text=True,
        capture_output=True,
    )  # fmt: skip


def extra_path():
    return filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))


@pytest.mark.skipif(INSTALLED, reason="Optuna is installed")
def test_optuna_that_is_not_installed_is_one_line():
    with pytest.raises(MissingConfigException) as missing:
        compose("experiment=search_optuna")
    assert explain(missing.value) == (
        'the sweeper optuna is not installed: pip install "craft-peft[hpo]"'
    )


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="Optuna is not installed: the extra hpo")
def test_optuna_finds_a_rate_on_the_held_out_part(bench, tmp_path):
    done = optuna(bench, tmp_path, "hydra.sweeper.n_trials=3", "train.epochs=1")
    assert done.returncode == 0, done.stderr
    made = [json.loads(p.read_text()) for p in bench.outputs.glob("runs/*/record.json")]
    assert len(made) == 3 and len({m["result"]["config"]["train.lr"] for m in made}) == 3
    assert {m["result"]["config"]["selection"] for m in made} == {"train_holdout"}
    best = max(m["result"]["score"]["best"]["accuracy"] for m in made)
    found = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert f"best_value: {best}" in found
