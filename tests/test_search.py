"""A search selects on a part of train that is held out, never on the split that is reported."""

import pytest
from tiny_bench import compose, task_of

from craft import record
from craft.config import check
from craft.errors import InputError
from craft.glue import sources
from craft.glue.holdout import data_of, held_out
from craft.storage import read_tensors


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
    kept = record.identity(bench.config("selection=dev"), "", "")
    assert "selection" not in kept
    with pytest.raises(InputError, match="selection 'test' is not one of dev, train_holdout"):
        bench.config("selection=test")


def test_search_experiment_holds_out_a_part_of_train(bench):
    given = [o for o in bench.overrides() if not o.startswith("train.lr")]
    assert check(compose(*given, "experiment=search_lr", "train.lr=1")).selection == "train_holdout"
