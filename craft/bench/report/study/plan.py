"""The study as a list of runs: which are next, given what is done; a function of the plan
(`configs/study.yaml`) and of records alone."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from craft.bench.run.record import Record
from craft.errors import InputError

HEAD = "head"  # the arm whose rate is the head's


@dataclass(frozen=True)
class StudyRun:
    """One run of the study. `selection` is dev, fold or train_holdout, which is a search's."""

    encoder: str
    arm: str
    task: str
    selection: str
    seed: int
    lr: float
    head_lr: float
    fold: int | None = None
    permutation: int = 0

    @property
    def cell(self) -> str:
        return f"{self.encoder}/{self.arm}"

    @property
    def label(self) -> str:
        """For people: `all-MiniLM-L6-v2/craft mrpc fold 3.0 seed 3`."""
        where = {"fold": f"fold {self.fold}.{self.permutation}", "dev": "dev"}
        found = where.get(self.selection, f"search lr {self.lr:g} head {self.head_lr:g}")
        return f"{self.cell} {self.task} {found} seed {self.seed}"


def run_of(made: Record) -> StudyRun | None:
    """The run of the study that a record is of; None where it is none."""
    config = made.provenance["config"]
    if not config.get("cell"):
        return None
    encoder, _, arm = config["cell"].partition("/")
    return StudyRun(
        encoder=encoder,
        arm=arm,
        task=config["task"]["name"],
        selection=config["selection"],
        seed=config["seed"],
        lr=config["train"]["lr"],
        head_lr=config["train"]["head_lr"],
        fold=config["fold"]["number"],
        permutation=config["fold"]["permutation"],
    )


def score_of(made: Record, epoch: str = "last") -> float:
    """A record's headline metric at the last epoch, or the best; -inf of a run that diverged."""
    found = made.score(epoch) if made.ok else None
    return -math.inf if found is None else found


@dataclass(frozen=True)
class Choice:
    """A learning rate that a search has chosen, and the mean score of every rate it tried."""

    chosen: float
    tried: Mapping[float, float]


@dataclass(frozen=True)
class Stage:
    """Runs of some arms on some tasks: folds under seeds, or the official split."""

    name: str
    block: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    places: tuple[tuple[str, int, int | None, int], ...]  # selection, seed, fold, permutation


@dataclass(frozen=True)
class Plan:
    """`configs/study.yaml`."""

    plain: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """InputError where a block, an arm or a grid is named that is not there."""
        plan = cls(OmegaConf.to_container(OmegaConf.load(path)))  # type: ignore[arg-type]
        for encoder, arms in plan.plain["arms"].items():
            for name, arm in arms.items():
                _known(path, "rate", plan._owner(encoder, name)[1], arms)
                if "grid" in arm:
                    _known(path, "grid", arm["grid"], plan.plain["grids"])
        for stage in plan.stages:
            block = plan.plain["blocks"][stage.block]
            for arm in stage.arms:
                _known(
                    path, f"arm of stage {stage.name}", arm, plan.plain["arms"][block["encoder"]]
                )
        return plan

    @property
    def stages(self) -> list[Stage]:
        return [self._stage(stage) for stage in self.plain["stages"]]

    def _stage(self, stage: Mapping[str, Any]) -> Stage:
        block, folds = self.plain["blocks"][stage["block"]], range(self.plain["folds"])
        if "official" in stage:
            places = [("dev", seed, None, 0) for seed in range(stage["official"])]
        else:
            repeat = stage.get("repeat", 0)
            first = stage.get("seeds", repeat * len(folds))
            places = [("fold", first + k, k, repeat) for k in folds]
        return Stage(
            name=stage["name"],
            block=stage["block"],
            arms=tuple(stage.get("arms", block["arms"])),
            tasks=tuple(stage.get("tasks", block["tasks"])),
            places=tuple(places),
        )

    def _owner(self, encoder: str, arm: str) -> tuple[str | None, str]:
        """The block (None: the arm's own) and the arm whose search gives an arm its rate."""
        block, _, owner = self.plain["arms"][encoder][arm].get("rate", f"/{arm}").partition("/")
        return block or None, owner

    def searched(self, block: str, arm: str) -> tuple[str, str]:
        """The block and the arm whose search gives an arm of a block its rate."""
        own, owner = self._owner(self.plain["blocks"][block]["encoder"], arm)
        return own or block, owner

    def searches(
        self, block: str, arm: str, scores: Mapping[StudyRun, float]
    ) -> tuple[Choice | None, list[StudyRun]]:
        """The rate that a search has chosen, None before it has, and its runs that are done."""
        encoder = self.plain["blocks"][block]["encoder"]
        rate, _ = self.search(block, arm, scores)
        tasks = self.plain["blocks"][block]["tasks"]
        rates = rate.tried if rate else None
        head = None if arm == HEAD else self.head(encoder, scores)[0]
        return rate, [
            run
            for run in scores
            if (run.encoder, run.arm, run.selection) == (encoder, arm, "train_holdout")
            and run.task in tasks
            and (rates is None or run.lr in rates)
            and (arm == HEAD or (head is not None and run.head_lr == head.chosen))
        ]

    def search(
        self, block: str, arm: str, scores: Mapping[StudyRun, float]
    ) -> tuple[Choice | None, list[StudyRun]]:
        """The rate that a search has come to and None of its runs, or no rate and the runs that
        it still needs (none where it waits for the head's)."""
        facts = self.plain["blocks"][block]
        encoder = facts["encoder"]
        head = None if arm == HEAD else self.head(encoder, scores)[0]
        if arm != HEAD and head is None:
            return None, []
        grid = [
            float(rate) for rate in self.plain["grids"][self.plain["arms"][encoder][arm]["grid"]]
        ]

        def at(rate: float) -> list[StudyRun]:
            head_lr = rate if head is None else head.chosen
            return [
                StudyRun(encoder, arm, task, "train_holdout", 0, rate, head_lr)
                for task in facts["tasks"]
            ]

        def lacking() -> list[StudyRun]:
            return [run for rate in grid for run in at(rate) if run not in scores]

        def means() -> dict[float, float]:
            return {rate: _mean(scores[run] for run in at(rate)) for rate in grid}

        if not lacking():
            best = max(grid, key=means().__getitem__)
            grid = [*grid, *outwards(grid, best)]
        if needed := lacking():
            return None, needed
        return Choice(max(grid, key=means().__getitem__), means()), []

    def head(
        self, encoder: str, scores: Mapping[StudyRun, float]
    ) -> tuple[Choice | None, list[StudyRun]]:
        """`search` of the head's rate of an encoder."""
        return self.search(self.plain["encoders"][encoder]["head"], HEAD, scores)

    def runs(
        self, stage: Stage, scores: Mapping[StudyRun, float]
    ) -> tuple[list[StudyRun], list[StudyRun]]:
        """The runs of a stage that can be named by now, fold by fold, and those of searches that
        the others wait for."""
        encoder = self.plain["blocks"][stage.block]["encoder"]
        head, needed = self.head(encoder, scores)
        rates: dict[str, Choice] = {}
        for arm in stage.arms:
            found, more = self.search(*self.searched(stage.block, arm), scores)
            needed += [run for run in more if run not in needed]
            if found is not None:
                rates[arm] = found
        if head is None:
            return [], needed
        named = [
            StudyRun(
                encoder,
                arm,
                task,
                selection,
                seed,
                rates[arm].chosen,
                head.chosen,
                fold,
                permutation,
            )
            for (selection, seed, fold, permutation), task, arm in itertools.product(
                stage.places, stage.tasks, stage.arms
            )
            if arm in rates
        ]
        return named, needed

    def pending(
        self, scores: Mapping[StudyRun, float], last: str | None = None
    ) -> Iterator[StudyRun]:
        """What can be run now, in order, up to the stage `last`: searches before what waits for
        them."""
        seen = set(scores)
        for stage in self.stages:
            named, needed = self.runs(stage, scores)
            for run in [*needed, *named]:
                if run not in seen:
                    seen.add(run)
                    yield run
            if stage.name == last:
                return

    def total(self, scores: Mapping[StudyRun, float], stage: Stage) -> tuple[int, int]:
        """Runs of a stage that are done, and all of them."""
        named, _ = self.runs(stage, scores)
        every = len(stage.places) * len(stage.tasks) * len(stage.arms)
        return sum(run in scores for run in named), every

    def runs_known(self, scores: Mapping[StudyRun, float]) -> Iterator[StudyRun]:
        """Every run of the plan that can be named by now: its stages', and those that its searches
        have made."""
        for stage in self.stages:
            yield from self.runs(stage, scores)[0]
            for arm in (HEAD, *stage.arms):
                block, owner = (
                    self.searched(stage.block, arm)
                    if arm != HEAD
                    else (self.plain["encoders"][self._encoder(stage.block)]["head"], HEAD)
                )
                yield from self.searches(block, owner, scores)[1]

    def _encoder(self, block: str) -> str:
        return self.plain["blocks"][block]["encoder"]

    def overrides(self, run: StudyRun) -> list[str]:
        """The command line of a run, but for where things lie."""
        arm = self.plain["arms"][run.encoder][run.arm]
        given = [*self.plain["common"], *self.plain["encoders"][run.encoder]["set"], *arm["set"]]
        given = [text.replace("{seed}", str(run.seed)) for text in given]
        given += [f"model.name={run.encoder}", f"cell={run.cell}", f"task={run.task}"]
        given += [f"seed={run.seed}", f"train.lr={run.lr:g}", f"train.head_lr={run.head_lr:g}"]
        given += [f"selection={run.selection}"]
        if run.selection == "fold":
            given += [f"fold.number={run.fold}", f"fold.count={self.plain['folds']}"]
            given += [f"fold.permutation={run.permutation}"]
        return [*given, "search=true"] if run.selection == "train_holdout" else given


def outwards(grid: list[float], best: float) -> list[float]:
    """The next rate of the series 1, 3, 10, 30 ... beyond the grid where its best is an end, else
    none."""
    series = [float(f"{digit}e{power}") for power in range(-8, 1) for digit in (1, 3)]
    if best == min(grid):
        return [max(rate for rate in series if rate < best * (1 - 1e-9))]
    if best == max(grid):
        return [min(rate for rate in series if rate > best * (1 + 1e-9))]
    return []


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _known(path: Path, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"{path}: {what} {name!r} is not one of {', '.join(known)}")
