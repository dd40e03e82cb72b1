"""The study of results/STUDY.md from its records: pairs by fold, and the verdicts of its rules.

Which record is which run says `craft.bench.report.study.plan`; the rules are those that were frozen
before the first counted run, and nothing here chooses anything."""

import math
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from craft.bench.report.load import sound_records
from craft.bench.report.resampling import bootstrap_scores
from craft.bench.report.statistics import (
    FEWEST,
    LEVEL,
    FoldDifference,
    Share,
    fieller,
    holm,
    p_over_folds_and_examples,
)
from craft.bench.report.study.plan import Plan, Stage, StudyRun, run_of, score_of
from craft.bench.run.predictions import Dev, read_predictions
from craft.bench.run.record import Record
from craft.errors import InputError

MARGIN = 0.015  # H1: between the paper's own gaps to LoRA of 1.0 and 2.7 points
DRAWS = 1000  # bootstrap samples of a fold's examples, for a variance alone
COMMIT = re.compile(r"from commit `([0-9a-f]{40})`")
CRAFT, HEAD, LORA = "craft", "head", "lora"
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
WITHIN, YES, HURTS = "within 1.5 points", "yes", "it hurts"


@dataclass(frozen=True)
class Entry:
    """A record of the study and where it lies."""

    path: Path
    made: Record

    @property
    def ok(self) -> bool:
        return self.made.status == "ok"

    def score(self, epoch: str = "last") -> float:
        return score_of(self.made, epoch)

    @property
    def headline(self) -> str:
        return self.made.provenance["config"]["task"]["headline"]

    @property
    def seconds(self) -> float:
        return float(self.made.provenance["seconds"])


@dataclass(frozen=True)
class Question:
    """CRAFT against an arm in some stages; `ours` are the stages of CRAFT's runs where they are
    others."""

    id: str
    text: str
    stages: tuple[str, ...]
    arm: str
    ours: tuple[str, ...] = ()
    kind: str = ""  # whose words it has; none: an interval alone


A, B = ("A1", "A2"), ("B1", "B2")
V1 = Question("V1", "does the machinery invent effects?", ("V1",), CRAFT, ("A1",), "V1")
H3 = Question("H3", "does the pre-trained decomposition matter?", A, "random_matched", (), "H3")
H1 = Question("H1", "does it match LoRA with a seventh of the parameters?", B, LORA, (), "H1")
H2 = Question("H2", "and at its own budget?", A, LORA, (), "H2")
CONFIRMATORY = (H3, H1, H2)  # in this order, each only if the one before it is decided
PEERS = tuple(
    Question("H5", "peers at the budget", ("C",), arm, (), "H5")
    for arm in ("pissa", "lotr", "lora_xs", "adapter_pfeiffer", "bitfit", "vera")
)
DESCRIPTIVE = tuple(
    Question(name, text, ("D",), arm, ("A1",))
    for name, text, arms in (
        ("H3, more controls", "which part of the decomposition?", ("random_core", "trailing")),
        ("E1", "exact or noisy start", ("init_paper",)),
        ("E2", "which J", ("modes_1", "modes_2", "modes_3", "modes_23")),
        ("E3", "fewer layers' directions", ("layers_3", "layers_1")),
        ("E4", "ranks", ("ranks_50", "ranks_25", "lora_1")),
        ("E5", "more projections", ("qkvo",)),
        ("E6", "related parametrisations", ("core", "basis")),
    )
    for arm in arms
)


@dataclass(frozen=True)
class Comparison:
    """CRAFT less another arm, fold by fold, in fractions of one."""

    question: Question
    encoder: str
    tasks: tuple[str, ...]
    planned: int
    begun: int  # folds with any run of either arm
    difference: FoldDifference
    p_examples: float  # of the test over folds and examples; NaN where predictions are missing
    learnt: FoldDifference | None  # over the learnt tasks, where that is not all

    @property
    def n(self) -> int:
        return self.difference.n

    @property
    def complete(self) -> bool:
        return self.n == self.planned

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """None of fewer than five folds."""
        return self.difference.interval(level) if self.n >= FEWEST else None


@dataclass(frozen=True)
class Judged:
    """A comparison with the words that its rule has for it (none: it has not been judged) and why
    it has none."""

    comparison: Comparison
    words: tuple[str, ...]
    reason: str = ""

    @property
    def decided(self) -> bool:
        return bool(self.words) and self.words != (UNDECIDED,)

    @property
    def text(self) -> str:
        return "; ".join(self.words) or self.reason


@dataclass(frozen=True)
class Study:
    """The plan and what is on record of it."""

    plan: Plan
    entries: Mapping[StudyRun, Entry]
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, plan: Plan, commits: Collection[str]) -> "Study":
        """Every record of the plan's runs under a folder; what is not from a frozen commit, not of
        the study, or there twice, is named and left out."""
        entries: dict[StudyRun, Entry] = {}
        left_out: list[str] = []
        for path, made in sound_records(folder, left_out):
            try:
                run, here = run_of(made), made.provenance["environment"]
                score_of(made)
                clean = here["commit"] in commits and here["dirty"] is False
            except (KeyError, TypeError) as error:
                left_out.append(f"{path}: lacks what the study needs ({error})")
                continue
            if run is None or run.encoder not in plan.plain["encoders"]:
                left_out.append(f"{path}: no run of the study")
            elif not clean:
                left_out.append(f"{path}: not from the commit that results/STUDY.md names")
            elif made.status == "failed":
                left_out.append(f"{path}: the run failed: {made.error}")
            elif run in entries:
                left_out.append(f"{path}: the same run as {entries[run].path}")
            else:
                entries[run] = Entry(path, made)
        study = cls(plan, entries, left_out)
        known = set(plan.runs_known(study.scores))
        left_out += [
            f"{entry.path}: no run of the plan by the rates that the searches have come to"
            for run, entry in entries.items()
            if run not in known
        ]
        return study

    @cached_property
    def scores(self) -> dict[StudyRun, float]:
        return {run: score_of(entry.made) for run, entry in self.entries.items()}

    @cached_property
    def stages(self) -> dict[str, Stage]:
        return {stage.name: stage for stage in self.plan.stages}

    def encoder(self, stage: str) -> str:
        return self.plan.plain["blocks"][self.stages[stage].block]["encoder"]

    @cached_property
    def _named(self) -> dict[str, list[StudyRun]]:
        return {name: self.plan.runs(s, self.scores)[0] for name, s in self.stages.items()}

    def runs(
        self, stages: Iterable[str], arm: str, tasks: Iterable[str] = ()
    ) -> dict[StudyRun, Entry]:
        """The runs on record of an arm in some stages, diverged ones too."""
        tasks = tuple(tasks)
        return {
            run: self.entries[run]
            for stage in stages
            for run in self._named[stage]
            if run.arm == arm and (not tasks or run.task in tasks) and run in self.entries
        }

    def planned(self, stages: Iterable[str]) -> int:
        """Folds (or seeds) of an arm."""
        return sum(len(self.stages[stage].places) for stage in stages)

    def diverged(self) -> list[StudyRun]:
        return [run for run, entry in self.entries.items() if not entry.ok]

    # predictions ------------------------------------------------------------------------------

    @cached_property
    def _predictions(self) -> dict[StudyRun, tuple[Dev, np.ndarray]]:
        """At the last epoch, of the runs that have them."""
        found = {}
        for run, entry in self.entries.items():
            if run.selection != "fold" or not entry.ok:
                continue
            try:
                one = read_predictions(entry.path, entry.made, "last")
            except InputError as error:
                self.left_out.append(str(error))
                continue
            if one is not None:
                found[run] = one
        return found

    @cached_property
    def _resampled(self) -> dict[StudyRun, np.ndarray]:
        """Scores (DRAWS,) on bootstrap samples of a fold's examples, the same for all its runs and
        others than any other fold's."""
        folds: dict[Any, list[StudyRun]] = {}
        for run in self._predictions:
            folds.setdefault((run.encoder, run.task, run.fold, run.permutation), []).append(run)
        found: dict[StudyRun, np.ndarray] = {}
        for (_, task, fold, permutation), runs in folds.items():
            dev = self._predictions[runs[0]][0]
            runs = [run for run in runs if self._predictions[run][0] == dev]
            columns = np.stack([self._predictions[run][1] for run in runs], axis=1)
            stream = zlib.crc32(f"{task} {fold} {permutation}".encode())
            metric = self.entries[runs[0]].headline
            drawn = bootstrap_scores(metric, dev.labels, columns, DRAWS, stream)
            found |= {run: drawn[:, n] for n, run in enumerate(runs)}
        return found

    def constant(self, run: StudyRun) -> float | None:
        """The constant predictor's score where a run is scored: the larger class's share, 0 of a
        correlation; None where the labels are not at hand."""
        if self.entries[run].headline != "accuracy":
            return 0.0
        if run not in self._predictions:
            return None
        labels = self._predictions[run][0].labels
        return float(np.bincount(labels).max() / len(labels))

    # V0 ---------------------------------------------------------------------------------------

    def over_constant(self, runs: Mapping[StudyRun, Entry]) -> FoldDifference:
        """An arm's scores of one task less the constant predictor's, over folds."""
        found = [
            entry.score() - constant
            for run, entry in runs.items()
            if entry.ok and (constant := self.constant(run)) is not None
        ]
        return FoldDifference.of(np.array(found), self.test_to_train)

    @property
    def test_to_train(self) -> float:
        return 1 / (self.plan.plain["folds"] - 1)

    def learnt(self, encoder: str, task: str) -> bool | None:
        """Whether any arm's interval lies above the constant predictor; None before an arm has five
        folds."""
        key = (encoder, task)
        if key not in self._learnt:
            found = []
            for name in self.stages:
                if name == "F" or self.encoder(name) != encoder:
                    continue
                together = next((s for s in (A, B) if name in s), (name,))
                for arm in self.stages[name].arms:
                    over = self.over_constant(self.runs(together, arm, [task]))
                    if over.n >= FEWEST:
                        found.append(over.interval()[0] > 0)
            self._learnt[key] = any(found) if found else None
        return self._learnt[key]

    @cached_property
    def _learnt(self) -> dict[tuple[str, str], bool | None]:
        return {}

    # comparisons ------------------------------------------------------------------------------

    def _folds(
        self, stages: Iterable[str], arm: str, tasks: Sequence[str], key: Callable[[StudyRun], Any]
    ) -> dict[Any, dict[str, StudyRun]]:
        """place -> task -> run, diverged ones too."""
        found: dict[Any, dict[str, StudyRun]] = {}
        for run in self.runs(stages, arm, tasks):
            found.setdefault(key(run), {})[run.task] = run
        return found

    def paired(
        self, stages: tuple[str, ...], arms: Sequence[tuple[tuple[str, ...], str]]
    ) -> tuple[list[list[dict[str, StudyRun]]], tuple[str, ...], int]:
        """The complete folds of some arms, each (stages, arm): a list by arm of task -> run for
        every fold in which each has a score of every task; the tasks; and the folds that these
        stages have begun."""
        tasks = self.stages[stages[0]].tasks
        same_seed = all(
            self.stages[own].places == self.stages[other].places
            for their, _ in arms
            for own, other in zip(their, stages, strict=True)
        )

        def place(run: StudyRun) -> tuple[int, int | None, int]:
            return run.permutation, run.fold, run.seed if same_seed else -1

        found = [self._folds(own, arm, tasks, place) for own, arm in arms]
        theirs = [one for one, (own, _) in zip(found, arms, strict=True) if own == stages]
        begun = sorted(set().union(*theirs), key=str)
        complete = [
            spot
            for spot in begun
            if all(
                set(one.get(spot, {})) == set(tasks)
                and all(self.entries[run].ok for run in one[spot].values())
                for one in found
            )
        ]
        return [[one[spot] for spot in complete] for one in found], tasks, len(begun)

    def mean(self, runs: Mapping[str, StudyRun], tasks: Iterable[str]) -> float:
        return float(np.mean([self.entries[runs[task]].score() for task in tasks]))

    def comparison(self, question: Question) -> Comparison:
        """CRAFT less the arm; of V1 CRAFT under the first seeds less CRAFT under others."""
        stages = question.stages
        (ours, theirs), tasks, begun = self.paired(
            stages, [(question.ours or stages, CRAFT), (stages, question.arm)]
        )
        encoder = self.encoder(stages[0])

        def over(tasks: Sequence[str]) -> FoldDifference:
            pairs = zip(ours, theirs, strict=True)
            found = [self.mean(a, tasks) - self.mean(b, tasks) for a, b in pairs]
            return FoldDifference.of(np.array(found), self.test_to_train)

        learnt = [task for task in tasks if self.learnt(encoder, task) is not False]
        return Comparison(
            question,
            encoder,
            tasks,
            self.planned(stages),
            begun,
            over(tasks),
            self._p_examples(ours, theirs, tasks),
            over(learnt) if learnt and len(learnt) < len(tasks) else None,
        )

    def _p_examples(
        self,
        ours: Sequence[Mapping[str, StudyRun]],
        theirs: Sequence[Mapping[str, StudyRun]],
        tasks: Sequence[str],
    ) -> float:
        """Every fold has examples of its own, those of another permutation apart, which are the
        same again: their variance is not made smaller by it."""
        used = [run for fold in (*ours, *theirs) for run in fold.values()]
        if len(ours) < FEWEST or any(run not in self._resampled for run in used):
            return math.nan
        drawn = [
            np.mean([self._resampled[a[t]] - self._resampled[b[t]] for t in tasks], axis=0)
            for a, b in zip(ours, theirs, strict=True)
        ]
        repeats = len({fold[tasks[0]].permutation for fold in ours})
        examples = repeats * sum(float(one.var(ddof=1)) for one in drawn) / len(drawn) ** 2
        difference = [
            self.mean(a, tasks) - self.mean(b, tasks) for a, b in zip(ours, theirs, strict=True)
        ]
        return p_over_folds_and_examples(np.array(difference), examples)

    def share(self, stages: tuple[str, ...]) -> tuple[Share, int]:
        """H4: (CRAFT - head) / (LoRA - head), and the planned folds."""
        (craft, lora, head), tasks, _ = self.paired(
            stages, [(stages, CRAFT), (stages, LORA), (stages, HEAD)]
        )
        scores = [np.array([self.mean(f, tasks) for f in arm]) for arm in (craft, lora, head)]
        planned = self.planned(stages)
        if not len(scores[0]):
            return Share(0, math.nan, None), planned
        return fieller(scores[0] - scores[2], scores[1] - scores[2], self.test_to_train), planned

    # verdicts ---------------------------------------------------------------------------------

    @cached_property
    def v1(self) -> Judged:
        found = self.comparison(V1)
        if not found.complete:
            return Judged(found, (), so_far(found))
        low, high = found.difference.interval()
        return Judged(found, ("it does not",) if low <= 0 <= high else ("it does",))

    @cached_property
    def confirmatory(self) -> dict[str, Judged]:
        """H3, H1 and H2 by id: words at the planned number of folds alone, after V1, and each only
        if the one before it is decided."""
        found: dict[str, Judged] = {}
        before: Judged | None = None
        for question in CONFIRMATORY:
            comparison = self.comparison(question)
            if reason := self._unjudged(comparison):
                judged = Judged(comparison, (), reason)
            elif before is not None and not before.decided:
                earlier = before.comparison.question.id
                judged = Judged(comparison, (), f"not tested: {earlier} is not decided")
            else:
                judged = Judged(comparison, WORDS[question.kind](comparison.difference))
            found[question.id] = before = judged
        return found

    def _unjudged(self, comparison: Comparison) -> str:
        """Why there is no verdict yet; empty where there may be one."""
        if not comparison.complete:
            return so_far(comparison)
        if not self.v1.words:
            return f"waits for V1 ({self.v1.text})"
        return "" if self.v1.words == ("it does not",) else "no verdict: V1 found a difference"

    @cached_property
    def peers(self) -> list[Judged]:
        """H5: two-sided with Holm's correction within the six, once all six are complete."""
        found = [self.comparison(question) for question in PEERS]
        reason = next(filter(None, map(self._unjudged, found)), "")
        if reason:
            return [
                Judged(one, (), self._unjudged(one) or "waits for the other five") for one in found
            ]
        corrected = holm(np.array([one.difference.p for one in found]))
        return [
            Judged(one, (two_sided(one.difference.mean, p),))
            for one, p in zip(found, corrected, strict=True)
        ]

    @cached_property
    def descriptive(self) -> list[Comparison]:
        return [self.comparison(question) for question in DESCRIPTIVE]


def so_far(found: Comparison) -> str:
    """`7 of 10 folds`, those left out, and the power that these have, in place of a verdict."""
    text = f"{found.n} of {found.planned} folds"
    if left := found.begun - found.n:
        text += f", {left} incomplete"
    difference = found.difference
    if found.question.kind == "H1" and not math.isnan(power := difference.power_within(MARGIN)):
        text += f"; a true 0 is called {WITHIN} in {100 * power:.0f} %"
    elif math.isfinite(least := difference.smallest_detectable()) and found.question.kind:
        text += f"; detectable {100 * least:.1f}"
    return text


def two_sided(mean: float, p: float) -> str:
    if not p < LEVEL:
        return UNDECIDED
    return BETTER if mean > 0 else WORSE


def _against_lora(found: FoldDifference) -> tuple[str, ...]:
    """H1: the 90 % interval above -1.5, and below 0; both may hold."""
    low, high = found.interval(2 * LEVEL)
    words = [*([WITHIN] if low > -MARGIN else []), *([WORSE] if high < 0 else [])]
    return tuple(words) or (UNDECIDED,)


def _decomposition(found: FoldDifference) -> tuple[str, ...]:
    low, high = found.interval()
    return (YES,) if low > 0 else (HURTS,) if high < 0 else (UNDECIDED,)


WORDS: dict[str, Callable[[FoldDifference], tuple[str, ...]]] = {
    "H1": _against_lora,
    "H2": lambda found: (two_sided(found.mean, found.p),),
    "H3": _decomposition,
}


def frozen_commits(page: Path) -> list[str]:
    """Those that results/STUDY.md says the runs are made from."""
    return COMMIT.findall(page.read_text(encoding="utf-8")) if page.is_file() else []


def counted(study: Study) -> tuple[int, int]:
    """Runs of the plan's stages that are on record, and all of them: one that stands in two stages,
    since two searches have come to one rate, once."""
    plan, scores = study.plan, study.scores
    named = [run for stage in plan.stages for run in plan.runs(stage, scores)[0]]
    every = sum(plan.total(scores, stage)[1] for stage in plan.stages)
    twice = len(named) - len(set(named))
    return len(set(named) & scores.keys()), every - twice
