"""A run's checkpoint: trained parameters, AdamW's moments, the best epoch, logits and counters, in
one safetensors file."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from craft.files import DamagedFile, read_tensors, set_aside, write_tensors

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path,
    identity: str,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    progress: Any,
    logits: dict[str, Tensor],
    best: dict[str, Tensor],
) -> None:
    """Write a checkpoint atomically; `progress` is a dataclass of plain values."""
    tensors = {f"logits.{name}": value for name, value in logits.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    steps = 0.0
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = parameter
        state = optimizer.state.get(parameter)
        if state:
            steps = float(state["step"])
            tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS}
    write_tensors(
        path, tensors, {"identity": identity, "adam_steps": steps, "progress": asdict(progress)}
    )


def load_checkpoint(
    path: Path, identity: str, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]] | None:
    """Restore parameters and moments in place; returns progress, logits and the best epoch's
    parameters.

    None where there is no checkpoint, and, with a warning, where it is damaged (it is set aside) or
    another run's."""
    try:
        tensors, facts = read_tensors(path)
    except FileNotFoundError:
        return None
    except DamagedFile as damage:
        aside = set_aside(path)
        warnings.warn(
            f"checkpoint set aside as {aside.name}, starting over: {damage}", stacklevel=2
        )
        return None
    if facts["identity"] != identity:
        warnings.warn(f"{path} belongs to another run; starting over", stacklevel=2)
        return None
    odd = [
        name
        for name, parameter in parameters.items()
        if getattr(tensors.get(f"parameter.{name}"), "shape", None) != parameter.shape
    ]
    if odd:
        aside = set_aside(path)
        warnings.warn(
            f"checkpoint set aside as {aside.name}, starting over: {odd[0]} has another shape",
            stacklevel=2,
        )
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            if f"exp_avg.{name}" in tensors:
                state: dict[str, Tensor] = {
                    m: tensors[f"{m}.{name}"].to(parameter.device) for m in MOMENTS
                }
                state["step"] = torch.tensor(facts["adam_steps"], device=parameter.device)
                optimizer.state[parameter] = state

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return facts["progress"], under("logits."), under("best.")
