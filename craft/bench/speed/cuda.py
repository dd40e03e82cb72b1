"""A training step on a CUDA device: useful tokens a second, share of the card's peak, memory."""

from dataclasses import replace
from typing import Any

import torch

from craft.bench.speed import trainer
from craft.bench.speed.measure import Figure, Findings, clock_of, figure, interleaved, ratio
from craft.bench.speed.methods import Subject, casts_of, launches, subject
from craft.bench.speed.subjects import SHAPES, Setup

# dense bf16 TFLOP/s by the makers' data sheets, by a part of the device's name: the first that fits
PEAK = {
    "H200 NVL": 836, "H200": 989, "H100 PCIe": 756, "H100 NVL": 836, "H100": 989, "A100": 312,
    "L40S": 362, "L40": 181, "L4": 121, "4090": 165,
}  # fmt: skip
VARLEN = ("train.attention_dropout=0",)  # the variable-length kernel takes none
STEPPED = {"craft": ("craft",), "lora": ("lora",), "compiled": ("craft", "train.compile=true")}
STEPS = 20  # timed together: a step alone is shorter than the clock's jitter


def bench(setup: Setup) -> Findings:
    """Base and large with CRAFT and LoRA, then the Trainer peer on the same card."""
    name = torch.cuda.get_device_name()
    peak = next((t for part, t in PEAK.items() if part in name), None)
    figures: list[Figure] = []
    facts: dict[str, Any] = {"device": name, "peak_tflops": peak}
    shapes = ("tiny",) if setup.shape == "tiny" else ("base", "large")
    for shape in shapes:
        rows, length = 32, 40
        at = replace(setup, shape=shape)
        torch.cuda.reset_peak_memory_stats()
        found = {
            name: subject(at, method, rows, length, "bf16", *VARLEN, *more)
            for name, (method, *more) in STEPPED.items()
        }
        work = {name: _steps(one) for name, one in found.items()}
        with casts_of(found.values()):
            times = interleaved(work, setup.rounds, clock_of("cuda", 1))
            # not of the compiled one: under the counter's dispatch mode it would run, and from then
            # on stay, uncompiled
            launched = {m: launches(found[m].step) for m in ("craft", "lora")}
        rates = [STEPS * rows * length / seconds for seconds in times["craft"]]
        figures.append(figure(f"{shape}: craft", rates, "tokens/s"))
        figures.append(ratio(f"{shape}: step, craft / lora", times, "craft", "lora", most=1.05))
        figures.append(ratio(f"{shape}: step, compiled / craft", times, "compiled", "craft"))
        share = [rate * flops_of_a_token(shape, length) / 1e12 / peak for rate in rates if peak]
        if share:
            limit = {"least": 0.4} if shape == "large" else {}
            figures.append(figure(f"{shape}: model-FLOPs utilisation", share, "", **limit))
        memory = torch.cuda.max_memory_allocated() / 2**20
        figures.append(Figure(f"{shape}: peak memory, all models", memory, "MB"))
        facts[shape] = {
            "tokens_per_second": rates, "seconds": times, "peak_megabytes": memory,
            "launches": launched,
        }  # fmt: skip
    beside = trainer.bench(setup, precisions=("bf16",), more=VARLEN)
    facts["trainer"] = beside.facts
    return Findings(figures + beside.figures, facts, remarks=beside.remarks)


def _steps(found: Subject) -> Any:
    def work() -> None:
        for _ in range(STEPS):
            found.step()

    return work


def flops_of_a_token(shape: str, length: int) -> float:
    """Model FLOPs of a token in a step over a frozen backbone: forward and the activations'
    gradients, 2 and 2 for each weight, and the attention products."""
    hidden, layers, _, inner = SHAPES[shape]
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    return 4 * weights + layers * (4 + 8) * length * hidden
