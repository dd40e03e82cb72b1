"""Records of before they said what they differ in: named by the report, brought up once."""

import json
import runpy

import pytest
from made_records import CONFIGS, make_run

from craft.bench.report.load import load
from craft.bench.run.record import Record
from craft.errors import InputError

SAID = ("experiment", "row", "differs")


@pytest.fixture
def upgrade(monkeypatch):
    """The script's main function on some folders."""
    monkeypatch.syspath_prepend(CONFIGS.parent / "scripts")
    main = runpy.run_path(str(CONFIGS.parent / "scripts" / "upgrade_records.py"))["main"]

    def called(*folders):
        monkeypatch.setattr("sys.argv", ["upgrade_records.py", *map(str, folders)])
        main()

    return called


def make_old(folder, *more, command="python scripts/train.py", **facts):
    """Write a run as it was of schema 1, and return it as it is now."""
    made = make_run(folder, *more, **facts)
    kept = {k: v for k, v in made["provenance"].items() if k not in SAID}
    old = made | {"schema": 1, "provenance": kept | {"command": command}}
    Record.of(old).write(folder / made["provenance"]["name"] / "record.json")
    return made


def test_records_of_schema_1_come_to_say_what_they_differ_in_and_nothing_else_changes(
    tmp_path, upgrade, capsys
):
    peft, train = {"ranks": [4, 16, 16]}, {"lr": 0.5, "precision": "bf16"}
    made = make_old(
        tmp_path, peft=peft, train=train, fold=(1, 5, 0),
        command="python scripts/train.py -m experiment=mini task=rte",
    )  # fmt: skip
    failed = make_old(tmp_path, seed=1, status="failed")
    upgrade(tmp_path)
    assert capsys.readouterr().out == "2 of 2 records upgraded\n"
    path = tmp_path / made["provenance"]["name"] / "record.json"
    now = Record.read(path).plain()
    assert now["schema"] == 2 and now["provenance"]["experiment"] == "mini"
    assert now["provenance"]["row"] is None
    assert now["provenance"]["differs"] == {
        "method.peft.ranks": [4, 16, 16],
        "train.lr": 0.5,
        "train.precision": "bf16",
        "train.device": "cpu",  # the file says auto
        "selection": "fold",
        "fold.number": 1,
    }
    for key in ("id", "status", "error", "result", "result_sha256", "protocol"):
        assert now[key] == made[key], key
    assert load([tmp_path], CONFIGS).runs["settings"].item() == (
        "ranks=(4, 16, 16), selection=fold, lr=0.5"
    )
    other = Record.read(tmp_path / failed["provenance"]["name"] / "record.json").plain()
    assert other["schema"] == 2 and other["provenance"]["experiment"] is None
    before = path.read_bytes()
    upgrade(tmp_path)
    assert capsys.readouterr().out == "0 of 2 records upgraded\n" and path.read_bytes() == before


def test_a_value_that_the_recipe_leaves_open_is_no_difference(tmp_path, upgrade):
    made = make_old(tmp_path, model="local", source="local", train={"batch_size": 8})
    upgrade(tmp_path)
    now = json.loads((tmp_path / made["provenance"]["name"] / "record.json").read_text())
    assert now["provenance"]["differs"] == {"train.batch_size": 8, "train.device": "cpu"}


def test_a_folder_that_is_not_there_is_named(tmp_path, upgrade):
    with pytest.raises(InputError, match="no folder .*nowhere"):
        upgrade(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no folder is named"):
        upgrade()


def test_a_finished_record_that_does_not_say_is_named_with_the_script(tmp_path):
    make_old(tmp_path)
    make_old(tmp_path, seed=1, status="failed")  # of which no settings are told
    records = load([tmp_path], CONFIGS)
    assert records.runs.empty and len(records.unsuccessful) == 1
    (line,) = records.left_out
    assert "record.json: does not say what it differs in" in line
    assert "scripts/upgrade_records.py" in line


def test_of_the_study_whose_code_is_frozen_a_record_of_schema_1_is_told_by_its_cell(tmp_path):
    for arm in ("core", "craft"):
        made = make_old(tmp_path, seed={"core": 1, "craft": 0}[arm])
        path = tmp_path / made["provenance"]["name"] / "record.json"
        old = json.loads(path.read_text())
        old["provenance"]["config"]["cell"] = f"mini/{arm}"
        Record.of(old).write(path)
    assert list(load([tmp_path], CONFIGS).runs["settings"]) == ["cell=mini/core", "cell=mini/craft"]
