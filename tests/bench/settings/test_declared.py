"""A setting is one line of Python and one of YAML: all that must know of it does."""

import json
import os
import shutil
import subprocess
import sys

from tiny_bench import ROOT, compose

from craft.bench.run.inputs import Planner
from craft.bench.settings.resolve import differs

FIELD = """    new: Annotated[int | None, setting("a new one", neutral=None)]\n"""
LINE = "new: null  # a new one\n"
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_bench import Bench
from craft.bench.report.load import load
from craft.bench.run.finished.card import card
from craft.bench.run.record import Record
from craft.bench.run.inputs import Planner

bench = Bench(*map(Path, {places!r}))
made = bench.run("train.new=1")
records = load([bench.outputs / "runs"], Path("configs"))
print(json.dumps({{
    "id": Planner().inputs(bench.config()).id, "other": made["id"], "card": card(Record.of(made)),
    "differs": made["provenance"]["differs"], "settings": records.runs["settings"].tolist(),
}}))
"""


def test_a_setting_is_added_in_two_lines(bench, tmp_path):
    """It is in the identity where it is not neutral, and orphans nothing where it is; the record,
    the report and the card name it."""
    checkout = tmp_path / "checkout"
    for name in ("craft", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "results").symlink_to(ROOT / "results")
    (checkout / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "tiny_bench.py", checkout / "tests")
    sections = checkout / "craft" / "bench" / "settings" / "sections.py"
    text = sections.read_text()
    first = "    lr: Annotated["
    assert text.count(first) == 1
    sections.write_text(text.replace(first, FIELD + first))
    with (checkout / "configs" / "train" / "default.yaml").open("a") as file:
        file.write(LINE)
    places = [str(place) for place in (bench.model, bench.glue, bench.outputs)]
    script = SCRIPT.format(tests=str(checkout / "tests"), places=places)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=checkout, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["id"] == Planner().inputs(bench.config()).id != said["other"]
    assert said["differs"]["train.new"] == 1
    assert "new=1" in said["settings"][0]
    assert "| `train.new` | 1 |" in said["card"]


def test_a_run_says_what_it_differs_in():
    usual = compose("method=vera", "model=roberta_base", "task=rte")
    assert differs(usual) == {}
    given = ["train.lr=0.5", "train.precision=bf16", "selection=train_holdout", "model.random=true"]
    assert differs(compose("method=vera", "model=roberta_base", "task=rte", *given)) == {
        "train.lr": 0.5, "train.precision": "bf16", "selection": "train_holdout",
        "model.random": True,
    }  # fmt: skip
    fields = ["method.peft.ranks=[2,8,8]", "+method.peft.j=diagonal"]
    other = compose("method=craft", "model=roberta_base", "task=rte", *fields)
    assert differs(other) == {"method.peft.ranks": [2, 8, 8], "method.peft.j": "diagonal"}


def test_another_value_in_the_recipe_is_a_difference_too():
    line = ["method=lora", "model=roberta_base", "task=rte", "recipe.rte.epochs=3"]
    assert differs(compose(*line)) == {"train.epochs": 3}


def test_of_what_the_recipe_leaves_open_nothing_is_said():
    line = ["model=local", "model.path=FOLDER", "train.lr=1", "train.head_lr=1", "train.epochs=1"]
    assert differs(compose("method=craft", "task=rte", *line)) == {}


def test_an_experiments_and_a_rows_own_values_are_differences():
    assert differs(compose("experiment=learnt", "task=rte"))["train.max_steps"] == 640
    assert differs(compose("row=base_lora", "task=rte")) == {}
