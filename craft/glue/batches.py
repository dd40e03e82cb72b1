"""From texts to batches: ragged tokens, and an epoch of batches that is packed or padded.

A packed batch is its sequences end to end, so no layer but attention's products sees
padding. Its composition is that of the padded batch: which rows share a batch depends on the seed
and the epoch alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from craft.errors import InputError
from craft.glue.tasks import Split, Task
from craft.packing import Packing


@dataclass(frozen=True)
class Tokens:
    """A tokenised split: sequence i is `ids[offsets[i] : offsets[i + 1]]`; types are None for
    models without them."""

    ids: np.ndarray  # int32 (total,)
    types: np.ndarray | None  # int32 (total,)
    offsets: np.ndarray  # int64 (rows + 1,)
    labels: np.ndarray | None  # int64 or float32 (rows,)
    cut: int  # rows that were longer than the maximum length

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def encode(split: Split, task: Task, tokenizer: Any, max_length: int) -> Tokens:
    """Tokenise a split, single sentences or pairs, cut at `max_length` tokens (the longer text
    first); InputError where no token of a text would be left.

    Only the rows that are too long are tokenised a second time, to cut them."""
    special = tokenizer.num_special_tokens_to_add(pair=len(split.texts) > 1)
    if max_length < special + len(split.texts):
        raise InputError(
            f"train.max_length {max_length} leaves no room for {task.name}'s text beside {special} "
            f"special tokens; the least is {special + len(split.texts)}"
        )
    encoded = tokenizer(*split.texts, truncation=False, verbose=False)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    long = [row for row, found in enumerate(ids) if len(found) > max_length]
    if long:
        texts = ([column[row] for row in long] for column in split.texts)
        shorter = tokenizer(*texts, truncation=True, max_length=max_length)
        for number, row in enumerate(long):
            ids[row] = shorter["input_ids"][number]
            if types is not None:
                types[row] = shorter["token_type_ids"][number]
    offsets = np.cumsum([0, *(len(found) for found in ids)])
    labels = split.labels
    return Tokens(
        ids=np.concatenate([np.asarray(found, np.int32) for found in ids]),
        types=None if types is None else np.concatenate([np.asarray(t, np.int32) for t in types]),
        offsets=offsets,
        labels=None
        if labels is None
        else np.asarray(labels, np.float32 if task.regression else np.int64),
        cut=len(long),
    )


@dataclass(frozen=True)
class Batch:
    """Keyword arguments of the model's forward, and the labels (B,) where there are any."""

    inputs: dict[str, Any]
    labels: Tensor | None
    tokens: int  # useful ones, padding excluded
    rows: np.ndarray


def order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the training rows in one epoch."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def batches(
    tokens: Tokens,
    rows: np.ndarray,
    size: int,
    packed: bool,
    device: torch.device,
    first_position: int,
    pad: int,
    skip: int = 0,
) -> Iterator[Batch]:
    """Batches of `size` consecutive `rows`, the last one as large as what is left; the first `skip`
    are left out.

    All tokens of the epoch go to the device at once, in order, so that a packed batch is a view.
    Within a batch rows are sorted by length, in packed and padded batches alike: sequences of one
    length then share their attention products."""
    chunks = [rows[i : i + size] for i in range(skip * size, len(rows), size)]
    chunks = [chunk[np.argsort(tokens.lengths[chunk], kind="stable")] for chunk in chunks]
    if not chunks:
        return
    arranged = _arranged(tokens, np.concatenate(chunks), first_position, device)
    labels = (
        None
        if tokens.labels is None
        else torch.from_numpy(tokens.labels[np.concatenate(chunks)]).to(device)
    )
    packings = Packing.of_batches([tokens.lengths[chunk] for chunk in chunks], device)
    start = row = 0
    for chunk, packing in zip(chunks, packings, strict=True):
        lengths = tokens.lengths[chunk]
        end = start + int(lengths.sum())
        view = {name: flat[start:end] for name, flat in arranged.items()}
        if packed:
            inputs = {name: flat[None] for name, flat in view.items()}
            inputs["packing"] = packing
        else:
            inputs = _padded(view, lengths, pad)
        target = None if labels is None else labels[row : row + len(chunk)]
        yield Batch(inputs, target, end - start, chunk)
        start, row = end, row + len(chunk)


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
