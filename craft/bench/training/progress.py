"""One line of progress: epoch, loss, best metric, speed and time left. Reading the loss never waits
for the device."""

import math
import sys
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor


class ProgressLine:
    """Shows `craft.bench.training.loop.Progress`; on a terminal as a bar, elsewhere as one plain
    line an epoch."""

    def __init__(self, label: str, headline: str) -> None:
        self.label, self.headline = label, headline
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(label, total=None, shown="")
        self.copy: Tensor | None = None
        self.copied_step = 0
        self.loss = math.nan

    def __enter__(self) -> "ProgressLine":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def observe(self, progress: Any, total: int, running: Tensor | None) -> None:
        """After a step with the running sum of losses; after an epoch with None."""
        if running is None:
            self._epoch(progress)
        elif progress.step % 10 == 0:
            self._read(progress, running)
        best = max((h[self.headline] for h in progress.history), default=math.nan)
        shown = f"loss {self.loss:.3f}  best {self.headline} {best:.3f}"
        self.bar.update(self.task, completed=progress.step, total=total, shown=shown)

    def _read(self, progress: Any, running: Tensor) -> None:
        """Show the copy made ten steps ago, and start the next."""
        epoch_start = progress.history[-1]["step"] if progress.history else 0
        if self.copy is not None:
            self.loss = float(self.copy) / (self.copied_step - epoch_start)
        self.copy = torch.empty((), device="cpu", pin_memory=running.is_cuda)
        self.copy.copy_(running, non_blocking=True)
        self.copied_step = progress.step

    def _epoch(self, progress: Any) -> None:
        last = progress.history[-1]
        self.loss, self.copy = last["loss"], None
        if self.bar.disable:
            print(
                f"{self.label}  epoch {progress.epoch}  step {progress.step}  "
                f"loss {last['loss']:.4f}  "
                f"{self.headline} {last[self.headline]:.4f}",
                file=sys.stderr,
                flush=True,
            )
