"""Records of every kind: what reaches the tables, by which name, and what is left out by name."""

import json

import pandas as pd
import pytest
from made_records import CONFIGS, make_folder, make_run

from craft.bench.report.load import load
from craft.bench.report.resampling import Resampled
from craft.bench.report.tables.backbones import encoder_table
from craft.bench.report.tables.cells import (
    cell_text,
    cells,
    detail_table,
    intervals,
    mark_notes,
    marks,
    rows,
    score_table,
)
from craft.bench.run import record
from craft.bench.run.identity import KNOWN
from craft.bench.run.record import Record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    make_folder(place, tasks=("rte", "cola"), seeds=3)
    return place


def test_one_row_per_run_and_metric(folder):
    records = load([folder], CONFIGS)
    assert len(records.runs) == 2 * 3 * 3
    assert len(records.scores) == 9 * 1 + 9 * 2  # RTE has one metric, CoLA two
    made = json.loads(next(folder.glob("cola-lora-*-s1-*/record.json")).read_text())
    chosen = records.scores[records.scores["id"] == made["id"]].set_index("metric")
    assert chosen.loc["accuracy", "best"] == made["result"]["score"]["best"]["accuracy"]
    assert chosen.loc["matthews", "last"] == made["result"]["score"]["last"]["matthews"]
    assert list(chosen["is_headline"]) == [True, False]
    row = chosen.iloc[0]
    assert (row["suite"], row["model"], row["method"], row["seed"]) == (
        "mini",
        "roberta_mini",
        "LoRA",
        1,
    )
    assert (row["parameters_adapter"], row["parameters_head"]) == (294_912, 592_130)
    assert row["parameters_backbone"] == 124_055_040
    assert (row["best_epoch"], row["epochs"], row["n_dev"]) == (2, 3, 60)
    assert not records.left_out and records.unsuccessful.empty


def test_damaged_foreign_and_older_records_are_named_and_left_out(tmp_path):
    good = make_run(tmp_path, "rte", seed=0)
    other = make_run(tmp_path, "rte", seed=1)
    foreign = make_run(tmp_path, "rte", seed=2)
    paths = {
        made["provenance"]["name"]: tmp_path / made["provenance"]["name"] / "record.json"
        for made in (good, other, foreign)
    }
    old, lacking = paths[other["provenance"]["name"]], paths[foreign["provenance"]["name"]]
    old.write_text(json.dumps(other | {"schema": 0}))
    lacking.write_text(json.dumps({k: v for k, v in foreign.items() if k != "provenance"}))
    texts = {"damaged": '{"schema": 1', "alien": '{"a": 1}', "list": "[]"}
    texts |= {"nan": '{"schema": 1, "result": {"a": NaN}, "result_sha256": "0"}'}
    texts |= {"unsigned": '{"schema": 1, "result": {}}'}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    changed = json.loads(make_run_text(tmp_path))
    changed["result"]["score"]["best"]["accuracy"] = 0.99
    (tmp_path / "typed").mkdir()
    (tmp_path / "typed" / "record.json").write_text(json.dumps(changed))
    nameless = json.loads(make_run_text(tmp_path))
    del nameless["result"]["config"]["model.digest"]
    nameless |= {"id": "another", "result_sha256": record.digest(nameless["result"])}
    (tmp_path / "nameless").mkdir()
    (tmp_path / "nameless" / "record.json").write_text(json.dumps(nameless))
    records = load([tmp_path], CONFIGS)
    assert list(records.runs["name"]) == [good["provenance"]["name"]]
    assert len(records.left_out) == 9
    for name in (str(old), str(lacking), *(f"/{n}/" for n in (*texts, "typed", "nameless"))):
        assert sum(name in line for line in records.left_out) == 1, name


def make_run_text(folder):
    made = make_run(folder / "aside", "rte", seed=0)
    path = next((folder / "aside").glob("*/record.json"))
    text = path.read_text()
    path.unlink()
    assert made["result"]["score"]["best"]["accuracy"] != 0.99
    return text


def test_failed_and_diverged_runs_are_apart(tmp_path):
    make_run(tmp_path, "rte", seed=0)
    make_run(tmp_path, "rte", seed=1, status="failed")
    make_run(tmp_path, "rte", seed=2, status="diverged")
    records = load([tmp_path], CONFIGS)
    assert list(records.runs["seed"]) == [0]
    assert sorted(records.unsuccessful["status"]) == ["diverged", "failed"]
    assert set(records.unsuccessful["error"]) == {"", "InputError: no"}


def test_suite_and_model_come_from_the_record(tmp_path):
    for model, source in (
        ("roberta_mini", "mini"),
        ("roberta_base", "local"),
        ("roberta_base", "mini"),
        ("roberta_mini", "local"),
        ("local", "local"),
    ):
        make_run(tmp_path, model=model, source=source)
    found = load([tmp_path], CONFIGS).runs[["suite", "model"]]
    assert set(found.itertuples(index=False, name=None)) == {
        ("mini", "roberta_mini"),
        ("paper", "roberta_base"),
        ("mini", "roberta_base"),
        ("small", "roberta_mini"),
        ("small", "local-aaaaaaaa"),
    }


def test_encoder_of_an_older_record_has_the_name_of_its_known_weights(tmp_path):
    weights = next(w for w, known in KNOWN.items() if known.name == "all-MiniLM-L6-v2")
    make_run(tmp_path, model="local", source="local", weights=weights)
    records = load([tmp_path], CONFIGS)
    assert set(records.runs["model"]) == {"all-MiniLM-L6-v2"}
    (row,) = encoder_table(records).rows
    assert row == [
        "all-MiniLM-L6-v2", "GLUE, small encoder", "bert", "124.1M", "apache-2.0",
        weights[:8], KNOWN[weights].tokenizer[:8], "-",
    ]  # fmt: skip


def test_name_alone_makes_no_paper_model(tmp_path):
    make_run(tmp_path, model="roberta_base", source="local", verified=None)
    make_run(tmp_path, "cola", model="roberta_large", source="local", verified="architecture")
    records = load([tmp_path], CONFIGS)
    found = records.runs[["suite", "model"]]
    assert set(found.itertuples(index=False, name=None)) == {
        ("small", "roberta_base"),
        ("paper", "roberta_large"),
    }
    words = {row[0]: row[-1] for row in encoder_table(records).rows}
    assert words["roberta_base"] == "-" and "architecture" not in words["roberta_base"]
    assert words["roberta_large"] == "published config, shapes and tokenizer alone"


def test_settings_tell_rows_apart_and_no_seed_counts_twice(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=0, peft={"ranks": [12, 32, 32]})
    make_run(tmp_path, seed=0, train={"lr": 0.5})
    make_run(
        tmp_path, seed=1, train={"precision": "bf16"}
    )  # another seed: how it was computed does not matter
    make_run(tmp_path, seed=1, train={"threads": 2}, method="lora")
    make_run(tmp_path, seed=1, train={"threads": 4}, method="lora")
    records = load([tmp_path], CONFIGS)
    found = records.runs.groupby(["method", "settings"])["seed"].apply(list).to_dict()
    assert found == {
        ("CRAFT", ""): [0, 1],
        ("CRAFT", "ranks=(12, 32, 32)"): [0],
        ("CRAFT", "lr=0.5"): [0],
        ("LoRA", "threads=2"): [1],
        ("LoRA", "threads=4"): [1],
    }


def test_open_settings_of_an_unknown_encoder_show_only_where_they_vary(tmp_path):
    make_run(tmp_path, "rte", model="local", source="local", train={"lr": 0.001})
    make_run(tmp_path, "cola", model="local", source="local", train={"lr": 0.002})
    make_run(tmp_path, "cola", model="local", source="local", train={"lr": 0.004})
    found = load([tmp_path], CONFIGS).runs
    assert dict(found.groupby("task")["settings"].apply(list)) == {
        "rte": [""],
        "cola": ["lr=0.002", "lr=0.004"],
    }


def test_other_weights_under_one_name_are_another_model(tmp_path):
    make_run(tmp_path, "rte")
    make_run(tmp_path, "cola", weights="b" * 64)
    found = load([tmp_path], CONFIGS).runs
    assert set(found["model"]) == {"roberta_mini-aaaaaaaa", "roberta_mini-bbbbbbbb"}


def test_a_run_in_two_folders_counts_once(folder):
    assert len(load([folder, folder], CONFIGS).runs) == 18


def test_no_records(tmp_path):
    records = load([tmp_path], CONFIGS)
    assert records.runs.empty and records.scores.empty and cells(records.runs).empty


def test_cells_are_own_arithmetic(tmp_path):
    for seed, best in enumerate((0.5, 0.7, 0.9, 0.6)):
        make_run(tmp_path, "rte", seed=seed, best=best, last_drop=0.1)
    make_run(tmp_path, "cola", seed=0, quality=0)
    found = cells(load([tmp_path], CONFIGS).runs).set_index("task")
    rte = found.loc["rte"]
    assert rte["n"] == 4 and rte["seeds"] == "0 1 2 3"
    assert rte["mean"] == pytest.approx(0.675) and "median" not in found
    assert rte["sd"] == pytest.approx((((0.175**2) + 0.025**2 + 0.225**2 + 0.075**2) / 3) ** 0.5)
    assert rte["last_mean"] == pytest.approx(0.575) and rte["last_sd"] == pytest.approx(rte["sd"])
    assert found.loc["cola", "collapsed"] == 1 and found.loc["cola", "mean"] == 0.0
    assert pd.isna(found.loc["cola", "sd"])
    assert cell_text(rte) == "67.5 ± 17.1 / 57.5 ± 17.1 (4)"
    assert cell_text(found.loc["cola"]) == "0.0 / -1.0 (1; c1; e1)"
    assert cell_text(None) == "-"


def test_a_run_that_collapses_after_its_best_epoch_is_marked(tmp_path):
    """From the record where it says so, else from the predictions; unknown without either."""
    first = make_run(tmp_path, "rte", seed=0, constant_at_last=True)
    make_run(tmp_path, "rte", seed=1)
    bare = make_run(tmp_path, "rte", seed=2, constant_at_last=True)
    said = make_run(tmp_path, "rte", seed=3)
    for made in (bare, said):
        (tmp_path / made["provenance"]["name"] / "predictions.safetensors").unlink()
    said["result"]["score"]["collapsed_last"] = True
    said["result_sha256"] = record.digest(said["result"])
    Record.of(said).write(tmp_path / said["provenance"]["name"] / "record.json")
    runs = load([tmp_path], CONFIGS).runs
    assert list(runs["collapsed"]) == [False] * 4
    assert list(runs["collapsed_last"])[:2] == [True, False]
    assert pd.isna(runs["collapsed_last"].iloc[2]) and runs["collapsed_last"].iloc[3]
    assert first["id"] == runs.index[0]
    found = cells(runs)
    assert marks(found.iloc[0]) == "4; e2"
    assert [n for n in mark_notes(found) if n.startswith("e1")] and not [
        n for n in mark_notes(found) if n.startswith("c1")
    ]
    detail = detail_table(
        found, "mini", "roberta_mini", intervals(runs, Resampled(load([], CONFIGS)))
    )
    line = dict(zip(detail.header, detail.rows[0], strict=True))
    assert line["collapsed"] == "0 of 4" and line["at the last"] == "2 of 3"


def test_average_needs_every_task_of_the_table(tmp_path):
    for task, best in (("rte", 0.6), ("cola", 0.4)):
        make_run(tmp_path, task, best=best)
    make_run(tmp_path, "rte", "lora", best=0.8)
    table = score_table(cells(load([tmp_path], CONFIGS).runs), "mini", "roberta_mini")
    assert table.header[-1] == "mean of 2"
    by_method = {row[0]: row for row in table.rows}
    assert by_method["CRAFT"][-1] == "50.0"
    assert by_method["LoRA"][3:] == ["-", "80.0 / 79.0 (1)", "-"]
    assert "CoLA, RTE" in " ".join(table.notes)
    assert "synthetic, not GLUE" in table.title


def test_a_start_from_mnli_is_a_row_of_its_own(tmp_path):
    make_run(tmp_path, "rte", best=0.6)
    make_run(tmp_path, "cola", best=0.4)
    for seed in (0, 1):
        make_run(tmp_path, "rte", seed=seed, best=0.8, start_from="mnli")
    found = cells(load([tmp_path], CONFIGS).runs)
    plain, started = rows(found)
    assert (plain.name, started.name) == ("CRAFT", "CRAFT (MNLI start)")
    assert plain.average(("rte", "cola")) == pytest.approx(0.5)
    assert started.average(("rte", "cola")) == pytest.approx(0.6)
    assert "(2; m)" in cell_text(started.cells["rte"]) and started.cells["cola"]["start_from"] == ""


def test_other_data_is_never_in_the_same_row(tmp_path):
    make_run(tmp_path, "rte", seed=0, source="local")
    make_run(tmp_path, "rte", seed=1, source="hub")
    settings = list(load([tmp_path], CONFIGS).runs["settings"])
    assert len(set(settings)) == 2 and all(s.startswith("data=") for s in settings)


def test_folds_of_one_setting_are_the_seeds_of_one_cell(tmp_path):
    for method in ("craft", "lora"):
        for number in range(3):
            for permutation in (0, 1):
                make_run(tmp_path, method=method, seed=0, fold=(number, 5, permutation))
    make_run(tmp_path, seed=0, fold=(0, 2, 0))
    make_run(tmp_path, seed=0)
    runs = load([tmp_path], CONFIGS).runs
    found = cells(runs).set_index(["method", "settings"])["n"].to_dict()
    assert found == {
        ("CRAFT", ""): 1,
        ("CRAFT", "selection=fold"): 6,
        ("CRAFT", "fold.count=2, selection=fold"): 1,
        ("LoRA", "selection=fold"): 6,
    }
    assert set(runs["fold"]) == {
        "",
        "0 of 2, permutation 0",
        *(f"{n} of 5, permutation {p}" for n in range(3) for p in (0, 1)),
    }


def test_what_a_control_draws_in_each_fold_is_no_setting_unless_a_fold_would_count_twice(tmp_path):
    drawn = {"decomposition": "random"}
    for number in range(3):
        peft = drawn | {"decomposition_seed": number}
        make_run(tmp_path, seed=number, fold=(number, 5, 0), peft=peft)
    assert list(cells(load([tmp_path], CONFIGS).runs)["n"]) == [3]
    make_run(tmp_path, seed=0, fold=(0, 5, 0), peft=drawn | {"decomposition_seed": 7})
    assert set(cells(load([tmp_path], CONFIGS).runs)["n"]) == {1}
