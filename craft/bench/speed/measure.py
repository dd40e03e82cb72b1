"""Figures measured side by side: interleaved rounds, ratios within a round, and how far they
scatter."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from craft.bench.pages import render

TEMPLATE = Path(__file__).with_name("page.md.jinja")
Times = dict[str, list[float]]  # seconds of each piece of work, one a round


@dataclass(frozen=True)
class Figure:
    """One measured number with its 95 % interval over the rounds, and the goal it is held to."""

    what: str
    value: float
    unit: str = "x"
    low: float | None = None
    high: float | None = None
    most: float | None = None  # the goal: at most this
    least: float | None = None  # the goal: at least this

    @property
    def met(self) -> bool | None:
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def undecided(self) -> bool:
        """Whether the interval reaches to both sides of the goal."""
        goals = [goal for goal in (self.most, self.least) if goal is not None]
        if self.low is None or self.high is None:
            return False
        return any(self.low < goal < self.high for goal in goals)

    @property
    def scatter(self) -> float:
        """Half the interval's width over the value."""
        if self.low is None or self.high is None or not self.value:
            return 0.0
        return (self.high - self.low) / 2 / self.value

    @property
    def goal(self) -> str:
        limits = (("at most", self.most), ("at least", self.least))
        return ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)

    @property
    def spread(self) -> str:
        return "" if self.low is None else f"[{self.low:.3g}, {self.high:.3g}]"

    @property
    def verdict(self) -> str:
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return f"{verdict}, within noise" if self.undecided else verdict


@dataclass(frozen=True)
class Findings:
    """What one bench found: figures for the table, and facts for its file."""

    figures: list[Figure]
    facts: dict[str, Any]
    remarks: tuple[str, ...] = ()

    def noise(self) -> float:
        """The largest scatter of a ratio."""
        return max((f.scatter for f in self.figures if f.unit == "x"), default=0.0)

    def warning(self) -> str | None:
        """What to say where the machine is too noisy to tell."""
        undecided = sum(f.undecided for f in self.figures)
        if not undecided:
            return None
        return (
            f"WARNING: too noisy to tell whether {undecided} of the figures meet their goals: run "
            "it on an idle machine, or with more rounds"
        )


def interleaved(
    work: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float],
    warm_up: Mapping[str, Callable[[], Any]] | None = None,
    settled: bool = False,
) -> Times:
    """Time every piece of work once a round, in an order that turns from round to round, so that a
    slow spell of the machine meets all of them. Before the first round each is done once, or its
    `warm_up`.

    With `settled` each is done once more, untimed, right before it is timed, as a step of a run
    follows another of its kind: what the one before it has left of the heap costs page faults."""
    names, times = [*work], {name: [] for name in work}
    for name in names:
        (warm_up or work)[name]()
    for turn in range(1, rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            if settled:
                work[name]()
            before = clock()
            work[name]()
            times[name].append(clock() - before)
    return times


def clock_of(device: str, threads: int) -> Callable[[], float]:
    """Seconds of this process on one CPU thread, which other load disturbs least; else seconds on
    the wall, the device waited for."""
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    import torch

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def figure(what: str, values: list[float], unit: str = "x", **goal: float) -> Figure:
    """The median of one value a round."""
    low, high = interval(values)
    return Figure(what, float(np.median(values)), unit, low, high, **goal)


def ratio(what: str, times: Times, name: str, to: str, **goal: float) -> Figure:
    """The median over the rounds of the time of `name` over the time of `to`."""
    each = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return figure(what, each, **goal)


def table(findings: Findings) -> str:
    """Figures as lines: what, value with its interval, goal, whether it is met."""
    lines = []
    for f in findings.figures:
        lines.append(
            f"{f.what:58} {f.value:10.4g} {f.unit:9} {f.spread:18} {f.goal:16} {f.verdict}"
        )
    return "\n".join(line.rstrip() for line in lines)


def page(written: Sequence[Mapping[str, Any]]) -> str:
    """The files of several benches as a Markdown page: a table each, with its machine."""
    return render(TEMPLATE, written=[{**one, "figures": _figures(one)} for one in written])


def _figures(one: Mapping[str, Any]) -> list[Figure]:
    """The figures of a bench's file, which has beside them whether each is met."""
    contents = ({k: v for k, v in content.items() if k != "met"} for content in one["figures"])
    return [Figure(**content) for content in contents]
