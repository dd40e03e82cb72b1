"""Folds of train and dev together: every row of the pool is scored once, and in no search."""

import copy
import dataclasses

import numpy as np
import pytest
from tiny_bench import TASKS, task_of

from craft.bench.glue import sources
from craft.bench.glue.splits import BINS, data_of, fold_of, held_out, reserve
from craft.bench.run import record
from craft.bench.run.identity import identity
from craft.bench.settings.declared import plain
from craft.bench.settings.sections import Data, Fold
from craft.errors import InputError
from craft.files import read_tensors

FOLD = ("selection=fold", "fold.number=0")
KINDS = [("mini", task) for task in TASKS] + [("files", task) for task in TASKS]


@pytest.fixture(scope="module")
def loaded(tiny_glue):
    """A task's train and dev, of mini-GLUE and of files, each read once."""
    found = {}

    def of(kind, task):
        if (kind, task) not in found:
            source = Data("local", dir=tiny_glue)
            if kind == "mini":
                source = Data("mini")
            splits = ("train", *task_of(task).dev)
            found[kind, task] = sources.load(task_of(task), source, splits)
        return found[kind, task]

    return of


def scored(task, data):
    return [row for name in task.dev for row in data.splits[name].idx]


def rows_of(task, data):
    """Position in the pool -> texts and label, by its documented rule."""
    found = []
    for name in ("train", *task.dev):
        split = data.splits[name]
        found += zip(*split.texts, split.labels, strict=True)
    return found


@pytest.mark.parametrize("kind, name", KINDS)
def test_every_row_but_the_reserve_is_scored_in_one_fold_and_trained_on_in_the_others(
    kind, name, loaded
):
    task, data = task_of(name), loaded(kind, name)
    folds = [fold_of(task, data, Fold(k, 5, 0)) for k in range(5)]
    everything, train = rows_of(task, data), len(data.splits["train"])
    held = set(reserve(task, train)[0].tolist())
    pool = sorted(set(range(len(everything))) - held)
    assert sorted(row for fold in folds for row in scored(task, fold)) == pool
    for fold in folds:
        assert sorted(scored(task, fold) + fold.splits["train"].idx) == pool
        assert fold.splits.keys() == data.splits.keys()
        sizes = [len(fold.splits[part]) for part in task.dev]
        assert max(sizes) - min(sizes) <= 1
        for split in fold.splits.values():
            kept = zip(*split.texts, split.labels, strict=True)
            assert list(kept) == [everything[row] for row in split.idx]
    searched = held_out(task, data)
    held_texts = [data.splits["train"].idx[row] for row in sorted(held)]
    assert scored(task, searched) == held_texts


@pytest.mark.parametrize("kind, name", KINDS)
def test_folds_are_of_one_size_and_share_every_stratum(kind, name, loaded):
    task, data = task_of(name), loaded(kind, name)
    labels = np.array([row[-1] for row in rows_of(task, data)])
    folds = [scored(task, fold_of(task, data, Fold(k, 5, 3))) for k in range(5)]
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    if not task.regression:
        for label in range(len(task.labels)):
            counts = [int((labels[fold] == label).sum()) for fold in folds]
            assert max(counts) - min(counts) <= 1
    else:  # a cut at any score parts the folds nearly alike: one row for the bin that it falls into
        for cut in np.unique(labels):
            counts = [int((labels[fold] <= cut).sum()) for fold in folds]
            size = -(-sum(sizes) // min(BINS, sum(sizes) // 5) // 5)
            assert max(counts) - min(counts) <= size + 1


@pytest.mark.parametrize("name", ["rte", "stsb", "mnli"])
def test_permutations_cut_differently_and_each_always_the_same(name, loaded):
    task, data = task_of(name), loaded("files", name)
    first, again, other = (
        [scored(task, fold_of(task, data, Fold(k, 3, p))) for k in range(3)] for p in (0, 0, 1)
    )
    assert first == again
    assert {frozenset(fold) for fold in first}.isdisjoint(map(frozenset, other))


@pytest.mark.parametrize("name", ["rte", "stsb", "mnli"])
def test_digest_is_of_the_pool_whatever_the_fold(name, loaded):
    task, data = task_of(name), loaded("files", name)
    chosen = [Fold(0, 5, 0), Fold(4, 5, 0), Fold(1, 2, 7)]
    (digest,) = {fold_of(task, data, fold).digest for fold in chosen}
    assert digest not in (data.digest, held_out(task, data).digest)
    for split in ("train", task.dev[-1]):  # of train and of dev
        changed = copy.deepcopy(data.splits)
        changed[split].texts[0][0] += "!"
        assert fold_of(task, _digested(task, changed, data), Fold(0, 5, 0)).digest != digest


def _digested(task, splits, data):
    """What `sources.load` gives for other content: here only its digest matters."""
    return dataclasses.replace(data, splits=splits, digest=record.digest(repr(splits)))


def test_runs_of_all_methods_and_seeds_have_the_same_folds(bench):
    of = {}
    for method in ("craft", "lora", "head"):
        for seed in (0, 1):
            found = data_of(bench.config(*FOLD, f"seed={seed}", method=method))
            of[method, seed] = scored(task_of("rte"), found), found.digest
    assert len({repr(found) for found in of.values()}) == 1


def test_fold_is_part_of_the_identity_and_its_absence_is_not(bench):
    def kept(*more):
        return identity(plain(bench.config(*more)), "", "", "")

    assert not [key for key in kept() if key.startswith("fold") or key == "selection"]
    ours = {k: v for k, v in kept(*FOLD).items() if k.startswith("fold") or k == "selection"}
    assert ours == {"selection": "fold", "fold.number": 0}
    more = (*FOLD, "fold.count=3", "fold.permutation=1")
    assert kept(*more) == kept() | {
        "selection": "fold",
        "fold.number": 0,
        "fold.count": 3,
        "fold.permutation": 1,
    }


@pytest.mark.parametrize(
    "given, said",
    [
        (["selection=fold"], "fold.number .* must be a whole number of at least 0, not None"),
        (["selection=fold", "fold.number=5"], "fold.number 5 is not one of the 5 folds 0 to 4"),
        (["selection=fold", "fold.number=-1"], "of at least 0, not -1"),
        ([*FOLD, "fold.count=1"], "fold.count must be a whole number of at least 2, not 1"),
        ([*FOLD, "fold.permutation=x"], "fold.permutation must be a whole number"),
        (["fold.number=0"], "fold.number=0 is for selection=fold, not for selection=dev"),
        (["selection=train_holdout", "fold.count=3"], "fold.count=3 is for selection=fold"),
        ([*FOLD, "start_from=mnli"], "start_from=mnli with selection=fold"),
        ([*FOLD, "mode=evaluate"], "mode=evaluate scores the dev splits"),
    ],
)
def test_fold_that_is_not_there_or_not_asked_for_is_refused(given, said, bench):
    with pytest.raises(InputError, match=said) as refused:
        bench.config(*given)
    assert "\n" not in str(refused.value)


def test_more_folds_than_rows_of_a_label_are_refused(bench):
    with pytest.raises(InputError, match="fold.count 16: rte has 1. rows of label") as refused:
        data_of(bench.config(*FOLD, "fold.count=16"))
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="fold.count 31: stsb has 30 rows of score"):
        data_of(bench.config(*FOLD, "fold.count=31", task="stsb"))


def test_run_of_a_fold_is_scored_on_it_and_the_next_one_not_with_its_tokens(bench):
    made = {}
    for number in (0, 1):
        given = ("selection=fold", f"fold.number={number}", "train.epochs=1")
        made[number] = bench.run(*given)
        folder = bench.outputs / "runs" / made[number]["provenance"]["name"]
        tensors, _ = read_tensors(folder / "predictions.safetensors")
        expected = data_of(bench.config(*given)).splits
        assert tensors["idx.validation"].tolist() == expected["validation"].idx
        assert tensors["labels.validation"].tolist() == expected["validation"].labels
        assert made[number]["status"] == "ok"
        examples = made[number]["provenance"]["data"]["examples"]
        assert examples == {name: len(split) for name, split in expected.items()}
        alone = bench.elsewhere(f"alone{number}").run(*given)  # from a cache of its own
        assert alone["result_sha256"] == made[number]["result_sha256"]
    first, second = (m["result"]["config"] for m in made.values())
    assert {k for k in first if first[k] != second[k]} == {"fold.number"}
    assert first["data.digest"] == second["data.digest"]
