# ruff: noqa: E501 - the text of the page keeps its own lines
"""Write the embedded model's card from what is on record: its pre-training, and the runs that show
what it learnt.

python scripts/model_card.py             results/models/roberta-mini/README.md
python scripts/model_card.py --check     fail where the card is not what the records say
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from craft.bench.cli.process import start
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Model

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "results" / "models" / "roberta-mini"
LEARNT = OmegaConf.load(ROOT / "configs" / "experiment" / "learnt.yaml")

CARD = """\
---
language: en
license: cc-by-sa-3.0
library_name: transformers
pipeline_tag: fill-mask
---

# roberta-mini

A small RoBERTa that makes `make reproduce-glue` run for real on any machine: as deep as RoBERTa-base, so
that ranks across layers mean the same, at a quarter of its width. It is a test bed. It knows far less
English than any published encoder; take one of those for anything but trying methods out.

| | |
|---|---|
| architecture | RoBERTa, {layers} layers, hidden {hidden}, {heads} heads, feed-forward {feed_forward}, {positions} positions |
| vocabulary | {vocabulary:,} tokens, byte-level BPE trained on the same corpus |
| parameters | {parameters:,}, stored in fp16 ({megabytes:.1f} MB) |
| held-out masked-LM loss | **{held_out_loss:.3f}**, perplexity **{held_out_perplexity:.1f}**, on {held_out_sequences:,} sequences of {sequence_length} tokens that were not trained on |

## Pre-training

Masked language modelling with dynamic masking on packed text, by `scripts/pretrain_mini.py`:

| | |
|---|---|
| corpus | {corpus}: English Wikipedia, {corpus_tokens:,} tokens (SHA-256 `{corpus_sha256:.16}`...) |
| seen | {tokens:,} tokens in {steps:,} steps of {sequences_per_step} sequences of {sequence_length} tokens |
| masking | {masking:.0%} of positions; of these 80 % become `<mask>`, 10 % a random token |
| optimizer | {optimizer} |
| schedule | {schedule} |
| start | keys equal to queries, sinusoidal position embeddings, both trained; standard deviation 0.05 |
| precision | {precision} |
| time | {hours:.1f} h, {tokens_per_second:,} tokens/s on average{utilisation}; torch {torch} |

It was trained in stretches, where it grew by stacking its layers twice, or went on under other options:

{stretches}

The same command with a larger budget replaces the model; this card is remade by `scripts/model_card.py`:

    make pretrain-mini CORPUS=<file or folder> MINUTES=<budget>

Layers that were copied from one another stay alike: the spectrum over the layers falls after the depth
of the first stage. What this model says of structure across layers it says of its stacking, too.

## What it learnt

Full fine-tuning on real GLUE from these weights and from random ones of the same architecture, same
recipe and seeds, {epochs} epochs of {rows} examples a step, at most {steps_each} steps
(`python scripts/train.py -m experiment=learnt data=local data.dir=GLUE`); best epoch on dev / last epoch, mean
± standard deviation over n seeds, times 100. Rate and epochs were chosen on dev for the pre-trained weights, with
earlier ones (`results/LOG.md`), and not for random weights:

{evidence}

## Licence

The weights, the vocabulary and the merges are derived from the text of Wikipedia, by its many authors,
which is under the Creative Commons Attribution-ShareAlike licence 3.0 (CC BY-SA 3.0); they are offered
under the same licence. The code that made them is under this repository's Apache-2.0 licence.
"""


def stretches(facts: dict[str, Any]) -> str:
    """A Markdown table of the parts of the training, each with the tokens that it saw."""
    lines = [
        "| tokens | layers | pairs | restated | foreign | peak rate | budget of its schedule | hardware |"
    ]
    lines += ["|---:|---:|---:|---:|---:|---:|---|---|"]
    ends = [each["from_step"] for each in facts["stretches"][1:]] + [facts["steps"]]
    for each, end in zip(facts["stretches"], ends, strict=True):
        steps = end - each["from_step"]
        tokens = steps * facts["sequences_per_step"] * facts["sequence_length"] / 1e6
        lines.append(
            f"| {tokens:.1f}M | {each['depth']} | {each['pairs']:.0%} | "
            f"{each['restated']:.0%} | {each['foreign']:.0%} | "
            f"{each['learning_rate']:g} | {each['budget']} | {each['hardware']} |"
        )
    notes = [
        "`pairs`: of the sequences, framed as `<s> A </s></s> B </s>`; `restated`, `foreign`: of the pairs, with",
        "B drawn from A itself or from elsewhere in the corpus, else B follows A. A second head, which is not",
        "kept, learnt from `<s>` how much of B is from where; where some restate, half of the second texts are of",
        "several sources and half have up to 40 % of their tokens dropped.",
    ]
    return "\n".join([*lines, "", *notes])


def evidence(runs: pd.DataFrame) -> str:
    """A Markdown table: pre-trained and random weights at best and last epoch, beside a constant."""
    from craft.bench.report.statistics import FEWEST
    from craft.bench.report.tables.cells import METRIC_NAMES, NAMES, spread
    from craft.bench.report.tables.render import MISSING, percent, signed

    def summary(chosen: pd.DataFrame) -> str:
        if chosen.empty:
            return "no record"
        return " / ".join(spread(chosen[e].mean(), chosen[e].std()) for e in ("best", "last"))

    lines = ["| task | metric | constant | pre-trained | random weights | above the constant | n |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for task in LEARNT.hydra.sweeper.params.task.split(","):
        ours = runs[(runs["task"] == task)]
        trained, drawn = ours[~ours["random"]], ours[ours["random"]]
        metric = METRIC_NAMES[ours["headline"].iloc[0]] if len(ours) else MISSING
        constant = ours["constant"].max() if len(ours) else float("nan")
        above = [signed(100 * (trained[e].mean() - constant)) for e in ("best", "last")]
        lines.append(
            f"| {NAMES[task]} | {metric} | {percent(constant)} | {summary(trained)} | "
            f"{summary(drawn)} | {' / '.join(above)} | {len(trained)}, {len(drawn)} |"
        )
    notes = [
        "`constant`: the best score of one answer for all dev examples, the larger class alone."
    ]
    notes += ["`above the constant`: the pre-trained weights' mean less that."]
    seeds = runs.groupby(["task", "random"])["best"].count().tolist()
    if seeds and min(seeds) < FEWEST:
        notes += ["Of fewer than five seeds these are descriptions and decide nothing."]
    return "\n".join([*lines, "", *notes])


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

    digest = locate(read(Model, {"path": MODEL, "repository": None, "revision": None})).digest
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


def card(folder: Path) -> str:
    """The whole card; what it says of the model is read from its own files."""
    facts = json.loads((MODEL / "pretraining.json").read_text())
    config = json.loads((MODEL / "config.json").read_text())
    from safetensors import safe_open

    with safe_open(MODEL / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    parameters = sum(int(pd.Series(shape).prod()) for shape in shapes)
    share = facts.get("model_flops_utilisation")
    return CARD.format(
        **facts
        | {
            "corpus": ", ".join(f"`{name}`" for name in facts["corpus"]),
            "stretches": stretches(facts),
        },
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        feed_forward=config["intermediate_size"],
        positions=config["max_position_embeddings"] - 2,
        vocabulary=config["vocab_size"],
        parameters=parameters,
        megabytes=(MODEL / "model.safetensors").stat().st_size / 1e6,
        hours=facts["training_seconds"] / 3600,
        utilisation="" if share is None else f", {share:.0%} of the peak of its matrix units",
        epochs=LEARNT.train.epochs,
        steps_each=LEARNT.train.max_steps,
        rows=LEARNT.train.batch_size,
        evidence=evidence(learnt(folder)),
    )


def main() -> None:
    from craft.errors import InputError
    from craft.files import write_text

    if odd := [a for a in sys.argv[1:] if a != "--check"]:
        raise InputError(f"{odd[0]!r} is not --check, the only option")
    for name in ("pretraining.json", "config.json", "model.safetensors"):
        if not (MODEL / name).is_file():
            raise InputError(f"{MODEL / name} is not there; make it by `make pretrain-mini`")
    path, text = MODEL / "README.md", card(ROOT / "results" / "runs")
    if "--check" in sys.argv:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not what the records say; run scripts/model_card.py", file=sys.stderr)
            sys.exit(1)
        return
    write_text(path, text)
    print(path)


if __name__ == "__main__":
    start(main)
