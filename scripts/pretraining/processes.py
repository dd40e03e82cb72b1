"""The processes that share a step, as `torchrun` starts them; one, where it did not."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """How many there are, which one this is, and its device."""

    count: int
    rank: int
    device: torch.device

    @staticmethod
    def join() -> "Processes":
        count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        cuda = torch.cuda.is_available()
        device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if cuda
            else torch.device("cpu")
        )
        if count > 1:
            dist.init_process_group("nccl" if cuda else "gloo")
        return Processes(count, rank, device)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over the processes: all must agree on schedule and end."""
        state = torch.tensor(values, dtype=torch.float64)
        if self.count > 1:
            state = state.to(self.device)
            dist.all_reduce(state, dist.ReduceOp.MAX)
        return state.tolist()

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Mean over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient)).div_(self.count)

    def hardware(self, threads: int) -> str:
        if self.device.type == "cuda":
            return f"{self.count} x {torch.cuda.get_device_name(self.device)}"
        cpu = platform.processor() or platform.machine()
        if Path("/proc/cpuinfo").exists():
            names = [
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ]
            cpu = names[0] if names else cpu
        return f"CPU ({cpu}), {self.count} processes of {threads} threads"
