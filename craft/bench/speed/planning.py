"""The paper suite's GPU-hours, estimated from measured rates; nothing is run."""

import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from craft.bench.speed.measure import Figure, Findings
from craft.bench.speed.subjects import Setup

# training rows of GLUE, and mean length in RoBERTa's tokens: of the whole training set, of a sample
# of it (MNLI, QNLI), or assumed (QQP: two questions of some 13 tokens)
TRAINING = {
    "mnli": (392_702, 40.6),
    "sst2": (67_349, 14.4),
    "mrpc": (3_668, 54.1),
    "cola": (8_551, 11.4),
    "qnli": (104_743, 48.7),
    "qqp": (363_846, 30.0),
    "rte": (2_490, 71.2),
    "stsb": (5_749, 29.1),
}
BACKWARD = {"full": 1.5}  # a step's cost beside CRAFT's; the other methods count as CRAFT


def bench(setup: Setup, measured: Path) -> Findings:
    """Tokens of every run of the two grids of Table 2, over the tokens a second in `measured`, the
    folder of the other benches' results; evaluation adds a tenth."""
    rates, remarks = _rates(measured)
    figures: list[Figure] = []
    facts: dict[str, Any] = {"rates": rates, "tokens": {}}
    for shape in ("base", "large"):
        grid = OmegaConf.load(setup.configs / "experiment" / f"table2_{shape}.yaml")
        sweep = grid.hydra.sweeper.params
        seeds = len(str(sweep.seed).split(","))
        tokens = {
            row: seeds * _tokens(setup, row, sweep.task.split(",")) for row in sweep.row.split(",")
        }
        facts["tokens"][shape] = tokens
        total = sum(tokens.values())
        runs = len(tokens) * len(sweep.task.split(",")) * seeds
        figures.append(Figure(f"Table 2 {shape}: {runs} runs", total / 1e9, "Gtokens"))
        craft = tokens[f"{shape}_craft"]
        for kind, found in rates.items():
            if shape in found:
                hours = 1.1 * total / found[shape] / 3600
                alone = 1.1 * craft / found[shape] / 3600
                figures.append(Figure(f"Table 2 {shape}", hours, f"{kind}-h"))
                figures.append(Figure(f"Table 2 {shape}, CRAFT alone", alone, f"{kind}-h"))
    return Findings(figures, facts, remarks=remarks)


def _tokens(setup: Setup, row: str, tasks: list[str]) -> float:
    """Useful tokens of one row's runs over all tasks, weighted by what its step costs."""
    total = 0.0
    with initialize_config_dir(str(setup.configs), version_base="1.3"):
        cfg = compose("train", [f"row={row}"])
    weight = BACKWARD["full"] if cfg.method.get("train_backbone") else 1.0
    for cfg.task.name in tasks:  # the epochs are those of the recipe's row for the task
        rows, length = TRAINING[cfg.task.name]
        total += weight * rows * length * cfg.train.epochs
    return total


def _rates(measured: Path) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """CRAFT's useful tokens a second on a GPU and on this CPU, by shape, where measured."""
    rates: dict[str, dict[str, float]] = {}
    if (measured / "cuda.json").is_file():
        facts = json.loads((measured / "cuda.json").read_text())["facts"]
        shapes = [shape for shape in ("base", "large") if shape in facts]
        rates["GPU"] = {s: _median(facts[s]["tokens_per_second"]) for s in shapes}
    if (measured / "methods.json").is_file():
        facts = json.loads((measured / "methods.json").read_text())["facts"]
        if facts["shape"] in ("base", "large"):
            rates["CPU"] = {facts["shape"]: facts["32 x 64 bf16"]["tokens_per_second"]}
    remarks = [f"QQP's mean length is assumed: {TRAINING['qqp'][1]:.0f} tokens"]
    if "GPU" not in rates:
        remarks.append(f"no GPU was measured: there is no cuda.json in {measured.name}/")
    return rates, tuple(remarks)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
