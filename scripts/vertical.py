"""What a vertical backbone keeps: held-out masked-LM loss and a task's score against parameters.

python scripts/train.py -m experiment=vertical
    the task's runs, to be promoted with out=results/vertical
python scripts/vertical.py --corpus CORPUS
    docs/vertical.md and results/vertical/vertical.json

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
from craft.bench.settings.sections import Model

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "results" / "models" / "roberta-mini"
GRID = OmegaConf.load(ROOT / "configs" / "experiment" / "vertical.yaml").hydra.sweeper.params
TEMPLATE = Path(__file__).with_name("vertical.md.jinja")


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

    digest = locate(Model(path=MODEL)).digest
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
        if not made.ok or result["config"]["model.digest"] != digest:
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
    """The whole page: a row a backbone, beside CRAFT's scores on it."""
    from craft.bench.pages import render

    found, metric = scores(folder, facts["model_digest"], GRID.task)

    def score(reference: str | None, rank: int | None) -> str:
        same = found["rank"].isna() if rank is None else found["rank"] == rank
        ours = found[same & found["reference"].isin([reference])]["best"]
        if ours.empty:
            return "no record"
        scatter = f" ± {ours.std():.1f}" if len(ours) > 1 else ""
        return f"{ours.mean():.1f}{scatter}, {len(ours)}"

    return render(TEMPLATE, facts=facts, metric=metric, task=GRID.task.upper(), score=score)


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
