"""Tokenised splits on disk: a split is tokenised once for a tokenizer and a length."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from craft.bench.glue.sources import Split
from craft.bench.settings.sections import Task
from craft.errors import InputError
from craft.files import read_cached, sha256, write_cached

ARRAYS = ("ids", "types", "offsets", "labels")


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
class TokenCache:
    """Tokens in a folder, keyed by the content of data and tokenizer, the rows of the data that the
    split holds (folds of one data set have its digest), the length and the library.

    Any number of processes may fill it at once (each file is written aside and renamed); a damaged
    file is set aside and tokenised again. `shared` are folders that are read, too, and never
    written."""

    folder: Path
    data: str  # digest of the task's data
    tokenizer: str  # digest of the tokenizer's files
    shared: tuple[Path, ...] = ()

    def encode(self, split: Split, task: Task, tokenizer: Any, max_length: int) -> Tokens:
        """`encode`, from the cache where it is there."""
        library = importlib.metadata.version("tokenizers"), type(tokenizer).__name__
        rows = sha256(repr(split.idx).encode())
        facts = (self.data, self.tokenizer, split.name, rows, max_length, *library)
        name = f"{task.name}-{split.name}-{sha256(repr(facts).encode())}.safetensors"
        cached = read_cached(name, (self.folder, *self.shared), "tokenising")
        if cached is not None:
            found, more = cached
            arrays = {n: found[n].numpy() if n in found else None for n in ARRAYS}
            return Tokens(**arrays, cut=more["cut"])  # type: ignore[arg-type]
        made = encode(split, task, tokenizer, max_length)
        arrays = {n: getattr(made, n) for n in ARRAYS}
        tensors = {n: torch.from_numpy(a) for n, a in arrays.items() if a is not None}
        write_cached(self.folder / name, tensors, {"cut": made.cut})
        return made
