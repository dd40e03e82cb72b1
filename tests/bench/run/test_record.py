"""A run's record: what makes it the same run, what it holds, and when a run is not done again."""

import copy
import dataclasses
import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from tiny_bench import CONFIGS, Bench, compose, task_of

import craft.bench.run.execute
import craft.bench.run.run
import craft.bench.training.loop
from craft.bench.glue import sources
from craft.bench.glue.metrics import predictions_of, score
from craft.bench.glue.tokens import encode
from craft.bench.model import packing
from craft.bench.model.build import build
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run import record
from craft.bench.run.identity import KNOWN, Known, identity
from craft.bench.run.inputs import Planner
from craft.bench.run.record import Record
from craft.bench.settings.declared import Effect, flatten, plain, read
from craft.bench.settings.sections import DECLARED, Model, declaration
from craft.bench.training import memory
from craft.bench.training.batches import layout_of
from craft.bench.training.loop import Interrupted, fit, predict
from craft.errors import InputError
from craft.files import digest_of_tensors, read_tensors, write_json

ON_FILE = CONFIGS.parent / "results"
CHOICES = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    for group in ("method", "model", "data", "logger", "train", "task")
}


def changed(config, key, value):
    """The checked config with another value at a dotted key."""
    config = copy.deepcopy(config)
    *parents, last = key.split(".")
    section = config
    for name in parents:
        section = getattr(section, name)
    object.__setattr__(section, last, value)
    return config


def id_of(config, model="weights", data="texts", tokenizer="vocabulary"):
    return record.digest(identity(plain(config), model, data, tokenizer))


def refuse(*_):
    raise AssertionError("trained again")


# --- identity


@pytest.mark.parametrize("group", CHOICES)
def test_every_key_of_every_choice_is_declared(group):
    for choice in CHOICES[group]:
        cfg = compose("model=roberta_base", f"{group}={choice}")
        for key, _ in flatten(OmegaConf.to_container(cfg, resolve=False)):
            if not key.startswith("stated."):  # copies of others
                declaration(key)  # refuses a key that is not


def test_undeclared_key_is_refused():
    for key in ("new", "train.new", "method.new"):
        with pytest.raises(InputError, match=f"{key} is declared nowhere"):
            declaration(key)


def test_comments_of_the_files_are_the_help_of_the_settings():
    """The help of a setting stands behind its key, in configs/train.yaml or train/default.yaml."""
    said = {}
    for name, path in (("train.yaml", []), ("train/default.yaml", ["train"])):
        parents = [*path]
        for line in (CONFIGS / name).read_text().splitlines():
            found = re.match(r"( *)(\w+):([^#]*)(?:# (.*))?$", line)
            if not found:
                continue
            parents = [*parents[: len(path) + len(found[1]) // 2], found[2]]
            said[".".join(parents)] = found[4] or ""
    assert said.keys() >= {k for k in DECLARED if k.split(".")[0] in ("train", "fold")}
    for key, one in DECLARED.items():
        if key in said and key not in ("task", "data", "method", "logger", "recipe"):
            assert said[key] == one.help, key


CHANGING = [k for k, one in DECLARED.items() if one.effect is not Effect.NOTHING]


@pytest.mark.parametrize("key", CHANGING)
def test_every_setting_that_changes_something_changes_the_id(key, bench):
    config = bench.config()
    value = {"_target_": "peft.LoraConfig"} if key == "method.peft" else "another"
    assert id_of(changed(config, key, value)) != id_of(config)


@pytest.mark.parametrize(
    "key", [*sorted(DECLARED.keys() - CHANGING), "model.path", "data.dir", "task.metrics"]
)
def test_no_other_setting_changes_the_id(key, bench):
    config = bench.config()
    if key in ("task", "task.metrics"):  # among its facts are the name and the headline, which do
        facts = dataclasses.replace(config.task, metrics=("f1",))
        assert id_of(changed(config, "task", facts)) == id_of(config)
    else:
        assert id_of(changed(config, key, "another")) == id_of(config)


def test_id_depends_on_the_content_of_weights_and_data(bench):
    config = bench.config()
    ids = {id_of(config), id_of(config, model="others"), id_of(config, data="others")}
    ids.add(id_of(config, tokenizer="others"))
    assert len(ids) == 4


@pytest.mark.parametrize("path", sorted(ON_FILE.glob("**/runs/*.json")), ids=lambda path: path.stem)
def test_records_on_file_keep_their_ids(path):
    made = Record.read(path).plain()
    kept, config = made["result"]["config"], made["provenance"]["config"]
    assert made["id"] == record.digest(kept)
    known = KNOWN.get(kept["model.digest"])
    if known is None and "tokenizer.digest" not in kept:  # of weights that are not there any more
        assert kept["model.digest"].startswith("d10574eb") and "search" in path.parts
        return
    tokenizer = kept["tokenizer.digest"] if known is None else known.tokenizer
    digests = (kept["model.digest"], kept["data.digest"], tokenizer)
    of_its_time = {k: kept[k] for k in ("protocol", "start_from.id") if k in kept}
    assert record.digest(identity(config, *digests) | of_its_time) == made["id"]
    other = identity(config, *digests[:2], "another") | of_its_time
    assert other == kept | {"tokenizer.digest": "another"}


def test_embedded_model_has_the_tokenizer_of_its_records():
    backbone = locate(read(Model, {"path": str(ON_FILE / "models" / "roberta-mini")}))
    facts = {k: v for k, v in backbone.facts().items() if k in Known._fields}
    assert KNOWN[backbone.digest]._asdict() == facts | {"name": "roberta_mini"}


def test_another_tokenizer_beside_the_same_weights_is_another_run(bench, tmp_path, monkeypatch):
    made = bench.run()
    folder = tmp_path / "encoder"
    shutil.copytree(bench.model, folder)
    (folder / "README.md").write_text("# not the tokenizer's")
    (folder / "other.json").write_text("{}")
    other = Bench(folder, bench.glue, bench.outputs)
    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", refuse)
        assert other.run() == made
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["truncation"] = {
        "direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    said = []
    again = other.run(said=said)
    assert again["id"] != made["id"] and not any("done already" in line for line in said)
    assert again["result"]["config"]["model.digest"] == made["result"]["config"]["model.digest"]


def test_value_that_is_neutral_is_not_part_of_the_identity(bench):
    """So that a new setting, neutral in all runs so far, orphans no record."""
    config = bench.config()
    kept = identity(plain(config), "", "", "")
    assert not kept.keys() & {"start_from", "train.accumulate", "train.batching", "train.tf32"}


def test_fields_at_the_default_of_their_class_are_left_out(bench):
    def kept(*more):
        return identity(plain(bench.config(*more, method="lora")), "", "", "")["method.peft"]

    usual = kept()
    assert usual == {"_target_": "peft.LoraConfig"}
    for written in ("+method.peft.lora_dropout=0.0", "+method.peft.bias=none", "method.peft.r=8"):
        assert kept(written) == usual
    assert kept("method.peft.r=4") == {**usual, "r": 4}
    default = bench.config("method.peft.ranks=[24,100,100]")
    assert identity(plain(default), "", "", "")["method.peft"] == {"_target_": "craft.CraftConfig"}


@pytest.mark.parametrize(
    "pair", [("train.lr=1", "train.lr=1.0"), ("train.clip=0", "train.clip=0.0")]
)
def test_whole_number_and_its_float_are_one_value(pair, bench):
    assert id_of(bench.config(pair[0])) == id_of(bench.config(pair[1]))


def test_method_that_is_no_peft_config_is_refused(bench):
    for target in ("craft.Nothing", "nowhere.LoraConfig", "builtins.dict"):
        config = changed(bench.config(), "method.peft", {"_target_": target})
        with pytest.raises(InputError, match=f"method.peft._target_: {target} is no PeftConfig"):
            identity(plain(config), "", "", "")


# --- done already, or not


def test_finished_run_says_so_and_is_not_trained_again(bench, monkeypatch):
    made = bench.run()
    monkeypatch.setattr(craft.bench.run.execute, "fit", refuse)
    said = []
    assert bench.run(said=said) == made
    score, path = made["result"]["score"], bench.folder() / "record.json"
    headline = f"accuracy {score['best']['accuracy']:.4f} (epoch {score['best_epoch']})"
    assert said == [f"{bench.folder().name}: done already ({headline}); its record is {path}"]
    assert len(made["provenance"]["attempts"]) == 1


def test_finished_run_is_found_wherever_its_inputs_lie_now(bench, tmp_path, monkeypatch):
    made = bench.run()
    monkeypatch.setattr(craft.bench.run.execute, "fit", refuse)
    (tmp_path / "moved").symlink_to(bench.glue)
    (tmp_path / "model").symlink_to(bench.model)
    other = Bench(tmp_path / "model", tmp_path / "moved", bench.outputs)
    more = ["model.name=mine", "method.label=Ours", "train.checkpoint_minutes=1"]
    assert other.run(*more) == made


def test_run_that_failed_does_not_block(bench, monkeypatch):
    def broken(model, loop):
        raise RuntimeError("out of luck\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            bench.run()
    failed = Record.read(bench.folder() / "record.json").plain()
    assert failed["status"] == "failed" and failed["error"] == "RuntimeError: out of luck"
    assert failed["result"] is None and failed["result_sha256"] is None
    assert any("broken" in line for line in failed["provenance"]["traceback"])
    assert failed["provenance"]["attempts"][0]["ended"] == "failed"
    made = bench.run()
    assert made["status"] == "ok"
    assert made["result"] == bench.elsewhere("other").run()["result"]


def refuse_late(model, loop):
    fit(model, loop)
    raise InputError("a word too late")


def test_refusal_after_the_first_step_is_a_failed_run_and_removes_nothing(bench, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", refuse_late)
        with pytest.raises(InputError, match="a word too late"):
            bench.run("train.checkpoint_minutes=0")
    folder = bench.folder()
    assert {path.name for path in folder.iterdir()} == {
        "attempts.json",
        "checkpoint.safetensors",
        "record.json",
    }
    failed = Record.read(folder / "record.json").plain()
    assert (failed["status"], failed["error"]) == ("failed", "InputError: a word too late")
    assert failed["provenance"]["attempts"][0]["ended"] == "failed"
    made = bench.run()
    assert made["result"] == bench.elsewhere("other").run()["result"]


@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape")
@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (["method.peft.ranks='energy:0.9'"], None),  # as many as its effective ranks say
        (["method.peft.ranks=0.25"], 2 * (1 + 2 * 8**2)),
        (["+method.peft.j=diagonal"], 2 * (2 + 2 * 8)),
        (["+method.peft.layer_blocks=2"], 2 * 2 * (1 + 2 * 8**2)),
        (["+method.peft.modes=[1,3]"], 2 * (2**2 + 8**2)),
        (["+method.peft.train_core=true"], 2 * (2**2 + 2 * 8**2 + 2 * 8**2)),
    ],
)
def test_record_counts_what_a_variant_trains(given, numbers, bench):
    made = bench.run(*given, "train.epochs=1")
    parameters = made["result"]["parameters"]
    if numbers is None:
        numbers = sum(r**2 for ranks in parameters["effective_ranks"].values() for r in ranks)
    assert made["status"] == "ok" and parameters["adapter"] == numbers
    assert "closed_form" not in made["provenance"]  # its formula knows no such variant


def test_failure_after_training_keeps_adapter_and_predictions(bench, monkeypatch):
    def full(*_):
        raise InputError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.run, "Record", full)
        with pytest.raises(InputError, match="no room"):
            bench.run()
    left = {path.name for path in bench.folder().iterdir()}
    assert {"attempts.json", "best", "last", "predictions.safetensors"} <= left


def test_record_says_its_own_experiment_of_those_that_were_swept(bench):
    line = bench.overrides("train.clip=0.5")
    overrides, command = [*line, "experiment=mini"], "craft train -m experiment=mini,ranks"
    made = craft.bench.run.run.carry_out(compose(*line), overrides, command, lambda: False)
    assert made.provenance["experiment"] == "mini" and made.provenance["row"] is None
    assert made.provenance["differs"]["train.clip"] == 0.5


def test_result_that_no_json_can_hold_is_a_failed_record(bench, monkeypatch):
    monkeypatch.setattr("craft.bench.glue.metrics.score", lambda *_: {"accuracy": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        bench.run("train.epochs=1")  # which writes no checkpoint that would refuse it
    (failed,) = [r for _, r in record.read_all(bench.outputs)]
    assert failed.status == "failed" and "JSON compliant" in str(failed.error)
    assert failed.provenance["attempts"][-1]["ended"] == "failed"


def at_the_door(*_):
    raise InputError("not with this model")


def test_refusal_at_the_door_leaves_no_folder(bench, monkeypatch):
    monkeypatch.setattr(craft.bench.run.execute, "prepare", at_the_door)
    with pytest.raises(InputError, match="not with this model"):
        bench.run()
    assert list((bench.outputs / "runs").iterdir()) == []


@pytest.mark.parametrize("attempts", ["sound", "damaged", "missing"])
def test_refusal_at_the_door_removes_nothing_of_earlier_attempts(attempts, bench, monkeypatch):
    with pytest.raises(Interrupted):
        bench.run(stop=lambda: True)
    path = bench.folder() / "attempts.json"
    if attempts == "damaged":
        path.write_text("[{")
    elif attempts == "missing":
        path.unlink()
    before = {p.name: p.read_bytes() for p in bench.folder().iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "prepare", at_the_door)
        with warnings.catch_warnings(), pytest.raises(InputError, match="not with this model"):
            warnings.filterwarnings("ignore", message=".*set aside as attempts.json.damaged")
            bench.run()
    if attempts == "damaged":
        before["attempts.json.damaged"] = before.pop("attempts.json")
    assert {p.name: p.read_bytes() for p in bench.folder().iterdir()} == before
    assert bench.run()["result"] == bench.elsewhere("other").run()["result"]


def test_folder_that_was_there_empty_stays(bench, monkeypatch):
    monkeypatch.setattr(craft.bench.run.execute, "prepare", at_the_door)
    folder = Planner().inputs(bench.config()).folder.path
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="not with this model"):
        bench.run()
    assert list(folder.iterdir()) == []


def test_run_that_diverged_does_not_block(bench, monkeypatch):
    def diverged(model, loop):
        return dataclasses.replace(fit(model, loop), status="diverged")

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", diverged)
        assert bench.run()["status"] == "diverged"
    made = bench.run()
    assert made["status"] == "ok"
    assert [a["ended"] for a in made["provenance"]["attempts"]] == ["diverged", "ok"]


def test_attempts_are_counted_and_their_time_summed(bench, monkeypatch):
    def broken(model, loop):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(craft.bench.run.execute, "fit", broken)
        with pytest.raises(RuntimeError):
            bench.run()
    with pytest.raises(Interrupted):
        bench.run(stop=lambda: True)
    found = bench.run()["provenance"]
    assert [a["ended"] for a in found["attempts"]] == ["failed", "interrupted", "ok"]
    assert found["started"] == found["attempts"][0]["started"]
    assert found["seconds"] == pytest.approx(sum(a["seconds"] for a in found["attempts"]), abs=2e-3)
    assert all(a["seconds"] > 0 for a in found["attempts"])


def test_refused_input_leaves_nothing_behind(bench, monkeypatch):
    with pytest.raises(InputError, match="train.max_length 65 exceeds the 64 positions"):
        bench.run("train.max_length=65")
    assert bench.files() == []
    with pytest.raises(Interrupted):
        bench.run(stop=lambda: True)
    before = {path: path.read_bytes() for path in bench.files()}
    monkeypatch.setattr(
        craft.bench.run.execute, "tracker", lambda *_: (_ for _ in ()).throw(InputError("no"))
    )
    with pytest.raises(InputError):
        bench.run()
    assert {path: path.read_bytes() for path in bench.files()} == before


@pytest.mark.parametrize("damage", ["cut", "schema", "result", "list"])
def test_damaged_record_is_named_and_the_run_done_again(damage, bench):
    made = bench.run()
    path = bench.folder() / "record.json"
    content = json.loads(path.read_text())
    if damage == "schema":
        content["schema"] = 99
    if damage == "result":
        content["result"]["score"]["best"]["accuracy"] = 1.0
    whole = json.dumps([] if damage == "list" else content)
    path.write_text(whole[: len(whole) // 2] if damage == "cut" else whole)
    with pytest.warns(
        UserWarning, match=r"record\.json: (not a run record|schema 99|the result does)"
    ):
        again = bench.run()
    assert again["result_sha256"] == made["result_sha256"]
    assert Record.read(path) == Record.of(again)


def test_read_all_names_what_it_leaves_out(bench):
    bench.run()
    bench.run(method="lora")
    made = [found.id for _, found in record.read_all(bench.outputs)]
    assert len(made) == 2
    first = next(iter(record.read_all(bench.outputs)))[0]
    first.write_text("{")
    with pytest.warns(UserWarning, match=f"left out: {first}: not a run record"):
        assert [found.id for _, found in record.read_all(bench.outputs)] == made[1:]


# --- the record


def test_same_run_in_another_folder_has_the_same_result(bench):
    first, second = bench.run(), bench.elsewhere("other").run()
    assert first["result_sha256"] == second["result_sha256"] == record.digest(second["result"])
    assert first["result"] == second["result"]
    assert first["id"] == second["id"]


def test_record_holds_what_a_reader_asks(bench):
    made = bench.run("train.max_length=24")
    written = (bench.folder() / "record.json").read_text()

    def never(constant):
        raise AssertionError(constant)

    assert json.loads(written, parse_constant=never) == made
    assert {"schema", "protocol", "id", "status", "error", "result_sha256"} <= made.keys()
    result, found = made["result"], made["provenance"]
    known = {"headline", "best", "last", "best_epoch", "collapsed", "collapsed_last"}
    assert result["score"].keys() == known
    assert [entry.keys() for entry in result["history"]] == [
        {"epoch", "step", "loss", "lr", "accuracy"}
    ] * 2
    assert {"adapter", "head", "total", "effective_ranks"} <= result["parameters"].keys()
    assert result["parameters"]["adapter"] == 2 * (2 * 2 + 8 * 8 + 8 * 8)
    assert result["parameters"]["head"] == 32 * 32 + 32 + 2 * 32 + 2
    assert result["parameters"]["effective_ranks"] == {"query": [2, 8, 8], "value": [2, 8, 8]}
    assert (result["steps"], result["skipped_steps"]) == (6, 0)
    assert {"name", "command", "started", "seconds", "attempts", "recipe"} <= found.keys()
    assert found["config"]["train"]["max_length"] == 24
    assert found["config"]["method"]["peft"]["ranks"] == [2, 8, 8]
    assert found["model"] == {
        "name": bench.model.name, "licence": None, "model_type": "roberta", "repository": None,
        "revision": None, "verified": None,
        "digest": result["config"]["model.digest"],
        "tokenizer": result["config"]["tokenizer.digest"],
        "parameters": locate(read(Model, {"path": str(bench.model)})).parameters,
    }  # fmt: skip
    assert found["data"]["source"] == {"source": "local"}
    assert found["data"]["examples"] == {"train": 20, "validation": 12}
    assert found["data"]["skipped_rows"] == {}
    assert len(found["data"]["digest"]) == 64
    assert found["start_from"] is None
    assert found["tokens"]["max_length"] == 24
    assert 0 < found["tokens"]["cut"]["train"] < 1
    assert {"commit", "dirty", "versions", "hardware"} == found["environment"].keys()
    versions = {"python", "torch", "transformers", "peft", "datasets"}
    assert versions <= found["environment"]["versions"].keys()
    assert {"cpu", "cores", "gpu", "cuda", "driver"} == found["environment"]["hardware"].keys()
    cost = {
        "attach_seconds", "train_seconds", "eval_seconds", "epoch_seconds", "steps_per_second",
        "tokens_per_second", "peak_megabytes", "adapter_bytes",
    }  # fmt: skip
    assert cost == found["cost"].keys()
    assert len(found["cost"]["epoch_seconds"]) == 2


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak is counted anew here"
)
def test_peak_of_memory_is_this_runs_not_an_earlier_ones(bench):
    first = bench.run("seed=1")["provenance"]["cost"]["peak_megabytes"]  # with all its imports
    large = torch.ones(500, 2**20, dtype=torch.uint8)  # 500 MB
    assert memory.host_peak() > first["host"] + 400
    del large
    assert memory.host_peak() > first["host"] + 400
    found = bench.run("seed=2")["provenance"]["cost"]["peak_megabytes"]
    assert abs(found["host"] - first["host"]) < 250 and found["gpu"] is None

    started = "import os, sys; sys.path[0] = os.getcwd(); from craft.bench.training import memory; "
    large = torch.ones(2000, 2**20, dtype=torch.uint8)  # of the process that starts the other
    done = subprocess.run(
        [sys.executable, "-c", started + "print(memory.host_peak())"],
        cwd=CONFIGS.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 1500 < len(large)


def test_record_counts_useful_tokens(bench):
    result = bench.run("train.epochs=3")["result"]
    tokenizer = tokenizer_of(locate(bench.config().model))
    config = bench.config()
    train = sources.load(config.task, config.data, ["train"]).splits["train"]
    tokens = encode(train, config.task, tokenizer, config.train.max_length)
    assert result["tokens"] == 3 * tokens.lengths.sum()


def test_record_counts_the_rows_left_out(bench, tmp_path):
    path = tmp_path / "glue" / "QQP"
    path.mkdir(parents=True)
    for file in (bench.glue / "QQP").iterdir():
        (path / file.name).write_text(file.read_text() + "cut\tshort\n")
    other = Bench(bench.model, tmp_path / "glue", bench.outputs)
    with pytest.warns(UserWarning, match="1 broken rows"):
        made = other.run(task="qqp")
    assert made["provenance"]["data"]["skipped_rows"] == {"train": 1, "validation": 1}


def test_record_never_holds_the_name_of_the_user_or_the_machine(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "turing")
    monkeypatch.setattr(platform, "node", lambda: "bletchley")
    home = tmp_path / "turing"
    home.mkdir()
    (home / "bletchley").symlink_to(bench.glue)
    (home / "model").symlink_to(bench.model)
    other = Bench(home / "model", home / "bletchley", home / "outputs")
    command = f"python scripts/train.py data.dir={home}/bletchley outputs='{home}/outputs'"
    made = craft.bench.run.run.run(other.config(), command, lambda: False, print)
    assert made.provenance["config"]["data"]["dir"] == f"{tmp_path}/$USER/$HOSTNAME"
    written = (other.folder() / "record.json").read_text()
    assert "turing" not in written and "bletchley" not in written

    def broken(model, loop):
        raise RuntimeError(f"no space in {home}/outputs")

    monkeypatch.setattr(craft.bench.run.execute, "fit", broken)
    with pytest.raises(RuntimeError):
        other.run("seed=1")
    (failed,) = [r for _, r in record.read_all(other.outputs) if r.status == "failed"]
    assert "turing" not in json.dumps(failed.plain())
    assert failed.error == f"RuntimeError: no space in {tmp_path}/$USER/outputs"


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


# --- predictions and adapters


@pytest.mark.parametrize("name", ["rte", "mnli", "stsb", "mrpc", "cola"])
def test_predictions_hold_logits_labels_and_rows_and_give_the_records_scores(name, bench):
    made = bench.run("train.epochs=3", task=name)
    task, result = task_of(name), made["result"]
    tensors, facts = read_tensors(bench.folder() / "predictions.safetensors")
    assert facts == {"task": name}
    assert set(tensors) == {f"{k}.{s}" for k in ("best", "last", "labels", "idx") for s in task.dev}
    assert digest_of_tensors(tensors) == result["predictions_sha256"]
    labels = {split: tensors[f"labels.{split}"].tolist() for split in task.dev}
    for epoch in ("best", "last"):
        logits = {split: tensors[f"{epoch}.{split}"].numpy() for split in task.dev}
        assert all(value.shape == (12, task.outputs) for value in logits.values())
        assert score(task, logits, labels) == pytest.approx(result["score"][epoch], abs=1e-6)
    best_logits = {split: tensors[f"best.{split}"].numpy() for split in task.dev}
    assert all(tensors[f"idx.{split}"].tolist() == list(range(12)) for split in task.dev)
    best = result["history"][result["score"]["best_epoch"] - 1]
    assert best[task.headline] == max(entry[task.headline] for entry in result["history"])
    assert {k: best[k] for k in result["score"]["best"]} == result["score"]["best"]
    predicted = np.concatenate([predictions_of(task, value) for value in best_logits.values()])
    assert result["score"]["collapsed"] == (len(set(predicted)) == 1)
    at_last = [predictions_of(task, tensors[f"last.{split}"].numpy()) for split in task.dev]
    assert result["score"]["collapsed_last"] == (len(set(np.concatenate(at_last))) == 1)
    last = result["history"][-1]
    assert {k: last[k] for k in result["score"]["last"]} == result["score"]["last"]


@pytest.mark.parametrize("method", ["craft", "lora"])
def test_saved_adapters_give_the_recorded_logits(method, bench):
    bench.run("train.epochs=3", method=method)
    config = bench.config(method=method)
    backbone = locate(config.model)
    tokenizer = tokenizer_of(backbone)
    dev = sources.load(config.task, config.data, config.task.dev).splits["validation"]
    tokens = encode(dev, config.task, tokenizer, config.train.max_length)
    recorded, _ = read_tensors(bench.folder() / "predictions.safetensors")
    for epoch in ("best", "last"):
        base = build(backbone, config.task, head_seed=99)
        packing.enable(base)
        model = PeftModel.from_pretrained(base, str(bench.folder() / epoch))
        layout = layout_of(model, tokenizer.pad_token_id, "packed", "cpu")
        found = predict(model, tokens, config.train, layout)
        np.testing.assert_array_equal(found, recorded[f"{epoch}.validation"].numpy())


def test_finished_run_keeps_its_record_predictions_and_adapters_alone(bench):
    bench.run()
    assert {path.name for path in bench.folder().iterdir()} == {
        "record.json", "predictions.safetensors", "attempts.json", "best", "last",
    }  # fmt: skip


def test_a_run_that_collapses_after_its_best_epoch_is_marked(bench, monkeypatch):
    bench.run(task="rte")
    labels = read_tensors(bench.folder() / "predictions.safetensors")[0]["labels.validation"]
    logits = [np.eye(2, dtype=np.float32)[labels], np.ones((12, 2), np.float32)]
    monkeypatch.setattr(craft.bench.training.loop, "predict", lambda *_: logits.pop(0))
    score = bench.run("seed=1", task="rte")["result"]["score"]
    assert score["best"]["accuracy"] == 1.0
    assert (score["collapsed"], score["collapsed_last"]) == (False, True)


@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_collapsed_run_is_marked(name, bench, monkeypatch):
    constant = np.ones((12, task_of(name).outputs), np.float32)
    monkeypatch.setattr(craft.bench.training.loop, "predict", lambda *_: constant)
    made = bench.run(task=name)
    assert made["status"] == "ok"
    assert made["result"]["score"]["collapsed"] is True
    assert made["result"]["score"]["collapsed_last"] is True
    assert made["result"]["score"]["best"][task_of(name).headline] == 0.0
