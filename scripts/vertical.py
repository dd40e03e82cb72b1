# ruff: noqa: E501 - the text of the page keeps its own lines
"""What a vertical backbone keeps: held-out masked-LM loss and a task's score against parameters.

python scripts/train.py -m experiment=vertical           the task's runs, promoted with out=results/vertical
python scripts/vertical.py --corpus CORPUS               docs/vertical.md and results/vertical/vertical.json

CORPUS is the one that the embedded model was pre-trained on; its last sequences were held out."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import OmegaConf
from pretraining.corpus import Sequences, corpus_files, encode
from pretraining.encoder import held_out_loss
from transformers import RobertaForMaskedLM, RobertaTokenizerFast

from craft.bench.cli.process import start

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "results" / "models" / "roberta-mini"
GRID = OmegaConf.load(ROOT / "configs" / "experiment" / "vertical.yaml").hydra.sweeper.params

PAGE = """\
# Vertical LoRA on the embedded model

Vertical LoRA (arXiv 2406.09315) writes a layer's weights as an earlier layer's plus an increment B A of rank r:
`model.vertical.rank=r`. Layers come in compounds of {compound}; the first of each keeps its weights. The paper trains such a
model from its first step; here a pre-trained one is cut down to it by a truncated singular value decomposition of the
differences, without any further pre-training. `previous` adds to the layer before (the paper's text), `first` to the
compound's first layer (the authors' code).

The page is made by `scripts/vertical.py` from `results/vertical/vertical.json` and the records in `results/vertical/runs`. Parameters are
the backbone's own; the error is the mean of ||W' - W|| / ||W|| over the weights that became increments; the loss is
masked language modelling on {sequences:,} held-out sequences of the pre-training corpus; scores are CRAFT's
{metric} on **{task} of mini-GLUE (synthetic, not GLUE)**, best epoch, mean over n seeds, times 100.

{table}
"""


def losses(corpus: Path, work: Path) -> dict[str, Any]:
    """Parameters, error and held-out loss of the model as it is and of every vertical one."""
    from craft.bench.model.locate import locate
    from craft.vertical import make_vertical

    tokens = work / "tokens.uint16"
    if not tokens.exists():
        work.mkdir(parents=True, exist_ok=True)
        tokenizer = RobertaTokenizerFast.from_pretrained(MODEL)
        encode(corpus_files(corpus), tokenizer, tokens)
    rows = Sequences(tokens, seed=0).held_out()

    def loss(model: RobertaForMaskedLM) -> float:
        found = held_out_loss(model, rows, torch.device("cpu"))
        return round(found, 4)

    def fresh() -> RobertaForMaskedLM:
        return RobertaForMaskedLM.from_pretrained(MODEL, dtype=torch.float32)

    digest = locate({"path": MODEL, "repository": None, "revision": None}).digest
    found: list[dict[str, Any]] = []
    for reference in GRID["model.vertical.reference"].split(","):
        for rank in map(int, GRID["model.vertical.rank"].split(",")):
            model = fresh()
            made = make_vertical(model, rank, reference)
            errors = list(made.errors.values())
            if not found:
                size = {"parameters": made.parameters_before, "error": 0.0}
                found.append({"reference": None, "rank": None, **size, "loss": loss(fresh())})
            size = {
                "parameters": made.parameters_after,
                "error": round(sum(errors) / len(errors), 4),
            }
            found.append({"reference": reference, "rank": rank, **size, "loss": loss(model)})
            print(found[-1], flush=True)
    return {"model_digest": digest, "held_out_sequences": len(rows), "backbones": found}


def scores(folder: Path, digest: str, task: str) -> tuple[pd.DataFrame, str]:
    """CRAFT's best scores on the task in the records of these weights, by backbone."""
    from craft.bench.report.tables.cells import METRIC_NAMES
    from craft.bench.run.record import read_all

    rows, headline = [], "-"
    for _, made in read_all(folder):
        provenance, result = made.provenance, made.result
        if made.status != "ok" or result["config"]["model.digest"] != digest:
            continue
        config = provenance["config"]
        mini = config["data"]["source"] == "mini" and config["task"]["name"] == task
        label = config["method"]["label"]
        if mini and label == "CRAFT" and not config["model"]["random"]:
            vertical, score = config["model"]["vertical"], result["score"]
            headline = METRIC_NAMES[score["headline"]]
            reference = vertical["reference"] if vertical["rank"] else None
            best = 100 * score["best"][score["headline"]]
            settings = json.dumps(config["train"], sort_keys=True)
            rows.append((reference, vertical["rank"], best, settings))
    found = pd.DataFrame(rows, columns=["reference", "rank", "best", "settings"])
    trained_alike = found["settings"].isin(found[found["rank"].notna()]["settings"])
    return found.loc[trained_alike], headline


def page(facts: dict[str, Any], folder: Path) -> str:
    task = GRID.task
    found, metric = scores(folder, facts["model_digest"], task)
    lines = [
        "| backbone | parameters | error | held-out loss | CRAFT, n |",
        "|---|---:|---:|---:|---:|",
    ]
    for made in facts["backbones"]:
        same = found["rank"].isna() if made["rank"] is None else found["rank"] == made["rank"]
        ours = found[same & found["reference"].isin([made["reference"]])]["best"]
        score = "no record" if ours.empty else f"{ours.mean():.1f}, {len(ours)}"
        if len(ours) > 1:
            score = f"{ours.mean():.1f} ± {ours.std():.1f}, {len(ours)}"
        name = f"{made['reference']}, r={made['rank']}" if made["rank"] else "as pre-trained"
        size = f"{made['parameters']:,} | {made.error:.3f} | {made['loss']:.3f}"
        lines.append(f"| {name} | {size} | {score} |")
    return PAGE.format(
        compound=4,
        sequences=facts["held_out_sequences"],
        metric=metric,
        task=task.upper(),
        table="\n".join(lines),
    )


def main() -> None:
    from craft.errors import InputError
    from craft.files import write_json, write_text

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="to measure the losses anew")
    parser.add_argument("--work", type=Path, default=Path("outputs/pretrain_mini"))
    given = parser.parse_args()
    path = ROOT / "results" / "vertical" / "vertical.json"
    if given.corpus is not None:
        write_json(path, losses(given.corpus, given.work))
    if not path.is_file():
        raise InputError(f"{path} is not there; give --corpus to measure the losses")
    text = page(json.loads(path.read_text()), ROOT / "results" / "vertical" / "runs")
    write_text(ROOT / "docs" / "vertical.md", text)
    print(ROOT / "docs" / "vertical.md")


if __name__ == "__main__":
    start(main)
