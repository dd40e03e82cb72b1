"""GLUE: what the task YAMLs say, what a file may hold, and how predictions are scored."""

import json
import math
import socket

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from tiny_bench import ROWS, TASKS, task_of

from craft.bench.glue.metrics import GlueMetrics, collapsed, predictions_of, score
from craft.bench.glue.sources import load, read_columns, read_tsv
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Data
from craft.errors import InputError

PAIR = ["sentence1", "sentence2"]
ENTAILS = ["entailment", "not_entailment"]
HUB = {  # nyu-mll/glue: columns and label names; GLUE's metrics; the headline of LoRA's tables
    "cola": (["sentence"], ["unacceptable", "acceptable"], {"matthews"}, "matthews"),
    "sst2": (["sentence"], ["negative", "positive"], {"accuracy"}, "accuracy"),
    "mrpc": (PAIR, ["not_equivalent", "equivalent"], {"accuracy", "f1"}, "accuracy"),
    "stsb": (PAIR, [], {"pearson", "spearman"}, "pearson"),
    "qqp": (
        ["question1", "question2"], ["not_duplicate", "duplicate"], {"accuracy", "f1"}, "accuracy",
    ),
    "mnli": (
        ["premise", "hypothesis"], ["entailment", "neutral", "contradiction"],
        {"accuracy"}, "accuracy",
    ),
    "qnli": (["question", "sentence"], ENTAILS, {"accuracy"}, "accuracy"),
    "rte": (PAIR, ENTAILS, {"accuracy"}, "accuracy"),
    "wnli": (PAIR, ENTAILS[::-1], {"accuracy"}, "accuracy"),
}  # fmt: skip
OFFICIAL = {  # rows of train, dev and test
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
}


def splits_of(task):
    return ("train", *task.dev, *task.test)


def local(folder):
    return Data("local", dir=folder)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rte(path, *rows, ending="\n"):
    """A train file of RTE with these rows of (sentence1, sentence2, label)."""
    lines = ["index\tsentence1\tsentence2\tlabel"]
    lines += ["\t".join([str(number), *row]) for number, row in enumerate(rows)]
    return write(path / "train.tsv", ending.join(lines) + ending)


def as_hub(split, task):
    """A split as the hub has it: class ids, scores in float32."""
    hidden = [-1.0 if task.regression else -1] * len(split)
    label = (
        datasets.Value("float32")
        if task.regression
        else datasets.ClassLabel(names=list(task.labels))
    )
    columns = dict(zip(task.columns, split.texts, strict=True))
    columns |= {"label": hidden if split.labels is None else split.labels, "idx": split.idx}
    features = {c: datasets.Value("string") for c in task.columns}
    features = datasets.Features({**features, "label": label, "idx": datasets.Value("int32")})
    return datasets.Dataset.from_dict(columns, features)


# --- facts


def test_nine_tasks():
    assert set(TASKS) == set(HUB)


@pytest.mark.parametrize("name", HUB)
def test_task_has_the_columns_labels_and_splits_of_the_hub(name):
    task = task_of(name)
    columns, labels, metrics, headline = HUB[name]
    assert (task.name, task.hub) == (name, name)
    assert list(task.columns) == columns
    assert list(task.labels) == labels
    assert metrics <= set(task.metrics)
    assert task.headline == headline and headline in task.metrics
    both = ("_matched", "_mismatched") if name == "mnli" else ("",)
    assert task.dev == tuple(f"validation{suffix}" for suffix in both)
    assert task.test == tuple(f"test{suffix}" for suffix in both)
    assert task.regression == (name == "stsb")
    assert task.outputs == (3 if name == "mnli" else 1 if name == "stsb" else 2)


@pytest.mark.parametrize("name", HUB)
def test_task_says_where_each_column_of_each_split_stands(name):
    task = task_of(name)
    assert set(task.tsv.files) == set(splits_of(task))
    assert {*task.columns, "label"} <= set(task.tsv.columns)
    assert set(task.columns) <= set(task.tsv.test_columns)
    assert "label" not in task.tsv.test_columns
    positions = [c for c in task.tsv.columns.values() if isinstance(c, int)]
    assert (task.tsv.width is not None) == bool(positions)
    assert not positions or max(positions) < task.tsv.width


# --- the three sources


@pytest.mark.parametrize("name", HUB)
def test_tsv_parquet_and_hub_give_the_same_splits_and_digest(
    name, tiny_glue, tmp_path, monkeypatch
):
    task = task_of(name)
    tsv = load(task, local(tiny_glue), splits_of(task))
    assert {n: len(s) for n, s in tsv.splits.items()} == {
        n: ROWS[("train" if n == "train" else "dev") if n not in task.test else "test"]
        for n in tsv.splits
    }
    assert all((tsv.splits[n].labels is None) == (n in task.test) for n in tsv.splits)
    assert tsv.skipped == {}
    hub = datasets.DatasetDict({n: as_hub(s, task) for n, s in tsv.splits.items()})

    (tmp_path / task.hub).mkdir()
    for split, rows in hub.items():
        rows.to_parquet(tmp_path / task.hub / f"{split}-00000-of-00001.parquet")
    parquet = load(task, local(tmp_path), splits_of(task))
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, config, revision: hub)
    source = Data("hub", "nyu-mll/glue", "0")
    for other in (parquet, load(task, source, splits_of(task))):
        assert other.splits == tsv.splits
        assert other.digest == tsv.digest


def test_digest_depends_on_texts_and_labels_and_splits(tmp_path):
    task = task_of("rte")
    source = local(tmp_path)

    def digest(*rows):
        rte(tmp_path / "RTE", *rows)
        return load(task, source, ["train"]).digest

    first = digest(("a", "b", "entailment"), ("c", "d", "entailment"))
    assert first == digest(("a", "b", "entailment"), ("c", "d", "entailment"))
    assert first != digest(("a", "b", "entailment"), ("c", "d", "not_entailment"))
    assert first != digest(("a", "b", "entailment"), ("c", "e", "entailment"))
    assert first != digest(("c", "d", "entailment"), ("a", "b", "entailment"))


def test_mini_glue_gives_every_task_in_the_same_columns():
    for name in TASKS:
        task = task_of(name)
        made = load(task, Data("mini"), ("train", *task.dev))
        split = made.splits["train"]
        assert len(split) > 100 and len(split.texts) == len(task.columns)
        if not task.regression:
            assert set(split.labels) == set(range(len(task.labels)))


def test_hub_without_network_and_cache_says_how_to_give_a_local_copy():
    source = Data("hub", "nyu-mll/glue", "bcdcba79")
    with pytest.raises(
        InputError, match=r"nyu-mll/glue \(rte\).*data=local data.dir=FOLDER"
    ) as caught:
        load(task_of("rte"), source, ["train"])
    assert "\n" not in str(caught.value)


def test_unknown_source_is_refused():
    with pytest.raises(InputError, match="'cloud' is not one of hub, local, mini"):
        read(Data, {"source": "cloud"}, "data")


# --- what a TSV file may hold


TRAPS = {
    "quotes are text": ('He said "no".', 'a " b'),
    "a field that begins with a quote swallows nothing": ('"Yes', "and"),
    "NA is text": ("NA", "N/A"),
    "null is text": ("null", "None"),
    "nan is text": ("nan", "NaN"),
    "an empty field is an empty text": ("", "b"),
    "unicode line separators do not end a line": ("a\u2028b\u2029c\x85d\x0be", "f\x0cg\x1ch"),
    "a lone carriage return does not end a line": ("a\rb", "c"),
    "spaces at the ends stay": (" a ", "  b"),
    "a backslash is text": ("a\\", "\\t\\n"),
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_every_field_is_read_as_it_stands(trap, ending, tmp_path):
    rows = [(*TRAPS[trap], "entailment"), ("next", "row", "not_entailment")]
    split, skipped = read_tsv(task_of("rte"), "train", rte(tmp_path, *rows, ending=ending))
    assert split.texts == ([TRAPS[trap][0], "next"], [TRAPS[trap][1], "row"])
    assert split.labels == [0, 1]
    assert split.idx == [0, 1]
    assert skipped == 0


def test_byte_order_mark_and_missing_last_newline_change_nothing(tmp_path):
    plain = rte(tmp_path, ("a", "b", "entailment"), ("c", "d", "not_entailment"))
    expected = read_tsv(task_of("rte"), "train", plain)
    content = plain.read_bytes()
    assert read_tsv(task_of("rte"), "train", write(plain, b"\xef\xbb\xbf" + content)) == expected
    assert read_tsv(task_of("rte"), "train", write(plain, content[:-1])) == expected


def test_file_without_a_header_loses_no_row(tmp_path):
    path = write(tmp_path / "train.tsv", "gj04\t1\t\tFirst.\nclc95\t0\t*\tSecond.\n")
    split, _ = read_tsv(task_of("cola"), "train", path)
    assert split.texts == (["First.", "Second."],)
    assert (split.labels, split.idx) == ([1, 0], [0, 1])


def test_test_file_has_no_labels_and_its_own_index(tmp_path):
    path = write(tmp_path / "test.tsv", "index\tsentence\n7\ta\n9\tb\n")
    split, _ = read_tsv(task_of("cola"), "test", path)
    assert (split.texts, split.labels, split.idx) == ((["a", "b"],), None, [7, 9])


def test_labels_may_be_names_or_ids(tmp_path):
    path = rte(tmp_path, ("a", "b", "not_entailment"), ("c", "d", "1"), ("e", "f", "0"))
    assert read_tsv(task_of("rte"), "train", path)[0].labels == [1, 1, 0]


# --- what is refused, with file and line


@pytest.mark.parametrize(
    ("broken", "fields"), [("9\ta\tb", 3), ("9\ta\tb\tentailment\tmore", 5), ("", 1)]
)
def test_row_of_another_width_is_refused_with_file_and_line(broken, fields, tmp_path):
    path = rte(tmp_path, ("a", "b", "entailment"))
    write(path, path.read_text() + f"{broken}\n9\tc\td\tentailment\n")
    with pytest.raises(InputError, match=rf"train\.tsv, line 3: {fields} fields instead of 4"):
        read_tsv(task_of("rte"), "train", path)


def test_broken_rows_are_left_out_and_counted_where_the_task_says_so(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = ["1\t2\t3\ta?\tb?\t0", "4\t5\t6\tcut sh", "7\t8\t9\tc?\td?\t1", "short"]
    write(tmp_path / "QQP" / "train.tsv", header + "\n".join(rows) + "\n")
    task = task_of("qqp")
    assert task.tsv.skip_broken_rows
    with pytest.warns(UserWarning, match=r"train\.tsv: 2 broken rows are left out"):
        found = load(task, local(tmp_path), ["train"])
    assert found.splits["train"].texts == (["a?", "c?"], ["b?", "d?"])
    assert found.splits["train"].labels == [0, 1]
    assert found.skipped == {"train": 2}


def test_only_qqp_may_hold_broken_rows():
    assert [name for name in TASKS if task_of(name).tsv.skip_broken_rows] == ["qqp"]


def test_missing_columns_are_named(tmp_path):
    path = write(tmp_path / "train.tsv", "index\tsentence1\ttext\tlabel\n0\ta\tb\tentailment\n")
    with pytest.raises(
        InputError, match=r"train\.tsv: columns \['sentence2'\] are missing"
    ) as caught:
        read_tsv(task_of("rte"), "train", path)
    assert "'text'" in str(caught.value)


@pytest.mark.parametrize("label", ["maybe", "2", "-1", "", "²", "1.0"])
def test_unknown_label_is_refused_with_file_line_and_the_allowed_ones(label, tmp_path):
    path = rte(tmp_path, ("a", "b", "entailment"), ("c", "d", label))
    with pytest.raises(
        InputError, match=r"train\.tsv, line 3: label .* entailment, not_entailment"
    ):
        read_tsv(task_of("rte"), "train", path)


@pytest.mark.parametrize("value", ["5.1", "-0.1", "nan", "inf", "good", ""])
def test_score_that_is_no_number_from_0_to_5_is_refused(value, tmp_path):
    header = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t5.000\n"
    path = write(tmp_path / "train.tsv", f"{header}1\tc\td\t{value}\n")
    with pytest.raises(InputError, match=r"train\.tsv, line 3: score .* from 0 to 5"):
        read_tsv(task_of("stsb"), "train", path)


def test_index_that_is_no_number_is_refused(tmp_path):
    path = write(tmp_path / "test.tsv", "index\tsentence\nx\ta\n")
    with pytest.raises(InputError, match=r"test\.tsv, line 2: index 'x'"):
        read_tsv(task_of("cola"), "test", path)


RTE_TEXT = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tcaf\u00e9\td\t0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RTE_TEXT.encode("latin-1"), "line 3: not UTF-8 .*0xe9"),
        (RTE_TEXT.encode("utf-16"), "line 1: not UTF-8 .*0xff"),
        (RTE_TEXT.encode("utf-16-le"), "line 1: a NUL byte"),
        (RTE_TEXT.replace("b\t", "\0\t").encode(), "line 2: a NUL byte"),
    ],
)
def test_file_that_is_no_utf8_text_is_refused_with_its_line(content, message, tmp_path):
    with pytest.raises(InputError, match=rf"train\.tsv, {message}"):
        read_tsv(task_of("rte"), "train", write(tmp_path / "train.tsv", content))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_blank_last_lines_are_no_rows(end, tmp_path):
    path = rte(tmp_path, ("a", "b", "entailment"))
    write(path, path.read_bytes() + end.encode())
    split, skipped = read_tsv(task_of("rte"), "train", path)
    assert (split.texts, skipped) == ((["a"], ["b"]), 0)


def test_blank_last_line_of_one_column_is_an_empty_text(tmp_path):
    path = write(tmp_path / "input.tsv", "sentence\na\n\n")
    assert read_columns(task_of("sst2"), path).texts == (["a", ""],)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cola", "", "cola: split train is empty"),
        ("rte", "", r"train\.tsv: columns .* are missing"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n", "rte: split train is empty"),
    ],
)
def test_file_without_rows_is_refused(name, content, message, tmp_path):
    task = task_of(name)
    write(tmp_path / task.folder / "train.tsv", content)
    with pytest.raises(InputError, match=message):
        load(task, local(tmp_path), ["train"])


def test_missing_folder_and_missing_split_are_named(tmp_path):
    with pytest.raises(InputError, match=r"data\.dir: .*nowhere is not a folder"):
        load(task_of("rte"), local(tmp_path / "nowhere"), ["train"])
    with pytest.raises(InputError, match=r"split train is not in .*RTE/train\.tsv or rte/train-"):
        load(task_of("rte"), local(tmp_path), ["train"])


PARQUET = {
    "missing column": ({"sentence1": ["a"], "label": [0]}, r"columns \['sentence2'\] are missing"),
    "unknown label": ({"sentence1": ["a"], "sentence2": ["b"], "label": [2]}, "row 0: label '2'"),
    "hidden label": ({"sentence1": ["a"], "sentence2": ["b"], "label": [-1]}, "row 0: label '-1'"),
    "null": (
        {"sentence1": ["a", None], "sentence2": ["b", "c"], "label": [0, 1]},
        "row 1: .* None",
    ),
}


@pytest.mark.parametrize("fault", PARQUET)
def test_broken_parquet_is_refused_with_file_and_row(fault, tmp_path):
    columns, message = PARQUET[fault]
    (tmp_path / "rte").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rte" / "train.parquet")
    with pytest.raises(InputError, match=rf"rte/train\.parquet.*{message}"):
        load(task_of("rte"), local(tmp_path), ["train"])


def test_file_that_is_no_parquet_is_named(tmp_path):
    write(tmp_path / "rte" / "train-00000-of-00001.parquet", "no parquet")
    with pytest.raises(InputError, match=r"train-00000-of-00001\.parquet: "):
        load(task_of("rte"), local(tmp_path), ["train"])


# --- the real files


@pytest.mark.real_data
@pytest.mark.parametrize("name", OFFICIAL)
def test_real_files_have_the_official_row_counts(name, glue_dir):
    task = task_of(name)
    found = load(task, local(glue_dir), splits_of(task))
    assert tuple(len(found.splits[s]) for s in splits_of(task)) == OFFICIAL[name]
    assert found.skipped == {}
    for split in ("train", *task.dev):
        labels = found.splits[split].labels
        if task.regression:
            assert min(labels) == 0 and max(labels) == 5
        else:
            assert set(labels) == set(range(len(task.labels)))
    assert all(found.splits[s].labels is None for s in task.test)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "label", "count"),
    [("cola", 1, 721), ("sst2", 1, 444), ("mrpc", 1, 279), ("rte", 0, 146)],
)
def test_real_labels_have_the_benchmarks_majority(name, label, count, glue_dir):
    """The known class sizes of the dev sets tell the classes apart."""
    labels = load(task_of(name), local(glue_dir), ["validation"]).splits["validation"].labels
    assert labels.count(label) == count


# --- metrics


def matthews(truth, predicted):
    tp, tn = np.sum(truth & predicted), np.sum(~truth & ~predicted)
    fp, fn = np.sum(~truth & predicted), np.sum(truth & ~predicted)
    product = float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / math.sqrt(product)


def drawn(n=400, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.random(n) < 0.7
    return truth, np.where(generator.random(n) < 0.8, truth, ~truth)


def scores_of(name, predicted, truth):
    return GlueMetrics(task_of(name)).compute(predictions=predicted, references=truth)


def test_classification_metrics_equal_their_formulas():
    truth, predicted = drawn()
    cola = scores_of("cola", predicted.astype(int), truth.astype(int))
    assert cola["matthews"] == pytest.approx(matthews(truth, predicted), abs=1e-12)
    assert cola["matthews"] == matthews_corrcoef(truth, predicted)
    assert cola["accuracy"] == np.mean(truth == predicted) == accuracy_score(truth, predicted)
    mrpc = scores_of("mrpc", predicted.astype(int), truth.astype(int))
    hits = np.sum(truth & predicted)
    assert mrpc["f1"] == pytest.approx(2 * hits / (np.sum(truth) + np.sum(predicted)), abs=1e-12)
    assert mrpc["f1"] == f1_score(truth, predicted)


def test_regression_metrics_equal_their_formulas():
    generator = np.random.default_rng(0)
    truth = np.round(generator.random(300) * 5, 1)  # with ties
    predicted = truth + generator.normal(size=300)
    found = scores_of("stsb", predicted, truth)
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], abs=1e-12)
    ranks = np.corrcoef(rankdata(truth), rankdata(predicted))[0, 1]
    assert found["spearman"] == pytest.approx(ranks, abs=1e-12)


@pytest.mark.parametrize("name", HUB)
def test_constant_predictions_score_a_number_and_count_as_collapsed(name):
    task = task_of(name)
    truth = [0.0, 2.5, 5.0, 1.0] if task.regression else [0, 1, 0, 1]
    for constant in [3.2] if task.regression else range(task.outputs):
        found = scores_of(name, [constant] * 4, truth)
        assert collapsed(np.array([constant] * 4), task.regression)
        assert all(math.isfinite(value) for value in found.values())
        for metric in ("matthews", "pearson", "spearman"):
            assert found.get(metric, 0.0) == 0.0
    assert not collapsed(np.array(truth), task.regression)


def test_constant_references_have_correlation_0():
    assert scores_of("stsb", [1.0, 2.0, 3.0], [2.0] * 3) == {"pearson": 0.0, "spearman": 0.0}
    for predicted in ([0, 1, 0], [1] * 3):
        assert scores_of("cola", predicted, [1] * 3)["matthews"] == 0.0


def test_predictions_are_the_largest_logit_or_the_score():
    logits = np.array([[0.1, 0.9], [2.0, -1.0]], np.float32)
    assert predictions_of(task_of("rte"), logits).tolist() == [1, 0]
    assert predictions_of(task_of("stsb"), logits[:, :1]).tolist() == pytest.approx([0.1, 2.0])


def test_mnli_is_scored_pooled_matched_and_mismatched():
    logits = {"validation_matched": np.eye(3), "validation_mismatched": np.eye(3)[[0, 0, 0, 0, 0]]}
    labels = {"validation_matched": [0, 1, 2], "validation_mismatched": [0, 1, 1, 1, 1]}
    assert score(task_of("mnli"), logits, labels) == {
        "accuracy": 4 / 8,
        "accuracy_matched": 1.0,
        "accuracy_mismatched": 1 / 5,
    }


def test_scores_are_plain_numbers():
    truth, predicted = drawn(40)
    found = score(
        task_of("mrpc"),
        {"validation": np.eye(2)[predicted.astype(int)]},
        {"validation": truth.astype(int).tolist()},
    )
    assert json.loads(json.dumps(found)) == found


def test_metrics_need_no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in TASKS:
        truth = [0.0, 1.0, 2.0] if name == "stsb" else [0, 1, 1]
        assert all(value == pytest.approx(1.0) for value in scores_of(name, truth, truth).values())
