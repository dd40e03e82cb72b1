"""How sure a score or a difference is, over seeds and dev examples together.

A run's score varies with its seed, and with the examples that the dev set happens to hold. For S
seeds of two methods on the same examples, d_s the difference of the scores under seed s, the mean
difference has the variance

    V = s^2(d) / S + V_examples,

the first term from the spread over seeds, the second by bootstrap over examples with the seeds
kept. The test is t = mean(d) / sqrt(V) with Satterthwaite's degrees of freedom: the paired t-test
of `scipy.stats.ttest_rel`, made wider by what another dev set would change. What seed and examples
do together is in both terms, so the test errs towards `undecided`.

Folds share rows of training, so that their differences are not independent: those are judged by the
corrected resampled t (Nadeau and Bengio 2003), `FoldDifference`.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

LEVEL = 0.05
FEWEST = 5  # runs, or pairs of runs, that an interval, a test and a verdict need
POWER = 0.8


def seed_samples(seeds: int, draws: int, seed: int = 1) -> np.ndarray:
    """Bootstrap samples of the seeds, as indices (draws, seeds)."""
    return np.random.default_rng(seed).integers(seeds, size=(draws, seeds))


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds, drawn too: scores (draws, S)."""
    picked = np.take_along_axis(resampled, seed_samples(resampled.shape[1], len(resampled)), axis=1)
    low, high = np.quantile(picked.mean(axis=1), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def p_of_t(mean: float, error: float, freedom: float) -> float:
    """Two-sided p of a mean of zero, given its standard error above 0 and degrees of freedom."""
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def detectable(error: float, freedom: float, level: float = LEVEL) -> float:
    """The true difference that a two-sided t-test finds in 80 % of studies with this spread.

    Infinite of one run, and where no prediction differed: no spread is no certainty."""
    if not 0 < error < math.inf:
        return math.inf
    return float((stats.t.ppf(1 - level / 2, freedom) + stats.t.ppf(POWER, freedom)) * error)


@dataclass(frozen=True)
class Difference:
    """The mean paired difference of S seeds, and how sure it is.

    `p` is of the t-test over seeds and examples, `p_permutation` of the exact sign permutation over
    seeds alone, which needs no distribution and cannot fall below 2^(1 - S)."""

    n: int
    mean: float
    standard_error: float
    freedom: float
    low: float
    high: float
    p: float
    p_permutation: float

    def smallest_detectable(self, comparisons: int = 1) -> float:
        """`detectable` at the strictest level of so many tests."""
        return detectable(self.standard_error, self.freedom, LEVEL / comparisons)


def paired_difference(
    a: np.ndarray, b: np.ndarray, resampled_a: np.ndarray, resampled_b: np.ndarray
) -> Difference:
    """Method a less b, seed by seed: scores (S,), and on the same bootstrap samples (draws, S)."""
    difference, resampled = a - b, resampled_a - resampled_b
    seeds = len(difference)
    low, high = interval(resampled)
    examples = float(resampled.mean(axis=1).var(ddof=1))
    mean = float(difference.mean())
    if seeds < 2:
        # one seed says nothing of the spread over seeds
        return Difference(seeds, mean, np.inf, np.nan, low, high, np.nan, np.nan)
    error, freedom, p = _over_seeds_and_examples(difference, examples)
    by_signs = permutation_p(difference) if error else 1.0
    return Difference(seeds, mean, error, freedom, low, high, p, by_signs)


@dataclass(frozen=True)
class FoldDifference:
    """The mean of J paired differences over folds by the corrected resampled t: variance
    s^2 (1/J + n_test/n_train), J - 1 degrees of freedom. Infinite standard error of fewer than
    two."""

    n: int
    mean: float
    standard_error: float
    freedom: int

    @classmethod
    def of(cls, difference: np.ndarray, test_to_train: float) -> "FoldDifference":
        """From the differences (J,) and n_test/n_train; 1 / (K - 1) of K folds."""
        n = len(difference)
        if n < 2:
            return cls(n, float(difference.mean()) if n else math.nan, math.inf, 0)
        variance = float(difference.var(ddof=1)) * (1 / n + test_to_train)
        return cls(n, float(difference.mean()), math.sqrt(variance), n - 1)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided at 1 - level; NaN of fewer than two folds."""
        if self.n < 2:
            return math.nan, math.nan
        reach = float(stats.t.ppf(1 - level / 2, self.freedom)) * self.standard_error
        return self.mean - reach, self.mean + reach

    @property
    def p(self) -> float:
        """Two-sided, of a mean of zero; NaN of fewer than two folds, 1 where none differed."""
        if self.n < 2:
            return math.nan
        if self.standard_error == 0.0:
            return 1.0 if self.mean == 0.0 else 0.0
        return p_of_t(self.mean, self.standard_error, self.freedom)

    def smallest_detectable(self) -> float:
        """`detectable` with this spread."""
        return detectable(self.standard_error, self.freedom)

    def power_within(self, margin: float) -> float:
        """How probably a true difference of zero is called no worse than -margin (one-sided at 5 %)
        with this spread: by the noncentral t. NaN where no spread is known."""
        if not 0 < self.standard_error < math.inf:
            return math.nan
        threshold = stats.t.ppf(1 - LEVEL, self.freedom)
        return float(stats.nct.sf(threshold, self.freedom, margin / self.standard_error))


@dataclass(frozen=True)
class Share:
    """A quotient of means over folds with Fieller's (1954) interval, None where that has no
    bounds."""

    n: int
    value: float
    bounds: tuple[float, float] | None


def fieller(above: np.ndarray, below: np.ndarray, test_to_train: float) -> Share:
    """mean(above) / mean(below) of paired values (J,): all q for which the corrected t does not
    reject mean(above - q below) = 0 at 5 %. They are an interval only where below's own mean is
    told from zero."""
    n, a, b = len(above), float(above.mean()), float(below.mean())
    value = a / b if b else math.nan
    if n < 2:
        return Share(n, value, None)
    covariance = np.cov(above, below, ddof=1) * (1 / n + test_to_train)
    t = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) ** 2
    first, half, last = b * b, a * b, a * a
    first, half, last = (
        part - t * float(covariance[place])
        for part, place in zip((first, half, last), ((1, 1), (0, 1), (0, 0)), strict=True)
    )
    if first <= 0:
        return Share(n, value, None)
    root = math.sqrt(max(half * half - first * last, 0.0))
    return Share(n, value, ((half - root) / first, (half + root) / first))


def p_over_folds_and_examples(difference: np.ndarray, examples: float) -> float:
    """p of the test over seeds and examples: differences (J,), and the variance of their mean over
    examples. NaN of fewer than two."""
    if len(difference) < 2:
        return math.nan
    return _over_seeds_and_examples(difference, examples)[2]


def _over_seeds_and_examples(difference: np.ndarray, examples: float) -> tuple[float, float, float]:
    """Standard error, Satterthwaite's degrees of freedom and two-sided p of a mean difference."""
    seeds = len(difference)
    spread = float(difference.var(ddof=1)) / seeds
    total = spread + examples
    if total == 0.0:  # the same predictions throughout
        return 0.0, seeds - 1.0, 1.0
    # the variance over examples rests on so many that its own freedom has no bound here
    freedom = (seeds - 1) * (total / spread) ** 2 if spread > 0 else np.inf
    error = math.sqrt(total)
    return error, freedom, p_of_t(float(difference.mean()), error, freedom)


def permutation_p(difference: np.ndarray) -> float:
    """Two-sided p of a mean difference (S,) under sign changes: exact to 13 seeds, then drawn."""
    test = stats.permutation_test(
        (difference, np.zeros_like(difference)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction for the number of comparisons; NaN (no test was possible) counts as 1."""
    if len(p) == 0:
        return np.array([])
    return np.asarray(multipletests(np.nan_to_num(p, nan=1.0), alpha=LEVEL, method="holm")[1])


def verdict(difference: Difference, p_corrected: float) -> str:
    """`better` or `worse` where test and interval both exclude zero, otherwise `undecided`; no word
    of fewer than FEWEST pairs, where a test rejects more often than its level says."""
    if difference.n < FEWEST:
        return ""
    if not p_corrected < LEVEL or difference.low <= 0.0 <= difference.high:
        return "undecided"
    return "better" if difference.mean > 0 else "worse"
