"""Metrics on resampled examples, intervals and paired tests against known cases."""

import itertools

import numpy as np
import pytest
from made_records import CONFIGS, make_run
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from craft.bench.report.load import load
from craft.bench.report.resampling import (
    DRAWS,
    Resampled,
    bootstrap_scores,
    example_weights,
    score,
)
from craft.bench.report.statistics import (
    FEWEST,
    Difference,
    holm,
    interval,
    paired_difference,
    permutation_p,
    verdict,
)
from craft.bench.report.tables.cells import intervals
from craft.bench.report.tables.comparisons import comparison_table, comparisons
from craft.errors import InputError

SLOW_TWINS = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "pearson": lambda y, x: stats.pearsonr(y, x)[0],
    "spearman": lambda y, x: stats.spearmanr(y, x)[0],
}


@pytest.mark.parametrize("metric", SLOW_TWINS)
def test_metric_on_weights_is_the_metric_on_repeated_examples(metric):
    generator = np.random.default_rng(0)
    if metric in ("pearson", "spearman"):
        labels = np.round(generator.random(40) * 5, 1)
        predicted = np.round(labels[:, None] + generator.normal(size=(40, 3)), 1)  # with ties
    else:
        labels = generator.integers(2, size=40)
        predicted = np.where(generator.random((40, 3)) < 0.7, labels[:, None], 1 - labels[:, None])
    weights = next(example_weights(40, 5))
    found = score(metric, labels, predicted, weights)
    for b, r in itertools.product(range(5), range(3)):
        repeated = np.repeat(np.arange(40), weights[b])
        expected = SLOW_TWINS[metric](labels[repeated], predicted[repeated, r])
        assert found[b, r] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman"])
def test_a_correlation_with_a_constant_is_zero(metric):
    labels = np.array([0, 1, 1, 0])
    assert score(metric, labels, np.ones((4, 1)), np.ones((1, 4))) == 0.0


def test_f1_of_three_classes_is_refused():
    with pytest.raises(InputError, match="two classes"):
        score("f1", np.array([0, 1, 2]), np.zeros((3, 1)), np.ones((1, 3)))


def test_every_bootstrap_sample_has_n_examples_whatever_the_blocks(monkeypatch):
    whole = np.concatenate(list(example_weights(7, 50)))
    assert whole.shape == (50, 7) and (whole.sum(1) == 7).all()
    monkeypatch.setattr("craft.bench.report.resampling.CHUNK", 70)
    assert len(list(example_weights(7, 50))) == 5


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """A known accuracy of 0.8, ten seeds that see it independently, 150 examples: 95 % nominal."""
    generator, covered = np.random.default_rng(1), 0
    for trial in range(60):
        labels = np.zeros(150, dtype=int)
        predicted = (generator.random((150, 10)) > 0.8).astype(int)
        resampled = bootstrap_scores("accuracy", labels, predicted, draws=200, seed=trial)
        low, high = interval(resampled)
        covered += low <= 0.8 <= high
    assert 54 <= covered <= 60


def test_interval_of_one_seed_is_over_examples_alone():
    labels, predicted = np.zeros(400, dtype=int), (np.arange(400) < 80).astype(int)[:, None]
    low, high = interval(bootstrap_scores("accuracy", labels, predicted))
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert (low, high) == (
        pytest.approx(0.8 - half, abs=0.008),
        pytest.approx(0.8 + half, abs=0.008),
    )


def test_without_noise_of_examples_the_test_is_scipys_paired_t_test():
    a, b = np.array([0.80, 0.82, 0.85, 0.83]), np.array([0.79, 0.80, 0.80, 0.83])
    still = np.zeros((DRAWS, 4))
    found = paired_difference(a, b, a + still, b + still)
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.freedom == pytest.approx(3)
    assert found.mean == pytest.approx(0.02)


def test_noise_of_examples_widens_the_test():
    a, b = np.array([0.80, 0.82, 0.85, 0.83]), np.array([0.79, 0.80, 0.80, 0.83])
    noise = np.random.default_rng(0).normal(scale=0.02, size=(DRAWS, 1))
    found = paired_difference(a, b, a + noise, b + np.zeros((DRAWS, 1)))
    spread = np.var(a - b, ddof=1) / 4
    assert found.standard_error == pytest.approx((spread + noise.var(ddof=1)) ** 0.5)
    assert found.p > stats.ttest_rel(a, b).pvalue and found.freedom > 3


def test_exact_permutation_by_hand():
    difference = np.array([0.3, -0.1, 0.2])
    signs = np.array(list(itertools.product((1, -1), repeat=3)))
    means = (signs * difference).mean(1)
    by_hand = (np.abs(means) >= abs(difference.mean()) - 1e-12).mean()
    assert permutation_p(difference) == pytest.approx(by_hand) == 0.5
    assert permutation_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 2**5)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.01, np.nan])) == pytest.approx([0.02, 1.0])
    assert len(holm(np.array([]))) == 0


def test_smallest_detectable_difference_is_found_in_four_of_five_cases():
    seeds, sigma = 6, 0.01
    generator, found = np.random.default_rng(2), 0
    true = Difference(seeds, 0.0, sigma / seeds**0.5, seeds - 1, 0, 0, 1, 1).smallest_detectable()
    for _ in range(2000):
        drawn = generator.normal(true, sigma, seeds)
        found += stats.ttest_1samp(drawn, 0).pvalue < 0.05
    assert 0.74 < found / 2000 < 0.86


def test_predictions_that_never_differ_show_nothing():
    same = paired_difference(*[np.ones(3)] * 2, *[np.ones((DRAWS, 3))] * 2)
    assert same.smallest_detectable() == float("inf") and same.p == 1.0


def test_a_verdict_is_never_equal():
    def of(mean, low, high, pairs=5):
        return Difference(pairs, mean, 0.01, pairs - 1, low, high, 0.01, 0.06)

    assert verdict(of(0.02, 0.01, 0.03), 0.01) == "better"
    assert verdict(of(-0.02, -0.03, -0.01), 0.01) == "worse"
    assert verdict(of(0.02, -0.01, 0.03), 0.01) == "undecided"
    assert verdict(of(0.02, 0.01, 0.03), 0.2) == "undecided"
    assert verdict(of(0.02, 0.01, 0.03), float("nan")) == "undecided"
    assert (
        verdict(paired_difference(*[np.ones(5)] * 2, *[np.ones((DRAWS, 5))] * 2), 1.0)
        == "undecided"
    )
    for pairs in range(1, FEWEST):  # whatever the test says of them
        assert verdict(of(0.02, 0.01, 0.03, pairs), 0.0) == ""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for seed in range(5):
        make_run(place, "cola", "craft", seed, quality=0.95, n=300)
        make_run(place, "cola", "head", seed, quality=0.6, n=300)
        make_run(place, "cola", "lora", seed, quality=0.95, n=300)
    for seed in range(4):
        make_run(place, "mrpc", "craft", seed, quality=0.95, n=300)
        make_run(place, "mrpc", "head", seed, quality=0.6, n=300)
    make_run(place, "rte", "craft", 0, quality=0.95)
    make_run(place, "rte", "lora", 0, quality=0.5)
    return load([place], CONFIGS)


def test_comparisons_decide_what_the_data_can_and_nothing_else(records):
    found = comparisons(records.runs, Resampled(records), "mini", "roberta_mini", "CRAFT")
    found = found.set_index(["against", "task"])
    assert found.loc[("Head only", "cola"), "verdict"] == "better"
    assert found.loc[("LoRA", "cola"), "verdict"] == "undecided"  # as good, not shown to be
    assert found.loc[("LoRA", "rte"), "n"] == 1
    p = found["p"].dropna().to_numpy()
    assert found["p_holm"].dropna().to_numpy() == pytest.approx(holm(p))
    ours = records.runs[(records.runs["task"] == "cola")].groupby("method")["best"].mean()
    assert found.loc[("Head only", "cola"), "difference"] == pytest.approx(
        100 * (ours["CRAFT"] - ours["Head only"])
    )
    assert len(p) == 2  # those of CoLA
    assert "equal" not in comparison_table(found.reset_index(), "mini", "roberta_mini").markdown()


def test_fewer_than_five_pairs_have_a_difference_and_nothing_more(records):
    """Two seeds would call equal methods apart in 3 to 6 % of cases for a nominal 1.25 %."""
    found = comparisons(records.runs, Resampled(records), "mini", "roberta_mini", "CRAFT")
    few = found[found["n"] < FEWEST]
    assert dict(zip(few["task"], few["n"], strict=True)) == {"mrpc": 4, "rte": 1}
    assert (few["difference"] > 20).all() and (few["verdict"] == "").all()
    kept = ["low", "high", "p", "p_holm", "p_permutation", "detectable"]
    assert few[kept].isna().all(axis=None) and found[found["n"] == 5][kept].notna().all(axis=None)
    lines = comparison_table(found, "mini", "roberta_mini").rows
    assert [line[4:] for line in lines if line[1] == "MRPC"] == [["-"] * 6]
    assert any("-: fewer than five" in n for n in comparison_table(found, "mini", "x").notes)


def test_an_interval_of_a_mean_needs_five_runs(records):
    found = intervals(records.runs, Resampled(records)).set_index(["method", "task"])
    assert (found.loc["CRAFT", "low"] <= found.loc["CRAFT", "high"])["cola"]
    assert found.loc[("CRAFT", "mrpc"), ["low", "high"]].isna().all()
    ours = records.runs[(records.runs["task"] == "cola") & (records.runs["method"] == "Head only")]
    whole = found.loc[("Head only", "cola")]
    assert whole["low"] < ours["best"].mean() < whole["high"]


def test_without_predictions_there_is_no_interval_and_no_decision(records, tmp_path):
    for seed in range(5):
        for method, quality in (("craft", 0.95), ("lora", 0.5)):
            made = make_run(tmp_path, "rte", method, seed, quality=quality)
            (tmp_path / made["provenance"]["name"] / "predictions.safetensors").unlink()
    bare = load([tmp_path], CONFIGS)
    resampled = Resampled(bare)
    assert intervals(bare.runs, resampled)["low"].isna().all()
    assert list(comparisons(bare.runs, resampled, "mini", "roberta_mini", "CRAFT")["verdict"]) == [
        ""
    ]


def test_predictions_of_another_run_are_named_and_not_used(tmp_path):
    first, second = (make_run(tmp_path, "rte", seed=seed) for seed in (0, 1))
    path, other = (
        tmp_path / made["provenance"]["name"] / "predictions.safetensors"
        for made in (first, second)
    )
    path.write_bytes(other.read_bytes())
    resampled = Resampled(load([tmp_path], CONFIGS))
    assert set(resampled.scores) == {second["id"]}
    assert str(path) in resampled.problems[0]


def test_bootstrap_agrees_with_the_recorded_score(records):
    """The predictions' own score lies within what resampling gives around it."""
    resampled = Resampled(records)
    for run, best in records.runs["best"].items():
        low, high = np.quantile(resampled.scores[run], [0.001, 0.999])
        assert low <= best <= high


def test_folds_are_paired_with_their_like(tmp_path):
    """Under one seed throughout, and with one fold that the other method lacks."""
    for number in range(3):
        for permutation in (0, 1):
            fold = (number, 5, permutation)
            make_run(tmp_path, method="craft", fold=fold, quality=0.7 + 0.05 * number)
            if number:
                make_run(tmp_path, method="lora", fold=fold, quality=0.6)
    records = load([tmp_path], CONFIGS)
    sampled = Resampled(records)
    (found,) = comparisons(records.runs, sampled, "mini", "roberta_mini", "CRAFT").to_dict(
        "records"
    )
    assert found["n"] == 4
    of = records.runs.set_index(["method", "fold"])["best"]
    pairs = [of["CRAFT", fold] - of["LoRA", fold] for fold in of["LoRA"].index]
    assert found["difference"] == pytest.approx(100 * np.mean(pairs))


def test_any_method_may_be_the_reference_of_a_comparison(records):
    ours = comparisons(records.runs, Resampled(records), "mini", "roberta_mini", "CRAFT")
    theirs = comparisons(records.runs, Resampled(records), "mini", "roberta_mini", "LoRA")
    both = [
        found[(found["against"] == other) & (found["task"] == "cola")]["difference"].item()
        for found, other in ((ours, "LoRA"), (theirs, "CRAFT"))
    ]
    assert both[0] == pytest.approx(-both[1])
    table = comparison_table(theirs, "mini", "roberta_mini")
    assert table.header[0] == "LoRA against" and "LoRA less each method" in table.title
