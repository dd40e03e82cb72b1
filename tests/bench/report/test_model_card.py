"""The embedded model's card: what it says of the model's learning is what the records say."""

import runpy

import numpy as np
import pandas as pd
import pytest
from made_records import CONFIGS

ROOT = CONFIGS.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return runpy.run_path(str(ROOT / "scripts" / "model_card.py"))


def runs_of(task, headline, constant, best, last, random):
    facts = {"task": task, "random": random, "headline": headline, "constant": constant}
    return [facts | {"best": b, "last": e} for b, e in zip(best, last, strict=True)]


def test_what_was_learnt_stands_beside_a_constant_at_both_epochs(script):
    rows = runs_of("rte", "accuracy", 0.527, (0.61, 0.58, 0.60), (0.60, 0.55, 0.53), False)
    rows += runs_of("rte", "accuracy", 0.527, (0.527,) * 3, (0.473, 0.473, 0.527), True)
    text = script["card"](pd.DataFrame(rows))
    (line,) = [line for line in text.splitlines() if line.startswith("| RTE")]
    assert line == (
        "| RTE | accuracy | 52.7 | 59.7 ± 1.5 / 56.0 ± 3.6 | 52.7 ± 0.0 / 49.1 ± 3.1 | "
        "+7.0 / +3.3 | 3, 3 |"
    )
    assert "sd |" not in text and "fewer than five seeds" in text
    whole = runs_of("rte", "accuracy", 0.5, (0.6,) * 5, (0.6,) * 5, False)
    assert "fewer than five seeds" not in script["card"](pd.DataFrame(whole))


def test_a_task_without_a_record_says_so(script):
    columns = ["task", "random", "headline", "best", "last", "constant"]
    text = script["card"](pd.DataFrame(columns=columns).astype({"random": bool}))
    assert text.count("no record") == 2 * 5


@pytest.mark.parametrize(
    ("metric", "labels", "expected"),
    [("accuracy", [0, 1, 1, 1], 0.75), ("matthews", [0, 1, 1, 1], 0.0), ("pearson", [0, 2, 5], 0)],
)
def test_the_constant_predictor_is_the_best_one(script, metric, labels, expected):
    assert script["constant_score"](metric, np.array(labels)) == expected
