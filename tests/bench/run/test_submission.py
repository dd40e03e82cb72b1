"""The leaderboard's zip: its format, what its checker sees, and predictions from saved runs."""

import dataclasses
import functools
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_bench import TASKS, Bench, task_of

from craft.bench.cli.main import run
from craft.bench.glue import leaderboard, sources
from craft.bench.glue.leaderboard import FILES, HEADER, content, findings, packed
from craft.bench.model.build import build
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run.record import Record
from craft.bench.settings.sections import Data
from craft.errors import InputError

LINES = {  # of the files that others have submitted, headers included
    "AX": 1105, "CoLA": 1064, "MNLI-mm": 9848, "MNLI-m": 9797, "MRPC": 1726, "QNLI": 5464,
    "QQP": 390_966, "RTE": 3001, "SST-2": 1822, "STS-B": 1380, "WNLI": 147,
}  # fmt: skip
SOME = ("mnli", "rte", "stsb", "wnli")  # three classes, two with words, a score, digits
BY_NAME = {file.name: file for file in FILES}


# --- the format


def test_table_has_the_eleven_files_and_their_rows():
    assert {file.name: file.rows + 1 for file in FILES} == LINES
    assert {file.task for file in FILES} == set(TASKS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_words_are_those_of_the_classes_in_the_order_of_their_ids(file):
    labels = task_of(file.task).labels
    if file.task in ("mnli", "qnli", "rte"):
        assert file.words == labels
    else:
        assert file.words == tuple(map(str, range(len(labels))))


def test_scores_are_clipped_and_classes_have_their_words():
    scores = content(BY_NAME["STS-B"], range(4), np.array([-0.2, 5.4, 2.5, 3.1415926]))
    assert scores == f"{HEADER}\n0\t0.000000\n1\t5.000000\n2\t2.500000\n3\t3.141593\n"
    assert content(BY_NAME["RTE"], [0, 1], np.array([1, 0])) == (
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    )
    assert content(BY_NAME["WNLI"], [0, 1], np.array([1, 0])) == f"{HEADER}\n0\t1\n1\t0\n"
    assert content(BY_NAME["AX"], [0], np.array([2])) == f"{HEADER}\n0\tcontradiction\n"


@functools.cache
def whole():
    """A right submission: the first class, or a score of 0, everywhere."""
    return {file.name: content(file, range(file.rows), np.zeros(file.rows, int)) for file in FILES}


def test_a_right_zip_has_no_findings_and_repeats_byte_for_byte():
    archive = packed(whole())
    assert findings(archive) == []
    assert packed(dict(reversed(whole().items()))) == archive
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.namelist() == [f"{file.name}.tsv" for file in FILES]
        assert opened.testzip() is None


def line(name, number, new):
    """The right file with one line replaced; the header is line 1."""
    lines = whole()[name].split("\n")
    lines[number - 1] = new
    return "\n".join(lines)


FAULTS = {
    "header": ("RTE", line("RTE", 1, "id\tlabel"), "RTE.tsv: the header is 'id\\tlabel', not"),
    "no header": ("WNLI", whole()["WNLI"].removeprefix(f"{HEADER}\n"), "WNLI.tsv: the header is"),
    "a row too few": (
        "CoLA", whole()["CoLA"].rsplit("\n", 2)[0] + "\n", "1062 rows instead of the 1063",
    ),
    "index": ("RTE", line("RTE", 4, "3\tentailment"), "line 4: '3\\tentailment' does not begin"),
    "comma": ("RTE", line("RTE", 4, "2,entailment"), "line 4: '2,entailment' does not begin with"),
    "number for a word": ("QNLI", line("QNLI", 3, "1\t0"), "'0' is not entailment, not_entailment"),
    "word for a number": ("MRPC", line("MRPC", 3, "1\tequivalent"), "'equivalent' is not 0, 1"),
    "two classes for three": ("AX", line("AX", 2, "0\tnot_entailment"), "AX.tsv: line 2: "),
    "score too high": ("STS-B", line("STS-B", 9, "7\t5.2"), "line 9: prediction '5.2' is not a nu"),
    "not a number": ("STS-B", line("STS-B", 9, "7\tnan"), "'nan' is not a number from 0 to 5"),
    "no number": ("STS-B", line("STS-B", 9, "7\thigh"), "'high' is not a number from 0 to 5"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_checker_names_the_file_and_the_line(fault):
    name, text, expected = FAULTS[fault]
    found = findings(packed(whole() | {name: text}))
    assert all(finding.startswith(f"{name}.tsv: ") for finding in found)
    assert expected in found[0]


def test_checker_names_missing_foreign_and_doubled_files_and_what_is_no_zip():
    texts = {name: text for name, text in whole().items() if name != "AX"}
    stream = io.BytesIO(packed(texts))
    with zipfile.ZipFile(stream, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("results/RTE.tsv", texts["RTE"])
        opened.writestr("RTE.tsv", texts["RTE"])
    found = findings(stream.getvalue())
    assert len(found) == 3 and found[0] == "AX.tsv is missing" and "RTE.tsv is there 2" in found[2]
    assert found[1].startswith("results/RTE.tsv is none of the files: CoLA.tsv, SST-2.tsv")
    assert findings(b"PK")[0].startswith("not a zip that can be read")


# --- from saved runs


@pytest.fixture(scope="module")
def runs(tiny_roberta, tiny_glue, tmp_path_factory):
    """Finished runs of some tasks, and GLUE's files with the diagnostic set."""
    place = tmp_path_factory.mktemp("runs")
    glue = place / "glue"
    shutil.copytree(tiny_glue, glue)
    (glue / "diagnostic").mkdir()
    rows = [f"{n}\tthe film {n} was good\tit was so" for n in range(7)]
    text = "\n".join(["index\tsentence1\tsentence2", *rows]) + "\n"
    (glue / "diagnostic" / "diagnostic.tsv").write_text(text)
    bench = Bench(tiny_roberta, glue, place / "outputs")
    for task in SOME:
        bench.run("train.epochs=1", task=task)
    bench.run("train.epochs=1", "seed=1", task="rte", method="lora")
    return bench


def tiny_table(tasks):
    """The table of some tasks, with the sizes of the tiny test sets."""
    rows = {"AX": 7}
    return tuple(dataclasses.replace(f, rows=rows.get(f.name, 5)) for f in FILES if f.task in tasks)


@pytest.fixture
def submit(monkeypatch, tmp_path, runs):
    """`craft submit` as a function of its words, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def submitted(*words):
        run("submit", "craft submit", [f"runs={runs.outputs / 'runs'}", "out=glue.zip", *words])

    return submitted


def tsv(path, name):
    with zipfile.ZipFile(path) as opened:
        lines = opened.read(f"{name}.tsv").decode().splitlines()
    return [tuple(row.split("\t")) for row in lines]


def predictions(runs, task, data, epoch="best"):
    """By the slow way: the saved folder on the stock encoder, one text after the other."""
    config = runs.config(task=task)
    folder = next((runs.outputs / "runs").glob(f"{task}-craft-*"))
    backbone = locate(config.model)
    tokenizer = tokenizer_of(backbone)
    model = PeftModel.from_pretrained(build(backbone, config.task, 0), str(folder / epoch))
    model.eval()
    found = []
    for texts in zip(*data.texts, strict=True):
        encoded = tokenizer(*texts, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            logits = model(**encoded).logits[0]
        found.append(float(logits[0]) if config.task.regression else int(logits.argmax()))
    return found


@pytest.mark.parametrize("tasks", [SOME, pytest.param(TASKS, marks=pytest.mark.slow)])
def test_script_writes_the_predictions_of_the_saved_runs(
    tasks, submit, runs, tmp_path, monkeypatch, capsys
):
    for task in tasks:
        runs.run("train.epochs=1", task=task)
    names = [f"{task}-craft-*" for task in tasks]
    monkeypatch.setattr(leaderboard, "FILES", tiny_table(tasks))
    capsys.readouterr()  # the runs' progress
    submit(*names)
    said, files = capsys.readouterr(), len(leaderboard.FILES)
    assert said.err == "" and said.out.endswith(f"glue.zip: {files} files of {len(tasks)} runs\n")
    first = (tmp_path / "glue.zip").read_bytes()
    assert findings(first) == []
    for file in leaderboard.FILES:
        task = task_of(file.task)
        if file.name == "AX":
            task = leaderboard.diagnostics(task)
        split = "test" if file.name == "AX" else file.split
        data = sources.load(task, Data("local", dir=runs.glue), (split,))
        expected = predictions(runs, file.task, data.splits[split])
        header, *rows = tsv("glue.zip", file.name)
        assert header == ("index", "prediction")
        assert [index for index, _ in rows] == [str(n) for n in range(file.rows)]
        if file.words:
            assert [word for _, word in rows] == [file.words[p] for p in expected], file.name
        else:
            scores = [float(value) for _, value in rows]
            assert scores == pytest.approx(np.clip(expected, 0, 5), abs=1e-5)
    submit(*names)
    assert (tmp_path / "glue.zip").read_bytes() == first
    submit("check=glue.zip")
    assert f"{files} files" in capsys.readouterr().out


def test_missing_files_are_named_and_nothing_is_written(submit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leaderboard, "FILES", tiny_table(TASKS))
    with pytest.raises(InputError, match="nothing is written: 8 findings.*draft=true"):
        submit("mnli-*")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: CoLA.tsv is missing: no run of cola is named" and len(said) == 8
    assert list(tmp_path.iterdir()) == []
    submit("mnli-*", "draft=true")
    assert capsys.readouterr().err.splitlines() == said
    assert zipfile.ZipFile("glue.zip").namelist() == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    with pytest.raises(SystemExit) as ended:
        submit("check=glue.zip")
    assert ended.value.code == 1
    assert "CoLA.tsv is missing" in capsys.readouterr().err


def test_test_sets_of_another_size_are_named(submit, tmp_path, capsys):
    with pytest.raises(InputError, match="nothing is written"):
        submit("rte-craft-*")
    assert "warning: RTE.tsv: 5 rows instead of the 3000 of GLUE's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_mini_glue_has_no_diagnostics_and_says_so(submit, tmp_path, capsys):
    submit("mnli-*", "data=mini", "draft=true")
    said = capsys.readouterr().err
    assert "AX.tsv is missing: mini-GLUE: task 'ax' is not one of cola, " in said
    assert "MNLI-m.tsv: 200 rows instead of the 9796 of GLUE's test set" in said


@pytest.mark.real_data
def test_the_rows_of_the_real_test_sets_are_those_of_the_table(submit, glue_dir, tmp_path, capsys):
    submit("stsb-craft-*", "data=local", f"data.dir={glue_dir}", "draft=true")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10 and all("is missing: no run of" in finding for finding in said)
    for file in FILES:
        if (path := glue_dir / task_of(file.task).folder / f"{file.split}.tsv").is_file():
            split, _ = sources.read_tsv(task_of(file.task), file.split, path)
            assert split.idx == list(range(file.rows)), file.name


REFUSED = {
    "two runs of a task": (["rte-*"], "rte has several runs, rte-craft-.* and rte-lora-.*"),
    "no such run": (["rte-dora-*"], "'rte-dora-\\*' is the name of no run in "),
    "nothing": ([], "no run is named"),
    "unknown option": (["rte-craft-*", "seed=1"], "'seed=1' is not one of runs=, out=, epoch="),
    "unknown epoch": (["rte-craft-*", "epoch=first"], "epoch 'first' is not one of best, last"),
    "unknown data": (["rte-craft-*", "data=web"], "data 'web' is not one of hub, local, mini"),
    "other weights": (["rte-craft-*", "model.path={bert}"], "rte-.* was trained on other weights"),
    "no weights": (["rte-craft-*", "model.path=nowhere"], "model.path: there is no config.json in"),
    "no such zip": (["check=nothing.zip"], "check: there is no file nothing.zip"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(case, submit, tiny_bert, tmp_path):
    arguments, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        submit(*(word.format(bert=tiny_bert) for word in arguments))
    assert list(tmp_path.iterdir()) == []


def test_record_older_than_a_setting_and_with_hidden_names_still_predicts(
    submit, runs, tmp_path, monkeypatch
):
    (name,) = [p.name for p in (runs.outputs / "runs").glob("wnli-*")]
    old = tmp_path / "old" / name
    shutil.copytree(runs.outputs / "runs" / name, old)
    made = json.loads((old / "record.json").read_text())
    config = made["provenance"]["config"]
    del config["train"]["tf32"]
    monkeypatch.setattr("getpass.getuser", lambda: runs.glue.parent.name)
    config["data"]["dir"] = str(runs.glue).replace(runs.glue.parent.name, "$USER")
    Record.of(made).write(old / "record.json")
    monkeypatch.setattr(leaderboard, "FILES", tiny_table(["wnli"]))
    submit("wnli-*", f"runs={tmp_path / 'old'}", "out=old.zip", "epoch=last")
    assert len(tsv("old.zip", "WNLI")) == 6
