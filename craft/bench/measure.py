"""Figures measured side by side: interleaved rounds, ratios within a round, and how far they
scatter."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    def scatter(self) -> float:
        """Half the interval's width over the value."""
        if self.low is None or self.high is None or not self.value:
            return 0.0
        return (self.high - self.low) / 2 / self.value

    @property
    def goal(self) -> str:
        limits = (("at most", self.most), ("at least", self.least))
        return ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


@dataclass(frozen=True)
class Findings:
    """What one bench found: figures for the table, and facts for its file."""

    figures: list[Figure]
    facts: dict[str, Any]
    noisy: float = 0.1  # scatter of a ratio from which on it tells nothing
    remarks: tuple[str, ...] = ()

    def noise(self) -> float:
        return max((figure.scatter for figure in self.figures), default=0.0)


def interleaved(
    work: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> Times:
    """Time every piece of work once a round, in an order that turns from round to round, so that a
    slow spell of the machine meets all of them. A round before the first warms up."""
    names, times = [*work], {name: [] for name in work}
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            before = clock()
            work[name]()
            if turn:
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
        spread = "" if f.low is None else f"[{f.low:.3g}, {f.high:.3g}]"
        met = {None: "", True: "met", False: "MISSED"}[f.met]
        lines.append(f"{f.what:58} {f.value:10.4g} {f.unit:9} {spread:18} {f.goal:16} {met}")
    return "\n".join(line.rstrip() for line in lines)
