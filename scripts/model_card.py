"""Write the embedded model's card from what is on record: its pre-training, and the runs that show
what it learnt.

python scripts/model_card.py             results/models/roberta-mini/README.md
python scripts/model_card.py --check     fail where the card is not what the records say
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from craft.bench.cli.process import start
from craft.bench.settings.sections import Model

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "results" / "models" / "roberta-mini"
LEARNT = OmegaConf.load(ROOT / "configs" / "experiment" / "learnt.yaml")
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def stretches(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the training, each with the tokens that it saw."""
    ends = [each["from_step"] for each in facts["stretches"][1:]] + [facts["steps"]]
    a_step = facts["sequences_per_step"] * facts["sequence_length"]
    return [
        each | {"tokens": (end - each["from_step"]) * a_step}
        for each, end in zip(facts["stretches"], ends, strict=True)
    ]


def evidence(runs: pd.DataFrame) -> list[list[str]]:
    """A row a task: pre-trained and random weights at best and last epoch, beside a constant."""
    from craft.bench.report.tables.cells import METRIC_NAMES, NAMES, spread
    from craft.bench.report.tables.render import MISSING, percent, signed

    def summary(chosen: pd.DataFrame) -> str:
        if chosen.empty:
            return "no record"
        return " / ".join(spread(chosen[e].mean(), chosen[e].std()) for e in ("best", "last"))

    rows = []
    for task in LEARNT.hydra.sweeper.params.task.split(","):
        ours = runs[(runs["task"] == task)]
        trained, drawn = ours[~ours["random"]], ours[ours["random"]]
        metric = METRIC_NAMES[ours["headline"].iloc[0]] if len(ours) else MISSING
        constant = ours["constant"].max() if len(ours) else float("nan")
        above = [signed(100 * (trained[e].mean() - constant)) for e in ("best", "last")]
        row = [NAMES[task], metric, percent(constant), summary(trained), summary(drawn)]
        rows.append([*row, " / ".join(above), f"{len(trained)}, {len(drawn)}"])
    return rows


def constant_score(metric: str, labels: np.ndarray) -> float:
    """The best score that one answer for all examples gets: labels (n,)."""
    from craft.bench.report.resampling import score

    once = np.ones((1, len(labels)))
    answers = [np.full((len(labels), 1), answer) for answer in np.unique(labels)]
    return max(float(score(metric, labels, answer, once)[0, 0]) for answer in answers)


def learnt(folder: Path) -> pd.DataFrame:
    """The records of experiment=learnt for the weights that are in place: scores at the best and
    the last epoch, and a constant's on the same dev examples."""
    from craft.bench.model.locate import locate
    from craft.bench.run.predictions import read_predictions
    from craft.bench.run.record import read_all

    digest = locate(Model(path=MODEL)).digest
    rows = []
    for path, made in read_all(folder):
        if made.status != "ok" or made.result["config"]["model.digest"] != digest:
            continue
        config, score = made.provenance["config"], made.result["score"]
        same = config["train"]["max_steps"] == LEARNT.train.max_steps
        source = made.provenance["data"]["source"]["source"]
        if config["method"].get("train_backbone") and source != "mini" and same:
            headline = score["headline"]
            dev = read_predictions(path, made)
            constant = float("nan") if dev is None else constant_score(headline, dev[0].labels)
            row = {"task": config["task"]["name"], "random": bool(config["model"]["random"])}
            row |= {"headline": headline, "constant": constant}
            rows.append(row | {epoch: score[epoch][headline] for epoch in ("best", "last")})
    columns = ["task", "random", "headline", "best", "last", "constant"]
    found = pd.DataFrame(rows, columns=columns)
    return found.astype({"random": bool})


def card(runs: pd.DataFrame) -> str:
    """The whole card; what it says of the model is read from its own files, and what the model
    learnt from the runs of `learnt`."""
    from safetensors import safe_open

    from craft.bench.pages import render
    from craft.bench.report.statistics import FEWEST

    facts = json.loads((MODEL / "pretraining.json").read_text())
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    seeds = runs.groupby(["task", "random"])["best"].count()
    return render(
        TEMPLATE,
        facts=facts,
        model=json.loads((MODEL / "config.json").read_text()),
        recipe=LEARNT.train,
        parameters=sum(math.prod(shape) for shape in shapes),
        megabytes=(MODEL / "model.safetensors").stat().st_size / 1e6,
        stretches=stretches(facts),
        learnt=evidence(runs),
        too_few=bool((seeds < FEWEST).any()),
    )


def main() -> None:
    from craft.errors import InputError
    from craft.files import write_text

    if odd := [a for a in sys.argv[1:] if a != "--check"]:
        raise InputError(f"{odd[0]!r} is not --check, the only option")
    for name in ("pretraining.json", "config.json", "model.safetensors"):
        if not (MODEL / name).is_file():
            raise InputError(f"{MODEL / name} is not there; make it by `make pretrain-mini`")
    path, text = MODEL / "README.md", card(learnt(ROOT / "results" / "runs"))
    if "--check" in sys.argv:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not what the records say; run scripts/model_card.py", file=sys.stderr)
            sys.exit(1)
        return
    write_text(path, text)
    print(path)


if __name__ == "__main__":
    start(main)
