"""What enters results/: clean ok runs, without local paths, with their result untouched."""

import json

import pytest
from made_records import CONFIGS, make_run

from craft.bench.report.load import load
from craft.bench.report.resampling import Resampled
from craft.bench.run.finished.promote import promote
from craft.bench.run.record import Record
from craft.errors import InputError


def names(folder):
    return sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []


def test_promoted_runs_read_as_they_were_and_a_second_time_changes_nothing(tmp_path):
    runs, results = tmp_path / "outputs" / "runs", tmp_path / "results"
    made = [make_run(runs, "rte", seed=seed, source="local", model="local") for seed in (0, 1)]
    done = promote(runs, results, ["rte-*"])
    assert len(done.copied) == 2 and not done.unchanged
    before = {p: p.read_bytes() for p in results.rglob("*.*")}
    assert promote(runs, results, ["rte-*", made[0]["provenance"]["name"]]).unchanged == done.copied
    assert {p: p.read_bytes() for p in results.rglob("*.*")} == before
    there = load([results / "runs"], CONFIGS)
    here = load([runs], CONFIGS)
    assert there.scores.equals(here.scores) and not there.left_out
    assert set(Resampled(there).scores) == {m["id"] for m in made}


def test_local_paths_are_cut_and_the_result_is_not_touched(tmp_path):
    made = make_run(tmp_path / "runs", "rte", source="local", model="local")
    promote(tmp_path / "runs", tmp_path / "results", ["*"])
    path = next((tmp_path / "results" / "runs").glob("*.json"))
    kept = Record.read(path).plain()
    assert kept["result"] == made["result"] and kept["result_sha256"] == made["result_sha256"]
    config = kept["provenance"]["config"]
    assert config["model"]["path"] == "tiny" and config["data"]["dir"] == "glue"
    assert config["outputs"] == "outputs"
    assert "data.dir=glue" in kept["provenance"]["command"]
    assert "outputs=out " in kept["provenance"]["command"]
    text = path.read_text()
    assert "/home" not in text and "/data" not in text and ".." not in kept["provenance"]["command"]
    assert config["model"]["repository"] == made["provenance"]["config"]["model"]["repository"]


def test_a_changed_checkout_is_refused_by_name_or_marked(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    make_run(runs, "rte", seed=0)
    dirty = make_run(runs, "rte", seed=1, dirty=True)["provenance"]["name"]
    unknown = make_run(runs, "rte", seed=2, dirty=None)["provenance"]["name"]
    with pytest.raises(InputError, match="changes") as error:
        promote(runs, results, ["*"])
    assert dirty in str(error.value) and unknown in str(error.value)
    assert not names(results / "runs")
    promote(runs, results, ["*"], allow_dirty=True)
    kept = json.loads((results / "runs" / f"{dirty}.json").read_text())
    assert "--allow-dirty" in kept["provenance"]["promoted"]


def test_runs_that_are_not_ok_or_not_there_are_refused(tmp_path):
    make_run(tmp_path, "rte", seed=0, status="diverged")
    with pytest.raises(InputError, match="not ok"):
        promote(tmp_path, tmp_path / "results", ["rte-*"])
    with pytest.raises(InputError, match="'cola-.*' is the name of no run"):
        promote(tmp_path, tmp_path / "results", ["cola-*"])


def test_large_predictions_stay_behind(tmp_path):
    made = make_run(tmp_path / "runs", "rte", n=7000)
    done = promote(tmp_path / "runs", tmp_path / "results", ["*"])
    assert done.without_predictions == [made["provenance"]["name"]]
    assert names(tmp_path / "results" / "runs") and not names(tmp_path / "results" / "predictions")
