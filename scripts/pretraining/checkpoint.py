"""Where a pre-training stands, on disk: weights, AdamW's moments and the progress that goes with
them, in one safetensors file."""

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import RobertaForMaskedLM

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Stretch:
    """A part of the training under one depth and one set of options."""

    from_step: int
    depth: int
    pairs: float  # share of sequences framed as pairs
    restated: float  # share of second texts drawn from the first
    foreign: float  # share of second texts drawn from elsewhere
    learning_rate: float  # its peak
    budget: str  # that the schedule was drawn over
    hardware: str


@dataclass(frozen=True)
class PretrainingProgress:
    """Steps and seconds of training behind the weights, and what they were made under."""

    step: int
    seconds: float
    sequences: int  # a step
    stretches: tuple[Stretch, ...]

    def under(self, stretch: Stretch) -> "PretrainingProgress":
        """The same, going on under `stretch`; one that only goes on as the last did is no new
        one."""
        last = self.stretches[-1] if self.stretches else None
        if last and replace(stretch, from_step=last.from_step) == last:
            return self
        return replace(self, stretches=(*self.stretches, stretch))


def save_checkpoint(
    path: Path,
    model: RobertaForMaskedLM,
    optimizer: torch.optim.AdamW,
    progress: PretrainingProgress,
) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().cpu()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu()
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(progress))})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_progress(path: Path) -> PretrainingProgress:
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["progress"])
    try:
        stretches = tuple(Stretch(**each) for each in found["stretches"])
        return PretrainingProgress(**found | {"stretches": stretches})
    except (KeyError, TypeError):
        sys.exit(f"pretrain_mini: {path} was made by another version; move it away to start anew")


def load_checkpoint(path: Path, model: RobertaForMaskedLM, optimizer: torch.optim.AdamW) -> None:
    tensors, progress = load_file(path), read_progress(path)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"weight.{name}"])
        optimizer.state[parameter] = {
            "step": torch.tensor(float(progress.step), device=parameter.device),
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
        }
