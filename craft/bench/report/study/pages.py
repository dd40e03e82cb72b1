"""The study in words: the README's first screen and the end of results/STUDY.md. Every word in them
is a function of the records."""

import math
from collections.abc import Sequence

import pandas as pd

from craft.bench.report.figures.style import Drawn
from craft.bench.report.study.evidence import Study, counted
from craft.bench.report.study.premise import ALIKE, Premise
from craft.bench.report.study.results import REFUTED, SUPPORTED, UNDECIDED, UNTESTED
from craft.bench.report.tables.render import Table, percent


def sentence(study: Study, published: Sequence[Table], verdicts: pd.Series) -> str:
    """What is and is not reproduced."""
    cells = sum(int((t.data.loc[t.data["method"] == "CRAFT", "n"] > 0).sum()) for t in published)
    whole = sum(int((t.data["method"] == "CRAFT").sum()) for t in published)
    done, every = counted(study)
    if cells:
        first = f"Of the {whole} cells of CRAFT in the paper's Table 2, {cells} have a run beside "
        first += "them (`results/tables/table2_*.md`)"
    else:
        first = (
            "The paper's Table 2 is **not** reproduced: no RoBERTa weights were at hand (who has "
            "them needs one command, `make reproduce-glue SUITE=paper`)"
        )
    claims = verdicts.value_counts()
    words = ", ".join(f"{claims.get(w, 0)} {w}" for w in (SUPPORTED, REFUTED, UNDECIDED, UNTESTED))
    return (
        f"{first}; its claims are tested on two other pre-trained encoders by rules written down "
        f"before the first run ([the study](results/STUDY.md), {done} of {every} runs on record), "
        f"and are so far: {words}."
    )


def premise_text(found: Sequence[Premise]) -> str:
    """The premise in numbers, for the README."""
    real = [one for one in found if one.cosine is None or one.cosine <= ALIKE]
    copied = list(dict.fromkeys(one.model for one in found if one not in real))
    if not real:
        return ""
    parts = []
    for model in dict.fromkeys(one.model for one in real):
        own = [one for one in real if one.model == model]
        shares = " and ".join(
            f"{percent(one.kept['hosvd'])} % of {one.projection} "
            f"({percent(one.kept['permuted'])} %)"
            for one in own
        )
        parts.append(f"on {model} HOSVD at ({', '.join(map(str, own[0].ranks))}) keeps {shares}")
    cosine = max(one.cosine for one in real if one.cosine is not None)
    excess = [100 * (one.kept["hosvd"] - one.kept["permuted"]) for one in real]
    text = (
        f"**The premise, without training.** CRAFT rests on structure that layers share: "
        f"{'; '.join(parts)}; in brackets the same with each layer's rows and columns permuted, "
        f"which leaves nothing in common. What layers share is the difference, {min(excess):.1f} "
        f"to {max(excess):.1f} points of energy; as tensors they are orthogonal, no two have a "
        "cosine "
        f"above {math.ceil(1000 * cosine) / 1000:.3f} "
        "([figure](results/figures/premise.png), `python scripts/premise.py model=FOLDER`)."
    )
    if copied:
        text += (
            f" The embedded {' and '.join(copied)} says nothing about it: its layers were grown "
            "by copying."
        )
    return text


def readme_block(
    study: Study, made: Sequence[Table], drawn: Drawn | None, premise: Sequence[Premise]
) -> str:
    """The README's first screen."""
    by_name = {table.name: table for table in made}
    published = [table for table in made if table.name.startswith("table2_")]
    claims = by_name["study_claims"]
    parts = [sentence(study, published, claims.data["verdict"]), claims.markdown().strip()]
    if any(fold for fold in by_name["study_headline"].data["n"]):
        parts.append(by_name["study_headline"].markdown().strip())
    else:
        done, every = counted(study)
        parts.append(f"No fold is complete yet: {done} of the study's {every} runs are done.")
    if drawn is not None:
        parts.append(
            f"![Trained numbers against the difference to CRAFT](results/figures/{drawn.name}.png)"
        )
    if text := premise_text(premise):
        parts.append(text)
    parts.append("[All tables](results/tables), by name as text, LaTeX and CSV.")
    return "\n\n".join(parts)


def what_came_out(study: Study, made: Sequence[Table]) -> str:
    """The end of results/STUDY.md."""
    by_name = {table.name: table for table in made}
    done = [
        f"{stage.name} {d} of {n}"
        for stage in study.plan.stages
        for d, n in [study.plan.total(study.scores, stage)]
    ]
    searched = [run for run in study.entries if run.selection == "train_holdout"]
    spent, hours = (
        sum(study.entries[run].seconds for run in runs) / 3600 for runs in (searched, study.entries)
    )
    diverged = study.diverged()
    failures = f"{len(diverged)} of {len(study.entries)} runs diverged"
    failures += f": {'; '.join(run.label for run in diverged)}" if diverged else ""
    parts = [
        f"Runs on record by stage: {', '.join(done)}; {len(searched)} runs of searches. "
        f"{hours:.1f} hours in all, {spent:.1f} of them in searches. {failures}.",
        by_name["study_hypotheses"].markdown().strip(),
    ]
    if any(fold for fold in by_name["study_headline"].data["n"]):
        parts.append(by_name["study_headline"].markdown().strip())
    parts.append(by_name["study_search"].markdown().strip())
    parts.append(
        "More: `results/tables/study_scores.md` (every arm and task, with V0), "
        "`study_intruders.md`, `study_claims.md`."
    )
    return "\n\n".join(parts)
