"""Tokenised splits on disk: a split is tokenised once for a tokenizer and a length."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from craft.glue.batches import Tokens, encode
from craft.glue.tasks import Split, Task
from craft.storage import read_cached, sha256, write_cached

ARRAYS = ("ids", "types", "offsets", "labels")


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
