"""What the study shows: its tables and its figure. Every word in them is a function of the
records."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from craft.bench.report.figures.style import (
    COLOURS,
    MARKERS,
    Drawn,
    count_axis,
    legend_below,
    panels,
    styled,
)
from craft.bench.report.statistics import FEWEST
from craft.bench.report.study.evidence import (
    CRAFT,
    HURTS,
    WITHIN,
    WORSE,
    YES,
    A,
    B,
    Comparison,
    Judged,
    Question,
    Study,
)
from craft.bench.report.study.plan import HEAD
from craft.bench.report.tables.cells import NAMES, spread
from craft.bench.report.tables.render import (
    MISSING,
    Table,
    between,
    number,
    p_text,
    percent,
    signed,
)

LABELS = {"craft": "CRAFT", "lora": "LoRA", "head": "head alone", "lora_1": "LoRA, r = 1"}
LABELS |= {"random_matched": "random factors, HOSVD's norm", "random_core": "random core"}
LABELS |= {"trailing": "trailing directions", "pissa": "PiSSA", "lotr": "LoTR"}
LABELS |= {"lora_xs": "LoRA-XS", "adapter_pfeiffer": "Pfeiffer adapter", "bitfit": "BitFit"}
LABELS |= {"vera": "VeRA", "init_paper": "noisy start (the paper's)"}
LABELS |= {"modes_1": "J1 alone", "modes_2": "J2 alone", "modes_3": "J3 alone"}
LABELS |= {"modes_23": "J2 and J3", "layers_3": "r1 = 3", "layers_1": "r1 = 1"}
LABELS |= {"ranks_50": "ranks (6, 50, 50)", "ranks_25": "ranks (6, 25, 25)"}
LABELS |= {"qkvo": "q, k, v, o at (6, 70, 70)", "core": "the core in place of J"}
LABELS |= {"basis": "J = I + sum c_i B_i"}
SUPPORTED, REFUTED, UNDECIDED, UNTESTED = "supported", "refuted", "undecided", "untested"
GROUPS = (A, B, ("C",), ("D",), ("V1",), ("F",))  # of stages whose runs are seeds of one cell
HEADLINE = (A, B)


def study_tables(study: Study, published: Sequence[Table]) -> list[Table]:
    return [
        claims_table(study, published),
        headline_table(study),
        hypotheses_table(study),
        scores_table(study),
        search_table(study),
        intruders_table(study),
    ]


def label(arm: str) -> str:
    return LABELS.get(arm, arm)


def trained(runs: Sequence[Any]) -> int | None:
    """Of an arm, from its records."""
    found = {
        entry.made["result"]["parameters"]["adapter"] for entry in runs if entry.made["result"]
    }
    return max(found) if found else None


def _span(bounds: tuple[float, float] | None) -> str:
    return MISSING if bounds is None else between(100 * bounds[0], 100 * bounds[1])


def _points(value: float) -> str:
    return signed(100 * value)


# rates and what they cost ---------------------------------------------------------------------


def rate_facts(study: Study, block: str, arm: str) -> dict[str, Any]:
    """Whose learning rate an arm of a block has, and what that search cost: runs and hours."""
    place, owner = study.plan.searched(block, arm)
    rate, runs = study.plan.searches(place, owner, study.scores)
    seconds = sum(study.entries[run].seconds for run in runs)
    return {
        "searched": f"{place}/{owner}",
        "chosen": rate.chosen if rate else math.nan,
        "search_runs": len(runs),
        "search_hours": seconds / 3600,
    }


def _rate(facts: dict[str, Any]) -> str:
    if math.isnan(facts["chosen"]):
        return MISSING
    cost = f"{facts['search_runs']} runs, {facts['search_hours']:.1f} h"
    return f"{facts['chosen']:g} by {facts['searched']} ({cost})"


RATE_NOTE = (
    "rate: the adapter's learning rate (of the head alone the head's), the block and the arm whose "
    "search found it, and what that cost"
)


def _searched_arms(study: Study) -> list[tuple[str, str]]:
    """Every (block, arm) with a search of its own, in the plan's order, each once."""
    found = [
        study.plan.searched(stage.block, arm) for stage in study.plan.stages for arm in stage.arms
    ]
    return list(dict.fromkeys(found))


def search_table(study: Study) -> Table:
    """Every search: the mean score of each rate on the reserve, the rate chosen, and the cost."""
    body, data = [], []
    for block, arm in _searched_arms(study):
        rate, runs = study.plan.searches(block, arm, study.scores)
        facts = rate_facts(study, block, arm)
        encoder = study.plan.plain["blocks"][block]["encoder"]
        tasks = study.plan.plain["blocks"][block]["tasks"]
        rates = sorted({run.lr for run in runs})
        means = {}
        for one in rates:
            scores = [study.scores[run] for run in runs if run.lr == one]
            means[one] = float(np.mean(scores)) if len(scores) == len(tasks) else math.nan
        tried = ", ".join(f"{one:g}: {_search_score(mean)}" for one, mean in means.items())
        diverged = sum(not study.entries[run].ok for run in runs)
        body.append(
            [f"{block}/{label(arm)}", encoder, tried or MISSING]
            + [f"{rate.chosen:g}" if rate else MISSING]
            + [str(len(runs)), str(diverged), f"{facts['search_hours']:.2f}"]
        )
        data += [
            {"block": block, "arm": arm, "encoder": encoder, "rate": one, "mean": mean}
            | {"chosen": bool(rate and rate.chosen == one), "runs": len(runs)}
            | {"diverged": diverged, "hours": facts["search_hours"]}
            for one, mean in means.items()
        ]
    columns = ["block", "arm", "encoder", "rate", "mean", "chosen", "runs", "diverged", "hours"]
    return Table(
        name="study_search",
        title="The study's searches: mean score on the reserve by learning rate, in per cent",
        header=["search", "encoder", "rate: score", "chosen", "runs", "diverged", "hours"],
        rows=body,
        data=pd.DataFrame(data, columns=columns),
        notes=[
            "score: the mean over the block's tasks at the last epoch, seed 0, on the tenth of "
            "train that is in no fold; -: not all tasks have a record yet; diverged: a run of "
            "it has no score, and the rate is not chosen",
            "chosen: -: the search is not at its end; at an end of the grid the next rate outwards "
            "is tried, once",
            "searches of one arm for two blocks share runs, which both lines count",
        ],
    )


def _search_score(mean: float) -> str:
    return "diverged" if mean == -math.inf else percent(mean)


# scores ---------------------------------------------------------------------------------------


def _group(study: Study, stages: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    """Block, encoder and tasks of stages that belong together."""
    stage = study.stages[stages[0]]
    return stage.block, study.encoder(stages[0]), stage.tasks


def scores_table(study: Study) -> Table:
    """Every arm and task over its folds, at the last epoch and the best."""
    body, data = [], []
    for stages in GROUPS:
        block, encoder, tasks = _group(study, stages)
        lines = []
        for arm in study.stages[stages[0]].arms:
            facts = rate_facts(study, block, arm)
            for task in tasks:
                runs = study.runs(stages, arm, [task])
                if not runs:
                    continue
                ok = {run: entry for run, entry in runs.items() if entry.ok}
                last, best = (
                    np.array([entry.score(epoch) for entry in ok.values()])
                    for epoch in ("last", "best")
                )
                over = study.over_constant(ok)
                low = over.interval()[0] if over.n >= FEWEST else math.nan
                learnt = "" if math.isnan(low) else "yes" if low > 0 else "no"
                collapsed = sum(
                    bool(e.made["result"]["score"].get("collapsed_last")) for e in ok.values()
                )
                row = {
                    "stages": " ".join(stages), "block": block, "encoder": encoder, "arm": arm,
                    "task": task, "n": len(ok), "planned": study.planned(stages),
                    "diverged": len(runs) - len(ok), "parameters": trained([*ok.values()]),
                    "last_mean": _mean(last), "last_sd": _sd(last),
                    "best_mean": _mean(best), "best_sd": _sd(best),
                    "over_constant": over.mean if over.n else math.nan, "learnt": learnt,
                    "collapsed_last": collapsed, **facts,
                }  # fmt: skip
                data.append(row)
                lines.append(
                    [label(arm), number(row["parameters"]), NAMES[task]]
                    + [f"{row['n']} of {row['planned']}", str(row["diverged"])]
                    + [spread(row["last_mean"], row["last_sd"]) if len(ok) else MISSING]
                    + [spread(row["best_mean"], row["best_sd"]) if len(ok) else MISSING]
                    + [_points(row["over_constant"]), learnt or MISSING, str(collapsed)]
                    + [_rate(facts)]
                )
        if lines:
            where = "the official split" if stages == ("F",) else "folds"
            body += [[f"{', '.join(stages)}: {encoder}, {where}"], *lines]
    header = ["arm", "trained", "task", "n", "diverged", "last epoch", "best epoch"]
    header += ["over the constant", "learnt", "collapsed", "rate"]
    columns = ["stages", "block", "encoder", "arm", "task", "n", "planned", "diverged"]
    columns += ["parameters", "last_mean", "last_sd", "best_mean", "best_sd", "over_constant"]
    columns += ["learnt", "collapsed_last", "searched", "chosen", "search_runs", "search_hours"]
    return Table(
        name="study_scores",
        title="The study's scores over folds, in per cent",
        header=header,
        rows=body,
        data=pd.DataFrame(data, columns=columns),
        notes=[
            "n: runs with a score of those planned; mean ± standard deviation over them. The last "
            "epoch is primary, the best decides nothing",
            "over the constant: the last epoch less the constant predictor's score on the same "
            "fold (the larger class's share; 0 of a correlation); learnt: whether its 95 % "
            "interval lies above 0; -: fewer than five folds",
            "collapsed: runs whose last epoch predicts one class or a constant",
            "folds: of train and dev but for the reserve; the official split is for comparison "
            "with the literature alone",
            RATE_NOTE,
        ],
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def headline_table(study: Study) -> Table:
    """Blocks A and B: each arm's scores, and CRAFT less it."""
    body, data = [], []
    for stages in HEADLINE:
        block, encoder, tasks = _group(study, stages)
        planned = study.planned(stages)
        names = ", ".join(NAMES[task] for task in tasks)
        body.append([f"{encoder}: {names}"])
        for arm in sorted(study.stages[stages[0]].arms, key=lambda a: (a != CRAFT, a == HEAD)):
            (folds,), _, begun = study.paired(stages, [(stages, arm)])
            means = np.array([study.mean(fold, tasks) for fold in folds])
            runs = [study.entries[run] for run in study.runs(stages, arm)]
            facts = rate_facts(study, block, arm)
            row = {"block": block, "encoder": encoder, "arm": arm, "parameters": trained(runs)}
            row |= {"n": len(folds), "planned": planned, "incomplete": begun - len(folds)}
            row |= {"mean": _mean(means), "sd": _sd(means)}
            row |= {f"task_{n}": NAMES[task] for n, task in enumerate(tasks, 1)}
            by_task = [
                np.array([study.entries[fold[task]].score() for fold in folds]) for task in tasks
            ]
            row |= {f"mean_{n}": _mean(values) for n, values in enumerate(by_task, 1)}
            row |= {f"sd_{n}": _sd(values) for n, values in enumerate(by_task, 1)}
            against = None if arm == CRAFT else study.comparison(Question("", "", stages, arm))
            if against is not None:
                low, high = against.interval() or (math.nan, math.nan)
                row |= {"pairs": against.n, "difference": against.difference.mean}
                row |= {"low": low, "high": high}
            data.append(row | facts)
            body.append(
                [label(arm), number(row["parameters"]), f"{len(folds)} of {planned}"]
                + [spread(_mean(v), _sd(v)) if len(v) else MISSING for v in by_task]
                + [spread(_mean(means), _sd(means)) if len(means) else MISSING]
                + [_difference(against), _rate(facts)]
            )
    header = ["arm", "trained", "folds", "task 1", "task 2", "task 3", "mean of 3"]
    header += ["CRAFT less it (95 %)", "rate"]
    metrics = "CoLA Matthews correlation; MRPC and RTE accuracy; STS-B Pearson correlation"
    return Table(
        name="study_headline",
        title="The study: scores over folds at the last epoch, in per cent",
        header=header,
        rows=body,
        data=pd.DataFrame(data),
        notes=[
            f"tasks in the order of the heading; {metrics}; mean ± standard deviation over folds "
            "in which every task has a score",
            "trained: numbers besides the head",
            "CRAFT less it: the mean paired difference of the mean of 3 in points, and its "
            "interval by the corrected resampled t; no interval of fewer than five folds",
            RATE_NOTE,
        ],
    )


def _difference(found: Comparison | None) -> str:
    if found is None or not found.n:
        return MISSING
    bounds = _span(found.interval())
    return _points(found.difference.mean) + ("" if bounds == MISSING else f" ({bounds})")


# hypotheses -----------------------------------------------------------------------------------


def hypotheses_table(study: Study) -> Table:
    """Every hypothesis of the plan, undecided and untested ones included."""
    body: list[list[str]] = []
    data: list[dict[str, Any]] = []

    def add(judged: Judged) -> None:
        found, question = judged.comparison, judged.comparison.question
        narrow = found.interval(0.1) if question.kind == "H1" else None
        tested = bool(judged.words)
        sure = found.difference.p if tested else math.nan
        beside = found.p_examples if tested else math.nan
        body.append(
            [question.id, question.text, f"{found.encoder}: {label(question.arm)}"]
            + [", ".join(NAMES[task] for task in found.tasks), f"{found.n} of {found.planned}"]
            + [_points(found.difference.mean), _span(found.interval()), _span(narrow)]
            + [p_text(sure), p_text(beside)]
            + [MISSING if found.learnt is None else _points(found.learnt.mean)]
            + [judged.text or MISSING]
        )
        low, high = found.interval() or (math.nan, math.nan)
        low_90, high_90 = found.interval(0.1) or (math.nan, math.nan)
        data.append(
            {"id": question.id, "encoder": found.encoder, "against": question.arm}
            | {"tasks": " ".join(found.tasks), "n": found.n, "planned": found.planned}
            | {"incomplete": found.begun - found.n, "estimate": found.difference.mean}
            | {"standard_error": found.difference.standard_error}
            | {"low": low, "high": high, "low_90": low_90, "high_90": high_90}
            | {"p": sure, "p_examples": beside}
            | {"without_unlearnt": found.learnt.mean if found.learnt else math.nan}
            | {"verdict": judged.text}
        )

    body.append(["confirmatory, in this order"])
    for judged in study.confirmatory.values():
        add(judged)
    body.append(["descriptive"])
    add(study.v1)
    for stages in HEADLINE:
        share, planned = study.share(stages)
        bounds = share.bounds if share.n >= FEWEST else None
        text = MISSING if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        _, encoder, tasks = _group(study, stages)
        without = "without bounds" if share.n >= FEWEST and bounds is None else MISSING
        body.append(
            ["H4", "is it the head? (CRAFT - head) / (LoRA - head)", encoder]
            + [", ".join(NAMES[task] for task in tasks), f"{share.n} of {planned}"]
            + [MISSING if math.isnan(share.value) else f"{share.value:.2f}"]
            + [text if bounds else without, *[MISSING] * 5]
        )
        low, high = bounds or (math.nan, math.nan)
        data.append(
            {"id": "H4", "encoder": encoder, "against": HEAD, "tasks": " ".join(tasks)}
            | {"n": share.n, "planned": planned, "estimate": share.value}
            | {"low": low, "high": high, "verdict": ""}
        )
    for judged in study.peers:
        add(judged)
    for found in study.descriptive:
        add(Judged(found, (), "" if found.complete else f"{found.n} of {found.planned} folds"))
    header = ["", "question", "CRAFT against", "tasks", "folds", "estimate", "95 %", "90 %"]
    header += ["p", "p (folds and examples)", "learnt tasks", "verdict"]
    return Table(
        name="study_hypotheses",
        title="The study's hypotheses (results/STUDY.md)",
        header=header,
        rows=body,
        data=pd.DataFrame(data),
        notes=[
            "estimate: the mean over tasks of CRAFT less the other, in points, last epoch, paired "
            "by fold; of H4 a share with Fieller's interval; of V1 CRAFT under other seeds",
            "95 %, 90 %, p: the corrected resampled t (Nadeau and Bengio 2003); folds without a "
            "score of every task in both arms are left out; of fewer than five neither is shown",
            "p: where a rule has been applied, not corrected (the words of H5 are); p (folds and "
            "examples): beside it the test that other tables use, over folds and bootstrapped "
            "examples, which decides nothing here",
            "learnt tasks: the estimate without tasks that no arm has learnt; -: none is such",
            "verdict: in the plan's words and at the planned number of folds alone; before, the "
            "folds at hand and what they can see: how often a true difference of 0 would be called "
            f"{WITHIN}, or the true difference that 80 % of such studies find, in points",
        ],
    )


# intruders ------------------------------------------------------------------------------------


def intruders_table(study: Study) -> Table:
    """Directions that lead after training and are like none of before, by arm."""
    body, data = [], []
    for stages in GROUPS:
        if stages in (("V1",), ("F",)):
            continue
        _, encoder, _ = _group(study, stages)
        lines = []
        for arm in study.stages[stages[0]].arms:
            runs = [entry for entry in study.runs(stages, arm).values() if entry.ok]
            told = [entry.made["provenance"].get("intruders") for entry in runs]
            known = [one for one in told if one and one["count"] is not None]
            reasons = sorted({one["reason"] for one in told if one and one["reason"]})
            if not runs:
                continue
            of = [one["weights"] * one["leading"] for one in known]
            changed = [one for one in known if one["mean_cosine"] is not None]
            row = {"block": " ".join(stages), "encoder": encoder, "arm": arm, "n": len(runs)}
            row |= {"known": len(known), "count": _mean(np.array([o["count"] for o in known]))}
            row |= {"directions": _mean(np.array(of))}
            row |= {"mean_cosine": _mean(np.array([o["mean_cosine"] for o in changed]))}
            row |= {"reason": "; ".join(reasons)}
            data.append(row)
            count = MISSING if not known else f"{row['count']:.1f} of {row['directions']:.0f}"
            cosine = MISSING if not changed else f"{row['mean_cosine']:.3f}"
            lines.append([label(arm), str(len(runs)), count, cosine, row["reason"] or MISSING])
        if lines:
            body += [[f"{', '.join(stages)}: {encoder}"], *lines]
    columns = ["block", "encoder", "arm", "n", "known", "count", "directions", "mean_cosine"]
    return Table(
        name="study_intruders",
        title="Intruder dimensions after training (Shuttleworth et al. 2024)",
        header=["arm", "runs", "intruders a run", "mean cosine", "not told because"],
        rows=body,
        data=pd.DataFrame(data, columns=[*columns, "reason"]),
        notes=[
            "of the 10 leading left singular vectors of each weight that training changed, those "
            "whose largest cosine with any of before is under 0.5; the mean over runs, and of how "
            "many directions",
            "mean cosine: of these largest cosines, a mean over runs; -: no weight was changed",
        ],
    )


# claims ---------------------------------------------------------------------------------------


def _of_words(judged: Judged, yes: str, no: str) -> str:
    """From a hypothesis to a claim: its words for it, against it, or neither."""
    if not judged.comparison.n:
        return UNTESTED
    return SUPPORTED if yes in judged.words else REFUTED if no in judged.words else UNDECIDED


def _counts(study: Study) -> tuple[int, set[str], bool]:
    """CRAFT's runs, their encoders, and whether each trains two sums of squares of its ranks."""
    entries = [
        (run.encoder, entry.made["result"]["parameters"])
        for run, entry in study.entries.items()
        if run.arm == CRAFT and entry.made["result"]
    ]
    agree = all(
        p["adapter"] == sum(r * r for ranks in p["effective_ranks"].values() for r in ranks)
        for _, p in entries
    )
    return len(entries), {encoder for encoder, _ in entries}, agree


def counts_verdict(encoders: int, agree: bool) -> str:
    """One shape alone shows no independence of a shape."""
    if not encoders:
        return UNTESTED
    return REFUTED if not agree else SUPPORTED if encoders > 1 else UNDECIDED


def table2_verdict(within: Sequence[Any]) -> str:
    """Whether a row of Table 2 is met, from what stands beside each of its eight cells (None: no
    record): refuted by one outside, supported by all eight."""
    known = [bool(w) for w in within if w is not None and not pd.isna(w)]
    if not known:
        return UNTESTED
    return REFUTED if not all(known) else SUPPORTED if len(known) == len(within) else UNDECIDED


def claims_table(study: Study, published: Sequence[Table]) -> Table:
    """What the paper claims, and what records say of it; `published` are its tables with our runs
    beside them."""
    h1, h3 = study.confirmatory["H1"], study.confirmatory["H3"]
    runs, encoders, agree = _counts(study)

    def tasks(judged: Judged) -> str:
        found = judged.comparison
        return f"{found.encoder}: {', '.join(NAMES[task] for task in found.tasks)}"

    def folds(judged: Judged) -> str:
        return f"{judged.comparison.n} of {judged.comparison.planned} folds"

    rows = [
        ("close to LoRA with a seventh of its parameters (section 5)", "H1: CRAFT less LoRA, r = 8",
         tasks(h1), folds(h1), _of_words(h1, WITHIN, WORSE), h1.text),
        ("the decomposition of the pre-trained weights is what helps (its premise)",
         "H3: HOSVD's factors less random ones of the same norm",
         tasks(h3), folds(h3), _of_words(h3, YES, HURTS), h3.text),
        ("the count depends on ranks alone, not on width or depth (Proposition 1)",
         "numbers trained = the sum of squared ranks; r1 is clipped to the depth",
         " and ".join(sorted(encoders)) or MISSING, f"{runs} runs",
         counts_verdict(len(encoders), agree), ""),
    ]  # fmt: skip
    for table in published:
        data, model = table.data, table.name.removeprefix("table2_")
        mine = data[data["method"] == "CRAFT"]
        within = [*mine["within"]] if "within" in mine else [None] * len(mine)
        cells = int((mine["n"] > 0).sum())
        rows.append(
            (f"Table 2, {model.replace('_', '-').replace('roberta', 'RoBERTa')}",
             "CRAFT's row, each cell within its tolerance", f"{model}: the eight tasks",
             f"{cells} of {len(mine)} cells", table2_verdict(within), "")
        )  # fmt: skip
    header = ["the paper's claim", "tested by", "on", "n", "verdict"]
    columns = ["claim", "tested", "on", "n", "verdict", "words"]
    return Table(
        name="study_claims",
        title="The paper's claims",
        header=header,
        rows=[
            [*row[:4], f"{row[4]} ({row[5]})" if row[5] and row[4] == SUPPORTED else row[4]]
            for row in rows
        ],
        data=pd.DataFrame(rows, columns=columns),
        notes=[
            "supported, refuted: by the rule of results/STUDY.md for the hypothesis that is named; "
            "undecided: the folds at hand cannot tell, or are not all there; untested: no record",
        ],
    )


# figure ---------------------------------------------------------------------------------------


def pareto(study: Study) -> Drawn | None:
    """Trained numbers against the difference to CRAFT, with its interval: a panel for each set of
    arms that share tasks. Points of nearly equal counts are drawn apart; the CSV has the counts."""
    shown, data = [], []
    for stages, ours in ((A, A), (B, B), (("C",), ("C",)), (("D",), ("A1",))):
        _, encoder, tasks = _group(study, stages)
        points = []
        for arm in study.stages[stages[0]].arms:
            entries = [entry for entry in study.runs(stages, arm).values() if entry.ok]
            own = ours if ours != stages else ()
            found = None if arm == CRAFT else study.comparison(Question("", "", stages, arm, own))
            if found is None or not found.n:
                continue
            bounds = found.interval() or (math.nan, math.nan)
            points.append(
                {"arm": arm, "parameters": trained(entries), "n": found.n}
                | {"difference": -100 * found.difference.mean}
                | {"low": -100 * bounds[1], "high": -100 * bounds[0]}
            )
        craft = [e for e in study.runs(ours, CRAFT, tasks).values() if e.ok]
        if not points:
            continue
        points.insert(
            0, {"arm": CRAFT, "parameters": trained(craft), "n": max(p["n"] for p in points)}
            | {"difference": 0.0, "low": math.nan, "high": math.nan},
        )  # fmt: skip
        title = f"{encoder}\n{', '.join(NAMES[t] for t in tasks)}"
        shown.append((title, points))
        facts = {"stages": " ".join(stages), "encoder": encoder}
        data += [facts | point for point in points]
    if not shown:
        return None
    arms = list(dict.fromkeys(point["arm"] for _, points in shown for point in points))
    with styled():
        figure, axes = panels(
            len(shown), 2, lambda lines, columns: (3.6 * columns + 0.4, 3.0 * lines + 0.5)
        )
        for axis, (title, points) in zip(axes, shown, strict=True):
            apart = _apart(points)
            for point in points:
                n = arms.index(point["arm"])
                look = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
                reach = [
                    [point["difference"] - point["low"]], [point["high"] - point["difference"]]
                ]  # fmt: skip
                axis.errorbar(
                    [point["parameters"] * apart[point["arm"]]],
                    [point["difference"]],
                    yerr=None if math.isnan(point["low"]) else reach,
                    label=label(point["arm"]),
                    linestyle="",
                    capsize=2,
                    elinewidth=0.9,
                    clip_on=False,
                    **look,
                )
            axis.axhline(0, color="#888888", linewidth=0.7)
            count_axis(axis, max(point["parameters"] for point in points))
            folds = sorted({point["n"] for point in points})
            axis.set_title(f"{title} ({'–'.join(map(str, folds))} folds)")
            axis.set_xlabel("trained numbers besides the head")
            axis.set_ylabel("score less CRAFT's, points")
        legend_below(figure, axes, columns=4)
    return Drawn("study_pareto", figure, pd.DataFrame(data))


def _apart(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Factors by which points of nearly equal counts are moved, so that none hides another."""
    near: dict[float, list[str]] = {}
    for point in points:
        near.setdefault(round(math.log10(point["parameters"] + 1), 1), []).append(point["arm"])
    return {
        arm: 1.08 ** (n - (len(arms) - 1) / 2)
        for arms in near.values()
        for n, arm in enumerate(arms)
    }
