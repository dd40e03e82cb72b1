"""From texts to batches: ragged tokens, and an epoch of batches that is packed, grouped or padded.

A packed batch is its sequences end to end, so no layer but attention's products sees
padding. Which rows share a batch depends on the seed and the epoch alone, whatever its layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from craft.bench.glue.tokens import Tokens
from craft.bench.model.build import first_position
from craft.bench.model.packing import Packing, runs_of, together


@dataclass(frozen=True)
class Layout:
    """How a model is given its batches.

    `packed`    end to end, for models whose attention can be told to stay within a sequence
    `grouped`   cut by length into a few rectangles, each a forward of its own, at the least time
    `padded`    one rectangle, as long as its longest sequence

    A forward and backward costs `price` tokens beside its own, and a token of a sequence of `width`
    tokens twice what one alone does, for attention's sake."""

    batching: str
    first_position: int
    pad: int
    width: int  # of the model
    price: float

    @classmethod
    def of(
        cls, batching: str, first_position: int, pad: int, width: int, device: str = "cpu"
    ) -> "Layout":
        """With the price of a forward on a device, in tokens of width d.

        On a CPU 18 + 8e6 / d^2, measured in bf16 on encoders of width 384 and 768: the one term
        reads the weights, which grows as a token's products do, the other launches some sixty
        operations a layer. On a card, by reckoning and not measured, 100 launches of 5 us a layer
        against the 72 d^2 operations of a token's products at 200 TFLOP/s: 1.4e9 / d^2."""
        price = 18 + 8e6 / width**2 if device == "cpu" else 1.4e9 / width**2
        return cls(batching, first_position, pad, width, price)

    def cut(self, lengths: np.ndarray) -> list[int]:
        """How many rows each forward takes, of rows that are sorted by length."""
        if self.batching != "grouped":
            return [len(lengths)]

        def cost(count: int, longest: int) -> float:
            return self.price + count * longest * (1 + longest / self.width)

        return [sum(n for _, n in group) for group in together(runs_of(lengths), cost)]


@dataclass(frozen=True)
class Batch:
    """What one forward takes: the model's keyword arguments, and the labels (B,) where there are
    any; and which part of its micro-batch it is."""

    inputs: dict[str, Any]
    labels: Tensor | None
    tokens: int  # useful ones, padding excluded
    rows: np.ndarray
    first: bool
    last: bool


def order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the training rows in one epoch."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def batches(
    tokens: Tokens,
    rows: np.ndarray,
    size: int,
    layout: Layout,
    device: torch.device,
    skip: int = 0,
) -> Iterator[Batch]:
    """Micro-batches of `size` consecutive `rows`, the last one as large as what is left, each in
    the parts that its layout makes of it; the first `skip` micro-batches are left out.

    All tokens of the epoch go to the device at once, in order, so that a packed batch is a view.
    Within a micro-batch rows are sorted by length, whatever the layout: sequences of one length
    then share their attention products."""
    chunks = [rows[i : i + size] for i in range(skip * size, len(rows), size)]
    chunks = [chunk[np.argsort(tokens.lengths[chunk], kind="stable")] for chunk in chunks]
    if not chunks:
        return
    arranged = _arranged(tokens, np.concatenate(chunks), layout.first_position, device)
    labels = (
        None
        if tokens.labels is None
        else torch.from_numpy(tokens.labels[np.concatenate(chunks)]).to(device)
    )
    packings = Packing.of_batches([tokens.lengths[chunk] for chunk in chunks], device)
    start = row = 0
    for chunk, packing in zip(chunks, packings, strict=True):
        done = 0
        for count in layout.cut(tokens.lengths[chunk]):
            part = chunk[done : done + count]
            lengths = tokens.lengths[part]
            end = start + int(lengths.sum())
            view = {name: flat[start:end] for name, flat in arranged.items()}
            if layout.batching == "packed":
                inputs = {name: flat[None] for name, flat in view.items()}
                inputs["packing"] = packing
            else:
                inputs = _padded(view, lengths, layout.pad)
            target = None if labels is None else labels[row : row + count]
            first, last = done == 0, done + count == len(chunk)
            yield Batch(inputs, target, end - start, part, first, last)
            start, row, done = end, row + count, done + count


def _arranged(
    tokens: Tokens, rows: np.ndarray, first_position: int, device: torch.device
) -> dict[str, Tensor]:
    """Ids, positions and types of the rows, end to end, on the device."""
    lengths = tokens.lengths[rows]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    gather = within + np.repeat(tokens.offsets[rows], lengths)
    flat = {"input_ids": tokens.ids[gather], "position_ids": within + first_position}
    if tokens.types is not None:
        flat["token_type_ids"] = tokens.types[gather]
    return {
        name: torch.from_numpy(values.astype(np.int64)).to(device) for name, values in flat.items()
    }


def _padded(view: dict[str, Tensor], lengths: np.ndarray, pad: int) -> dict[str, Tensor]:
    """The same rows as a rectangle as long as its longest, with an attention mask."""
    split = {name: flat.split(lengths.tolist()) for name, flat in view.items()}
    fill = {"input_ids": pad, "position_ids": pad, "token_type_ids": 0}
    inputs = {
        name: torch.nn.utils.rnn.pad_sequence(
            list(rows), batch_first=True, padding_value=fill[name]
        )
        for name, rows in split.items()
    }
    ones = [torch.ones_like(rows) for rows in split["input_ids"]]
    inputs["attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    return inputs


def layout_of(model: nn.Module, pad: int, batching: str, device: str) -> Layout:
    """How a model is given its batches."""
    width: int = model.config.hidden_size  # type: ignore[union-attr]
    return Layout.of(batching, first_position(model), pad, width, torch.device(device).type)
