"""The study: what runs, in what order, and that no setting is chosen on a row that is scored."""

import itertools
import math
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tiny_bench import CONFIGS

from craft.bench.report.study.plan import Plan, outwards, run_of, score_of
from craft.bench.run.record import Record
from craft.bench.settings.declared import plain
from craft.bench.settings.resolve import check
from craft.errors import InputError

ROOT = CONFIGS.parent
PLAN = Plan.read(CONFIGS / "study.yaml")


def worked_off(plan, score=lambda run: 0.5, last=None):
    """Every run in the order in which one worker does them."""
    scores, order = {}, []
    while pending := [*plan.pending(scores, last)]:
        order.append(pending[0])
        scores[pending[0]] = score(pending[0])
    return order, scores


ORDER, SCORES = worked_off(PLAN)


def of_stage(name, scores=SCORES):
    (stage,) = [s for s in PLAN.stages if s.name == name]
    return PLAN.runs(stage, scores)[0]


@pytest.mark.parametrize(
    ("stage", "runs"),
    [("A1", 60), ("V1", 10), ("B1", 45), ("A2", 60), ("B2", 45), ("F", 30), ("C", 70), ("D", 150)],
)
def test_stage_has_the_planned_runs_each_once(stage, runs):
    found = of_stage(stage)
    assert len(found) == len(set(found)) == runs
    assert set(found) <= set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_only_searches_choose_and_they_are_scored_on_the_reserve_alone():
    searched = {run for run in ORDER if run.selection == "train_holdout"}
    assert searched and all("search=true" in PLAN.overrides(run) for run in searched)
    for run in set(ORDER) - searched:
        assert "search=true" not in PLAN.overrides(run)
    changed = {run: value if run in searched else 1 - value for run, value in SCORES.items()}
    for stage in PLAN.stages:  # whatever folds and dev splits say, the same rates are taken
        assert PLAN.runs(stage, changed)[0] == PLAN.runs(stage, SCORES)[0]


def test_arms_of_a_block_have_the_same_budget():
    for block, facts in PLAN.plain["blocks"].items():
        arms = [a for a in facts["arms"] if "grid" in PLAN.plain["arms"][facts["encoder"]][a]]
        tried = {arm: len(PLAN.search(block, arm, SCORES)[0].tried) for arm in arms}
        assert set(tried.values()) <= {3, 4}, tried  # four where the best was an end of the grid
    grids = PLAN.plain["grids"].values()
    assert {len(grid) for grid in grids} == {3}


def test_folds_go_one_after_the_other_with_all_arms_on_the_same_seeds():
    for stage in ("A1", "A2", "B1", "B2", "C", "D"):
        found = of_stage(stage)
        assert [run.fold for run in found] == sorted(run.fold for run in found)
        for _, fold in itertools.groupby(found, key=lambda run: run.fold):
            fold = [*fold]
            assert len({(run.seed, run.permutation) for run in fold}) == 1
            arms, tasks = {run.arm for run in fold}, {run.task for run in fold}
            assert len(fold) == len(arms) * len(tasks)
    first, second = ({(r.seed, r.permutation) for r in of_stage(s)} for s in ("A1", "A2"))
    assert len(first | second) == 10


def test_searches_of_a_stage_come_before_what_waits_for_them():
    for number, run in enumerate(ORDER):
        if run.selection == "train_holdout":
            assert run.seed == 0
            continue
        before = dict.fromkeys(ORDER[:number], 0.5)
        assert PLAN.head(run.encoder, before)[0].chosen == run.head_lr


def test_rate_is_the_best_mean_and_an_end_of_the_grid_is_passed_once():
    best = {1.0e-3: 0.7, 3.0e-4: 0.5, 3.0e-3: 0.6}

    def peaked_at(rate):
        return lambda run: -abs(math.log(run.lr / rate))

    _, scores = worked_off(PLAN, lambda run: best.get(run.lr, 0.0), last="A1")
    assert PLAN.search("A", "craft", scores)[0].chosen == 1e-3
    assert len(PLAN.search("A", "craft", scores)[0].tried) == 3
    for rate, chosen in ((1e-6, 1e-4), (1.0, 1e-2)):
        _, scores = worked_off(PLAN, peaked_at(rate), last="A1")
        found = PLAN.search("A", "lora", scores)[0]
        assert (found.chosen, len(found.tried)) == (chosen, 4)


def test_diverged_rate_is_never_chosen():
    def score(run):
        return -math.inf if run.lr == 1e-3 and run.arm == "craft" else 0.5

    _, scores = worked_off(PLAN, score, last="A1")
    assert PLAN.search("A", "craft", scores)[0].chosen != 1e-3


@pytest.mark.parametrize(
    ("grid", "best", "more"),
    [
        ([1e-3, 3e-3, 1e-2], 1e-2, [3e-2]), ([1e-3, 3e-3, 1e-2], 1e-3, [3e-4]),
        ([1e-3, 3e-3, 1e-2], 3e-3, []), ([3e-5, 1e-4, 3e-4], 3e-5, [1e-5]),
    ],
)  # fmt: skip
def test_next_step_outwards(grid, best, more):
    assert outwards(grid, best) == more


def test_every_arm_composes_and_its_record_is_of_its_run(tiny_bert, tiny_glue, tmp_path):
    where = [f"model.path={tiny_bert}", f"data.dir={tiny_glue}", f"outputs={tmp_path}"]
    seen = {}
    for run in ORDER:
        seen.setdefault((run.cell, run.selection), run)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for run in seen.values():
            config = check(compose("train", [*PLAN.overrides(run), *where]))
            made = Record("", "ok", {}, {"config": plain(config)})
            assert run_of(made) == run
            assert config.train.epochs == (4 if "mpnet" in run.encoder else 5)


def test_random_controls_draw_anew_under_every_seed():
    for arm in ("random_matched", "random_core"):
        found = [run for run in ORDER if run.arm == arm and run.selection == "fold"]
        seeds = {(r.seed, t) for r in found for t in PLAN.overrides(r) if "decomposition_seed" in t}
        assert all(text.endswith(f"={seed}") for seed, text in seeds)
        assert len({seed for seed, _ in seeds}) >= 5


def test_score_is_the_last_epochs():
    score = {"headline": "f1", "best": {"f1": 0.9}, "last": {"f1": 0.8}}
    assert score_of(Record("", "ok", {"score": score}, {})) == 0.8
    assert score_of(Record("", "diverged", {}, {})) == -math.inf


def test_plan_that_names_what_is_not_there_is_refused(tmp_path):
    plain = yaml.safe_load((CONFIGS / "study.yaml").read_text())
    plain["blocks"]["A"]["arms"].append("lorra")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(InputError, match="arm of stage A1 'lorra' is not one of .*craft, head"):
        Plan.read(path)


# --- worked off


@pytest.fixture
def small_study(tiny_bert, tiny_glue, tmp_path):
    """Two arms on one task in two folds, and how to start it."""
    plain = {
        "folds": 2,
        "common": [
            "model=local",
            "data=local",
            "logger=none",
            "train.device=cpu",
            "train.batch_size=8",
            "train.max_length=32",
        ],
        "encoders": {"tiny": {"head": "A", "set": ["train.epochs=1"]}},
        "grids": {"head": [1e-3], "usual": [1e-3]},
        "arms": {
            "tiny": {
                "head": {"grid": "head", "set": ["method=head"]},
                "craft": {"grid": "usual", "set": ["method=craft", "method.peft.ranks=[2,8,8]"]},
            }
        },
        "blocks": {"A": {"encoder": "tiny", "arms": ["head", "craft"], "tasks": ["rte"]}},
        "stages": [{"name": "A1", "block": "A", "repeat": 0}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plain))
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "tiny").symlink_to(tiny_bert)
    return [
        sys.executable, str(ROOT / "scripts" / "study_runs.py"), f"glue_dir={tiny_glue}",
        f"encoders={tmp_path / 'encoders'}", f"plan={tmp_path / 'study.yaml'}",
        f"results={tmp_path / 'results'}", f"outputs={tmp_path / 'outputs'}",
    ]  # fmt: skip


def started(command, *more):
    return subprocess.run([*command, *more], capture_output=True, text=True, timeout=600)


def test_wrong_argument_of_the_study_is_one_line(small_study):
    done = started(small_study, "last=Z")
    assert done.returncode == 2
    assert done.stderr == "error: last 'Z' is not one of A1\n"
    done = started(small_study, "encoders=/nowhere")
    assert (done.returncode, done.stderr) == (2, "error: encoders=/nowhere is not a folder\n")


@pytest.mark.slow
def test_study_is_worked_off_promoted_and_then_has_nothing_to_run(small_study, tmp_path):
    dry = started(small_study, "dry=true").stdout
    assert dry.count("scripts/train.py") == 1 and "search=true" in dry  # CRAFT waits for the head
    small_study.append("allow_dirty=true")  # this checkout may have changes
    done = started(small_study)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results"
    records = [Record.read(path) for path in sorted(results.rglob("runs/*.json"))]
    runs = [run_of(made) for made in records]
    assert (
        len({run for run in runs if run.selection == "train_holdout"}) == 2 * 2
    )  # and a step outwards
    assert len({run for run in runs if run.selection == "fold"}) == 2 * 2
    assert len([*results.glob("predictions/*.safetensors")]) == 4
    shutil.rmtree(tmp_path / "outputs")  # as on a fresh machine
    again = started(small_study)
    assert again.stdout.splitlines()[-1] == "nothing is left to run"
    assert "A1: 4 of 4 runs are done" in again.stdout
    assert not [*(tmp_path / "outputs").rglob("record.json")]


@pytest.mark.slow
def test_study_that_is_stopped_goes_on(small_study, tmp_path):
    small_study.append("allow_dirty=true")
    process = subprocess.Popen(
        small_study, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not [*(tmp_path / "outputs").rglob("attempts.json")]:
        time.sleep(0.1)
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "start again to go on" in error
    assert started(small_study).returncode == 0
