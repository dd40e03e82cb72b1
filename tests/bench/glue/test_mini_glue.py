"""Mini-GLUE: what is frozen is what its generator makes; splits apart; GLUE's columns and balance;
proper English."""

import hashlib
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tiny_bench import task_of

from craft.bench.glue import sources
from craft.bench.settings.sections import Data

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))
from english import lexicon  # noqa: E402
from english.inflection import inflect, plural  # noqa: E402
from mini_glue import TASKS, load, main  # noqa: E402

sys.path.remove(str(ROOT / "scripts"))

# sha256 of json.dumps of all nine frozen tasks (`digest` below): with another one, every record of
# the mini suite is of other data.
DIGEST = "fe17bea221cb4b90f7d47c06df04d35711edc8b1039167069af9ba6c65629e20"
PAGE = ROOT / "docs" / "mini_glue.md"


@pytest.fixture(scope="module")
def data() -> dict:
    """What is frozen, in the generator's form."""
    return {task: frozen(task) for task in TASKS}


def frozen(task: str) -> dict:
    facts = task_of(task)
    splits = sources.load(facts, Data("mini"), ("train", *facts.dev, *facts.test)).splits
    return {
        name: {
            **dict(zip(facts.columns, split.texts, strict=True)),
            "label": split.labels or [-1.0 if facts.regression else -1] * len(split),
            "idx": split.idx,
        }
        for name, split in splits.items()
    }


def digest(data: dict) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def texts(data: dict, task: str, split: str) -> list[tuple[str, ...]]:
    return list(zip(*(data[task][split][column] for column in TASKS[task].columns), strict=True))


def every_text(data: dict) -> list[str]:
    return [
        text
        for task in TASKS
        for split in data[task]
        for row in texts(data, task, split)
        for text in row
    ]


def test_what_is_frozen_is_what_the_generator_makes(data):
    assert digest(data) == DIGEST == digest({task: load(task) for task in TASKS})


def test_script_writes_the_tables_and_takes_another_seed(data, tmp_path, monkeypatch):
    for seed in (0, 1):
        monkeypatch.setattr(
            sys, "argv", ["mini_glue.py", f"out={tmp_path / str(seed)}", f"seed={seed}"]
        )
        main()
    for name, same in (("0", True), ("1", False)):
        monkeypatch.setattr(sources, "MINI", tmp_path / name)
        assert (digest({task: frozen(task) for task in TASKS}) == digest(data)) is same


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_gives_other_data_of_the_same_form(data, task):
    other = load(task, seed=1)
    assert digest(other) != digest(data[task])
    form = {split: (list(columns), len(columns["idx"])) for split, columns in other.items()}
    assert form == {split: (list(c), len(c["idx"])) for split, c in data[task].items()}
    assert Counter(other["train"]["label"]) == Counter(data[task]["train"]["label"]) or (
        task == "stsb"
    )


@pytest.mark.parametrize(
    ("task", "columns"),
    {
        "cola": "sentence label idx",
        "sst2": "sentence label idx",
        "mrpc": "sentence1 sentence2 label idx",
        "stsb": "sentence1 sentence2 label idx",
        "qqp": "question1 question2 label idx",
        "mnli": "premise hypothesis label idx",
        "qnli": "question sentence label idx",
        "rte": "sentence1 sentence2 label idx",
        "wnli": "sentence1 sentence2 label idx",
    }.items(),
)
def test_columns_splits_and_types_are_those_of_glue(data, task, columns):
    splits = ["train", "validation", "test"]
    if task == "mnli":
        splits = "train validation_matched validation_mismatched test_matched test_mismatched"
        splits = splits.split()
    assert list(data[task]) == splits
    kind = float if task == "stsb" else int
    for split, got in data[task].items():
        assert list(got) == columns.split()
        assert len({len(values) for values in got.values()}) == 1
        assert got["idx"] == list(range(len(got["idx"])))
        assert {type(label) for label in got["label"]} == {kind}
        if split.startswith("test"):
            assert set(got["label"]) == {-1}


@pytest.mark.parametrize("task", TASKS)
def test_no_text_is_in_two_splits_and_no_example_is_there_twice(data, task):
    seen: set[str] = set()
    for split in data[task]:
        rows = texts(data, task, split)
        assert len(set(rows)) == len(rows)
        assert all(len(set(row)) == len(row) for row in rows)  # the members of a pair differ
        here = {text for row in rows for text in row}
        assert not here & seen
        seen |= here


@pytest.mark.parametrize(
    ("task", "share"),  # of class 1 in GLUE's train or dev set
    {
        "cola": 0.70,
        "sst2": 0.55,
        "mrpc": 0.68,
        "qqp": 0.37,
        "qnli": 0.5,
        "rte": 0.5,
        "wnli": 0.5,
    }.items(),
)
def test_two_classes_are_balanced_as_in_glue(data, task, share):
    for split in ("train", "validation"):
        labels = data[task][split]["label"]
        assert set(labels) == {0, 1}
        assert sum(labels) / len(labels) == pytest.approx(share, abs=0.01)


def test_mnli_has_three_even_classes_and_stsb_the_whole_scale(data):
    for split in ("train", "validation_matched", "validation_mismatched"):
        labels = data["mnli"][split]["label"]
        assert all(abs(labels.count(c) / len(labels) - 1 / 3) < 0.01 for c in (0, 1, 2))
    scores = data["stsb"]["train"]["label"]
    assert min(scores) == 0 and max(scores) == 5
    assert all(round(score, 1) == score for score in scores)
    for low in range(5):  # no part of the scale is missing
        assert sum(low <= score <= low + 1 for score in scores) > 0.08 * len(scores)


def test_mismatched_mnli_is_about_other_scenes(data):
    def words(split: str) -> set[str]:
        return set(
            re.findall(r"\w+", " ".join(t for row in texts(data, "mnli", split) for t in row))
        )

    matched = {noun.names[0] for scene in lexicon.MATCHED for noun in scene.people}
    assert matched & words("validation_matched")
    assert not matched & words("validation_mismatched")


def test_thousands_of_distinct_sentences(data):
    assert len(set(every_text(data))) > 30_000


def test_texts_read_like_sentences(data):
    for text in every_text(data):
        assert re.fullmatch(r"[A-Z].*[.?!]", text), text
        assert not re.search(r"  |[{}|]|a\(n\)| [.,?!]|\.\.", text), text
        assert not re.search(r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text


def test_inflection():
    nouns = "wolf fisherman dish party boy apple tree|piece of furniture|works".split("|")
    assert [plural(noun) for noun in nouns] == [
        "wolf fisherman dish party boy apple trees",
        "pieces of furniture",
        "workses",
    ]
    one_and_many = {"calf": "calves", "sheep": "sheep", "fisherman": "fishermen", "bus": "buses"}
    one_and_many |= {"secretary": "secretaries", "boy": "boys", "thesis": "theses", "box": "boxes"}
    assert {noun: plural(noun) for noun in one_and_many} == one_and_many
    forms = ("third", "past", "participle", "gerund")
    assert [[inflect(verb, form) for form in forms] for verb in ("tear up", "carry", "trim")] == [
        ["tears up", "tore up", "torn up", "tearing up"],
        ["carries", "carried", "carried", "carrying"],
        ["trims", "trimmed", "trimmed", "trimming"],
    ]
    with pytest.raises(ValueError, match="'plural'.*base, third"):
        inflect("carry", "plural")


def test_all_nine_tasks_take_little_time():
    started = time.process_time()
    for task in TASKS:
        load(task, seed=2)
    assert time.process_time() - started < 3


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'snli'.*cola.*wnli"):
        load("snli")


def test_the_examples_of_the_page_come_from_the_generator(data):
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    shown = {row[0].strip("`"): row for row in rows if row[0].strip("`") in TASKS}
    assert list(shown) == list(TASKS)
    for task, row in shown.items():
        example = tuple(row[2].split(" / "))
        made = dict(zip(texts(data, task, "train"), data[task]["train"]["label"], strict=True))
        assert str(made[example]) == row[3].split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task != "stsb"])
def test_a_bag_of_words_does_not_solve_it(data, task):
    """Words of each text, words that only one of the pair has: no more than that is below 90 %."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    validation = "validation_matched" if task == "mnli" else "validation"
    columns = TASKS[task].columns
    train, held_out = data[task]["train"], data[task][validation]
    counter = CountVectorizer(token_pattern=r"\w+").fit(
        [text for column in columns for text in train[column]]
    )

    def features(split: dict):
        counts = [counter.transform(split[column]) for column in columns]
        return hstack([*counts, *(abs(counts[0] - other) for other in counts[1:])])

    model = LogisticRegression(C=0.1, max_iter=2000).fit(features(train), train["label"])
    assert model.score(features(held_out), held_out["label"]) < 0.9
