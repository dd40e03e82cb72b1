"""The study's report on made-up records: pairs by fold, rules in their order, and any subset."""

import dataclasses
import math
import zlib

import numpy as np
import pytest
from made_records import CONFIGS, predictions_of, scores_of
from omegaconf import OmegaConf
from scipy import stats

from craft.bench.report.load import load
from craft.bench.report.statistics import (
    FoldDifference,
    fieller,
    holm,
    p_over_folds_and_examples,
)
from craft.bench.report.study.evidence import (
    MARGIN,
    UNDECIDED,
    V1,
    WITHIN,
    WORDS,
    WORSE,
    YES,
    Question,
    Study,
    counted,
    frozen_commits,
)
from craft.bench.report.study.pages import premise_text, readme_block
from craft.bench.report.study.plan import Plan
from craft.bench.report.study.premise import Premise
from craft.bench.report.study.premise import read as read_premise
from craft.bench.report.study.premise import write as write_premise
from craft.bench.report.study.results import (
    claims_table,
    counts_verdict,
    headline_table,
    hypotheses_table,
    pareto,
    search_table,
    study_tables,
    table2_verdict,
)
from craft.bench.report.whole import END, START, build, changed_pages, differing
from craft.bench.run import record
from craft.bench.run.record import Record
from craft.files import write_tensors

PLAN = Plan.read(CONFIGS / "study.yaml")
COMMIT = "c" * 40
PUBLISHED = CONFIGS.parent / "results" / "published"
TASKS = {
    name: OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    for name in ("cola", "mrpc", "stsb", "rte")
}
QUALITY = {"craft": 0.9, "lora": 0.91, "head": 0.75, "random_matched": 0.8}  # else 0.85
COUNTS = {"craft": {"all-MiniLM-L6-v2": 40_072, "all-mpnet-base-v2": 40_288}}
RANKS = {"all-MiniLM-L6-v2": [6, 100, 100], "all-mpnet-base-v2": [12, 100, 100]}


def put(folder, run, quality=None, status="ok", n=80, commit=COMMIT):
    """Write the record of a run of the plan as `promote` does."""
    task = TASKS[run.task]
    quality = QUALITY.get(run.arm, 0.85) if quality is None else quality
    place = zlib.crc32(f"{run.task} {run.selection} {run.fold} {run.permutation}".encode())
    noise = zlib.crc32(f"{run.arm} {run.seed} {run.lr}".encode())
    tensors = predictions_of(task, quality, noise, n, place)
    score, collapsed = scores_of(task, tensors)
    name = f"{run.task}-{run.arm}-{run.encoder}-{run.selection}-{run.seed}-{run.lr:g}"
    name += f"-{run.head_lr:g}-{run.fold}-{run.permutation}"
    place = folder / ("search" if run.selection == "train_holdout" else ".")
    ranks = RANKS[run.encoder]
    result = {
        "config": {"name": name},
        "score": {"headline": task["headline"], "best": score, "last": score, "best_epoch": 1}
        | {"collapsed": collapsed, "collapsed_last": collapsed},
        "history": [],
        "parameters": {"adapter": COUNTS.get(run.arm, {}).get(run.encoder, 36_864), "head": 770}
        | {"effective_ranks": {"query": ranks, "value": ranks} if run.arm == "craft" else None},
    }
    target = place / "predictions" / f"{name}.safetensors"
    result["predictions_sha256"] = write_tensors(target, tensors, {"task": run.task})
    config = {
        "cell": run.cell,
        "task": task,
        "selection": run.selection,
        "seed": run.seed,
        "train": {"lr": run.lr, "head_lr": run.head_lr},
        "fold": {"number": run.fold, "count": 5, "permutation": run.permutation},
    }
    provenance = {
        "name": name,
        "config": config,
        "environment": {"commit": commit, "dirty": False},
        "intruders": {"count": 3, "weights": 12, "mean_cosine": 0.9, "reason": None}
        | {"leading": 10, "cosine": 0.5},
        "seconds": 360.0,
    }
    made = Record(record.digest(name), status, result or {}, provenance)
    made.write(place / "runs" / f"{name}.json")


def read(folder):
    return Study.read(folder, PLAN, [COMMIT])


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Blocks A, V1 and B at their ten folds, C and D at five."""
    folder = tmp_path_factory.mktemp("study")
    scores = {}
    while pending := [*PLAN.pending(scores)]:
        for run in pending:
            grid_middle = run.selection == "train_holdout" and run.lr in (1e-3, 3e-3, 3e-4, 1e-4)
            middle = {"head": 3e-3, "pissa": 3e-4, "lotr": 1e-4}.get(run.arm, 1e-3)
            quality = (0.9 if run.lr == middle else 0.7) if grid_middle else None
            put(folder, run, quality)
            scores[run] = 0.9 if grid_middle and run.lr == middle else 0.5
    return folder


@pytest.fixture
def study(complete):
    return read(complete)


def subset(study, keep):
    return dataclasses.replace(study, entries={r: e for r, e in study.entries.items() if keep(r)})


# statistics -------------------------------------------------------------------------------------


def test_corrected_t_is_the_paired_t_test_with_its_variance_made_larger():
    d = np.random.default_rng(0).normal(0.3, 1, size=10)
    plain, corrected = FoldDifference.of(d, 0.0), FoldDifference.of(d, 0.25)
    known = stats.ttest_1samp(d, 0)
    assert plain.p == pytest.approx(known.pvalue)
    assert plain.interval() == pytest.approx(tuple(known.confidence_interval()))
    assert corrected.standard_error == pytest.approx(
        plain.standard_error * math.sqrt((1 / 10 + 1 / 4) / (1 / 10))
    )
    t = d.mean() / math.sqrt(d.var(ddof=1) * (0.1 + 0.25))
    assert corrected.p == pytest.approx(2 * stats.t.sf(abs(t), 9))
    assert corrected.interval(0.1)[0] > corrected.interval(0.05)[0]


def test_corrected_t_keeps_its_level_where_folds_share_rows_and_the_plain_one_does_not():
    """Two learners whose parameters are means of the training rows, on noise, in folds of 5."""
    dice, wrong = np.random.default_rng(0), {0.0: 0, 0.25: 0}
    trials = 400
    for _ in range(trials):
        x, y = dice.normal(size=(2, 50))
        differences = []
        for _ in range(2):
            for test in np.array_split(dice.permutation(50), 5):
                train = np.setdiff1d(np.arange(50), test)
                loss = [np.mean((value[test] - value[train].mean()) ** 2) for value in (x, y)]
                differences.append(loss[0] - loss[1])
        for ratio in wrong:
            wrong[ratio] += FoldDifference.of(np.array(differences), ratio).p < 0.05
    assert wrong[0.0] / trials > 0.15
    assert wrong[0.25] / trials < 0.08


def test_power_is_what_the_plan_says():
    five = FoldDifference(5, 0.0, 0.61, 4)
    assert five.power_within(1.5) == pytest.approx(0.65, abs=0.005)
    assert FoldDifference(5, 0.0, 0.76, 4).smallest_detectable() == pytest.approx(2.8, abs=0.05)


def test_power_within_is_how_often_the_rule_says_so():
    true, n = 1.0, 10
    dice = np.random.default_rng(1)
    found = [FoldDifference.of(dice.normal(0, true, n), 0.0) for _ in range(4000)]
    said = np.mean([one.interval(0.1)[0] > -0.6 for one in found])
    assert said == pytest.approx(
        FoldDifference(n, 0, true / math.sqrt(n), n - 1).power_within(0.6), abs=0.02
    )


def test_a_single_fold_has_a_mean_and_nothing_that_says_how_sure_it_is():
    one = FoldDifference.of(np.array([0.02]), 0.25)
    assert one.mean == 0.02 and math.isnan(one.p) and all(map(math.isnan, one.interval()))
    assert math.isnan(one.power_within(1)) and one.smallest_detectable() == math.inf
    assert FoldDifference.of(np.zeros(10), 0.25).p == 1.0


def test_fieller_holds_the_quotients_that_a_t_test_does_not_reject():
    dice = np.random.default_rng(2)
    below = dice.normal(5, 1, 10)
    above = 0.8 * below + dice.normal(0, 0.5, 10)
    share = fieller(above, below, 0.0)
    assert share.value == pytest.approx(above.mean() / below.mean())
    for bound in share.bounds:
        assert stats.ttest_1samp(above - bound * below, 0).pvalue == pytest.approx(0.05)
    low, high = share.bounds
    wide_low, wide_high = fieller(above, below, 0.25).bounds
    assert wide_low < low < share.value < high < wide_high


def test_fieller_has_no_bounds_where_the_denominator_may_be_zero():
    dice = np.random.default_rng(3)
    assert fieller(dice.normal(1, 1, 10), dice.normal(0, 5, 10), 0.25).bounds is None
    assert fieller(np.array([1.0]), np.array([2.0]), 0.25).bounds is None


def test_examples_widen_the_test_over_folds():
    d = np.random.default_rng(4).normal(0.5, 1, 10)
    assert p_over_folds_and_examples(d, 0.0) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert p_over_folds_and_examples(d, 0.5) > p_over_folds_and_examples(d, 0.0)


# rules ------------------------------------------------------------------------------------------


def difference(mean, error, n=10):
    return FoldDifference(n, mean, error, n - 1)


def test_words_of_the_confirmatory_hypotheses():
    assert WORDS["H1"](difference(-0.007, 0.002)) == (WITHIN, WORSE)
    assert WORDS["H1"](difference(0.0, 0.005)) == (WITHIN,)
    assert WORDS["H1"](difference(-0.03, 0.005)) == (WORSE,)
    assert WORDS["H1"](difference(-0.01, 0.02)) == (UNDECIDED,)
    reach = stats.t.ppf(0.95, 9)  # the 90 % interval, not the 95 % one
    assert WORDS["H1"](difference(-MARGIN + 1.01 * reach, 1.0)) == (WITHIN,)
    assert WORDS["H2"](difference(-0.03, 0.005)) == (WORSE,)
    assert WORDS["H3"](difference(0.03, 0.005)) == (YES,)
    assert WORDS["H3"](difference(-0.03, 0.005)) == ("it hurts",)
    assert WORDS["H3"](difference(reach, 1.0)) == (UNDECIDED,)


def test_at_ten_folds_all_three_have_words_and_the_table_says_them(study):
    assert study.left_out == []
    words = {name: judged.words for name, judged in study.confirmatory.items()}
    assert list(words) == ["H3", "H1", "H2"]
    assert words["H3"] == (YES,) and study.v1.words == ("it does not",)
    assert all(words["H1"]) and study.confirmatory["H1"].comparison.n == 10
    data = hypotheses_table(study).data
    assert list(data["id"][:4]) == ["H3", "H1", "H2", "V1"]
    assert not {"better", "worse"} & set(data[data["id"].str.startswith("E")]["verdict"])


def test_estimate_is_the_mean_of_paired_differences_and_its_interval_the_corrected_t(study):
    found = study.comparison(Question("", "", ("A1", "A2"), "random_matched"))
    by_fold = []
    for fold in range(10):
        place = [
            (e.made.result["score"]["last"][e.headline], run.arm, run.task)
            for run, e in study.entries.items()
            if (run.encoder, run.selection) == ("all-MiniLM-L6-v2", "fold")
            and run.permutation == fold // 5
            and run.seed == fold
            and run.arm in ("craft", "random_matched")
            and run.task in ("cola", "mrpc", "stsb")
        ]
        mean = {a: np.mean([s for s, arm, _ in place if arm == a]) for _, a, _ in place}
        by_fold.append(mean["craft"] - mean["random_matched"])
    assert found.difference.mean == pytest.approx(np.mean(by_fold))
    half = stats.t.ppf(0.975, 9) * np.std(by_fold, ddof=1) * math.sqrt(1 / 10 + 1 / 4)
    assert found.interval() == pytest.approx((np.mean(by_fold) - half, np.mean(by_fold) + half))
    assert 0 < found.p_examples < 1


@pytest.mark.parametrize("folds", [0, 1, 3, 5, 9])
def test_before_ten_folds_there_is_no_word_but_the_power(study, folds):
    part = subset(study, lambda r: r.selection != "fold" or r.seed < folds or r.seed >= 10)
    for name, judged in part.confirmatory.items():
        assert judged.words == () and f"{folds} of 10 folds" in judged.reason
        assert ("is called" in judged.reason) == (name == "H1" and folds > 1)
        assert ("detectable" in judged.reason) == (name != "H1" and folds > 1)
        assert (judged.comparison.interval() is not None) == (folds >= 5)
    claims = claims_table(part, []).data.set_index("claim")["verdict"]
    assert set(claims.iloc[:2]) == {"undecided" if folds else "untested"}
    assert (pareto(part) is None) == (folds == 0)
    for table in study_tables(part, []):
        assert table.markdown() and table.latex() and table.csv() is not None


def test_a_hypothesis_is_tested_only_if_the_one_before_it_is_decided(study):
    swapped = {}
    for run, entry in study.entries.items():
        if run.arm == "random_matched" and run.selection == "fold":
            # the same scores as CRAFT's: H3 cannot be decided
            twin = dataclasses.replace(run, arm="craft")
            twin = next(r for r in study.entries if dataclasses.replace(r, lr=twin.lr) == twin)
            made = dataclasses.replace(entry.made, result=study.entries[twin].made.result)
            entry = dataclasses.replace(entry, made=made)
        swapped[run] = entry
    found = dataclasses.replace(study, entries=swapped).confirmatory
    assert found["H3"].words == (UNDECIDED,) and not found["H3"].decided
    assert found["H1"].words == found["H2"].words == ()
    assert found["H1"].text == "not tested: H3 is not decided"
    assert found["H2"].text == "not tested: H1 is not decided"


def test_no_verdict_where_the_machinery_invents_effects_or_v1_is_not_there(study):
    without = subset(study, lambda r: r.selection != "fold" or r.seed < 10)
    assert "waits for V1" in without.confirmatory["H3"].text
    assert all(judged.words == () for judged in without.peers)
    shifted = {}
    for run, entry in study.entries.items():
        if run.selection == "fold" and run.seed >= 10:
            result = entry.made.result
            last = {m: v - 0.5 for m, v in result["score"]["last"].items()}
            result = {**result, "score": {**result["score"], "last": last}}
            entry = dataclasses.replace(entry, made=dataclasses.replace(entry.made, result=result))
        shifted[run] = entry
    failing = dataclasses.replace(study, entries=shifted)
    assert failing.v1.words == ("it does",)
    assert all(judged.words == () for judged in failing.confirmatory.values())


def test_a_run_that_stands_in_two_stages_counts_once(study):
    """CRAFT's rate for C's tasks comes to that of A's: the two have some runs in common."""
    runs = [run for run in study.entries if run.selection != "train_holdout"]
    assert counted(study) == (len(runs), len(runs))
    assert len(runs) < sum(study.plan.total(study.scores, s)[1] for s in study.plan.stages)


def test_folds_without_a_task_or_with_a_diverged_run_are_left_out_and_counted(complete, tmp_path):
    study = read(complete)
    lost = next(
        r for r in study.entries if r.seed == 3 and r.arm == "lora" and r.selection == "fold"
        and r.encoder == "all-MiniLM-L6-v2" and r.task == "cola"
    )  # fmt: skip
    bad = dataclasses.replace(lost, seed=4, fold=4)
    entries = {r: e for r, e in study.entries.items() if r != lost}
    entries[bad] = dataclasses.replace(
        entries[bad], made=dataclasses.replace(entries[bad].made, status="diverged")
    )
    found = dataclasses.replace(study, entries=entries)
    h2 = found.confirmatory["H2"]
    assert h2.comparison.n == 8 and h2.words == ()
    assert "8 of 10 folds, 2 incomplete" in h2.text
    assert found.diverged() == [bad]
    assert found.confirmatory["H3"].comparison.n == 10
    row = study_tables(found, [])[3].data.query("arm == 'lora' and task == 'cola' and block == 'A'")
    assert list(row["n"]) == [8] and list(row["diverged"]) == [1]


def test_folds_that_the_other_arm_has_not_begun_are_not_incomplete(study):
    """V1 and the ablations pair their runs with those of CRAFT in block A, which come first."""
    only_a = subset(study, lambda r: r.selection != "fold" or (r.arm == "craft" and r.seed < 5))
    assert only_a.comparison(V1).begun == 0 and only_a.v1.text == "0 of 5 folds"
    assert {one.begun for one in only_a.descriptive} == {0}
    assert only_a.confirmatory["H3"].text == "0 of 10 folds, 5 incomplete"


def test_peers_are_corrected_by_holm_within_the_six_and_only_when_all_are_there(study):
    found = study.peers
    assert len(found) == 6
    p = holm(np.array([one.comparison.difference.p for one in found]))
    for one, corrected in zip(found, p, strict=True):
        assert (one.words == (UNDECIDED,)) == (corrected >= 0.05)
    one_less = subset(study, lambda r: not (r.arm == "vera" and r.fold == 2))
    assert [judged.words for judged in one_less.peers] == [()] * 6
    assert one_less.peers[0].reason == "waits for the other five"


def test_a_task_that_no_arm_learns_stays_in_the_mean_and_a_mean_without_it_stands_beside(study):
    constant = {}
    for run, entry in study.entries.items():
        if run.task == "cola" and run.selection == "fold":
            result = entry.made.result
            score = {**result["score"], "last": {"matthews": 0.0, "accuracy": 0.5}}
            made = dataclasses.replace(entry.made, result={**result, "score": score})
            entry = dataclasses.replace(entry, made=made)
        constant[run] = entry
    found = dataclasses.replace(study, entries=constant)
    assert found.learnt("all-MiniLM-L6-v2", "cola") is False
    assert found.learnt("all-MiniLM-L6-v2", "mrpc") is True
    h3 = found.confirmatory["H3"].comparison
    assert h3.tasks == ("cola", "mrpc", "stsb")
    assert h3.learnt.mean == pytest.approx(1.5 * h3.difference.mean)
    assert found.confirmatory["H1"].comparison.learnt is None


def test_every_headline_row_says_whose_rate_it_has_and_what_the_search_cost(study):
    found = headline_table(study)
    rows = [row for row in found.rows if len(row) > 1]
    assert len(rows) == 7 and all(" by " in row[-1] and " h)" in row[-1] for row in rows)
    assert list(found.data["search_runs"]) == [9] * 7
    assert found.data["search_hours"].iloc[0] == pytest.approx(0.9)
    searches = search_table(study).data
    assert set(searches.query("chosen and arm == 'head'")["rate"]) == {3e-3}
    scores = study_tables(study, [])[3].data
    assert set(scores.query("arm == 'modes_1'")["searched"]) == {"A/craft"}


def test_what_a_fold_says_changes_no_rate(study):
    turned = {}
    for run, entry in study.entries.items():
        if run.selection != "train_holdout":
            score = {**entry.made.result["score"]}
            score["last"] = {m: 1 - v for m, v in score["last"].items()}
            made = dataclasses.replace(entry.made, result={**entry.made.result, "score": score})
            entry = dataclasses.replace(entry, made=made)
        turned[run] = entry
    other = dataclasses.replace(study, entries=turned)
    assert search_table(other).csv() == search_table(study).csv()
    columns = ["arm", "searched", "chosen"]
    assert headline_table(other).data[columns].equals(headline_table(study).data[columns])


def test_records_of_another_commit_or_of_no_run_of_the_plan_are_named_and_left_out(tmp_path):
    (first, *_) = PLAN.pending({})
    put(tmp_path, first, commit="d" * 40)
    put(tmp_path, dataclasses.replace(first, lr=7e-3, head_lr=7e-3), status="failed")
    put(tmp_path, dataclasses.replace(first, arm="craft"))
    found = read(tmp_path)
    told = " ".join(found.left_out)
    assert "not from the commit" in told and "failed" in told and "no run of the plan" in told
    assert first not in found.entries


def test_claims_follow_from_the_statistics():
    assert counts_verdict(0, True) == "untested" and counts_verdict(1, True) == "undecided"
    assert counts_verdict(2, True) == "supported" and counts_verdict(2, False) == "refuted"
    assert table2_verdict([None] * 8) == "untested" == table2_verdict([float("nan")] * 8)
    assert table2_verdict([True] * 8) == "supported"
    assert table2_verdict([True] * 7 + [None]) == "undecided"
    assert table2_verdict([True] * 6 + [False, None]) == "refuted"


# pages ------------------------------------------------------------------------------------------


def test_report_with_the_study_fills_its_pages_and_check_finds_nothing(study, tmp_path):
    premise = [
        Premise("e", "query", (2, 3, 3), {"hosvd": 0.3, "permuted": 0.2, "random": 0.1}, 0.01,
                (np.ones(2) / 2, np.ones(4) / 4, np.ones(4) / 4), (0.6, 0.4, 0.4))
    ]  # fmt: skip
    write_premise(tmp_path / "premise.json", premise)
    (again,) = read_premise(tmp_path / "premise.json")
    assert again.kept == premise[0].kept and again.ranks == (2, 3, 3)
    assert np.array_equal(again.spectra[1], premise[0].spectra[1])
    records = load([tmp_path / "none"], CONFIGS)
    report = build(records, PUBLISHED, CONFIGS, [], study, [again])
    names = {table.name for table in report.tables} | {drawn.name for drawn in report.drawn}
    assert names >= {"study_claims", "study_headline", "study_hypotheses", "study_scores"}
    assert names >= {"study_search", "study_intruders", "study_pareto", "premise"}
    pages = [tmp_path / "README.md", tmp_path / "STUDY.md"]
    for page in pages:
        page.write_text(f"# above\n\n{START}\n{END}\n\nbelow\n")
    report.write(tmp_path, pictures=False)
    assert differing(report, tmp_path, pages) == ["README.md", "STUDY.md"]
    for page, filled in [*changed_pages(report, pages)]:
        page.write_text(filled)
    assert differing(report, tmp_path, pages) == []
    readme, end = (page.read_text() for page in pages)
    assert readme.startswith("# above") and readme.endswith("below\n")
    assert "**not** reproduced" in readme and "study_pareto.png" in readme
    assert "The paper's claims" in readme and "10.0 points of energy" in readme
    assert "H3" in end and "0 of" in end and "diverged" in end
    empty = subset(study, lambda r: False)
    block = readme_block(empty, study_tables(empty, []), pareto(empty), [])
    assert "No fold is complete yet: 0 of the study's 470 runs" in block
    assert "No fold is complete" not in readme and "(results/tables)" in readme
    assert "study_pareto" not in block


def test_copied_layers_are_not_told_as_a_premise():
    spectra = (np.ones(2) / 2,) * 3
    copied = Premise("mini", "query", (2, 3, 3), {"hosvd": 0.6, "permuted": 0.5, "random": 0.1},
                     0.75, spectra, (0.6, 0.4, 0.4))  # fmt: skip
    assert premise_text([copied]) == ""
    text = premise_text([dataclasses.replace(copied, model="real", cosine=0.004), copied])
    assert "60.0 % of query" in text and "mini says nothing about it" in text


def test_the_page_of_the_study_names_the_commit_that_its_runs_are_from():
    assert len(frozen_commits(CONFIGS.parent / "results" / "STUDY.md")) == 1
