"""Tokenised splits on disk: a split is tokenised once for a tokenizer and a length."""

import importlib.metadata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from craft.glue.batches import Tokens, encode
from craft.glue.tasks import Split, Task
from craft.storage import DamagedFile, read_tensors, sha256, write_tensors

ARRAYS = ("ids", "types", "offsets", "labels")


@dataclass(frozen=True)
class TokenCache:
    """Tokens in a folder, keyed by the content of data and tokenizer, the length and the library.

    Any number of processes may fill it at once (each file is written aside and renamed); a damaged
    file is tokenised again and replaced."""

    folder: Path
    data: str  # digest of the task's data
    tokenizer: str  # digest of the tokenizer's files

    def encode(self, split: Split, task: Task, tokenizer: Any, max_length: int) -> Tokens:
        """`encode`, from the cache where it is there."""
        library = importlib.metadata.version("tokenizers"), type(tokenizer).__name__
        facts = (self.data, self.tokenizer, split.name, max_length, *library, 1)  # 1: of this file
        path = self.folder / f"{task.name}-{split.name}-{sha256(repr(facts).encode())}.safetensors"
        try:
            found, more = read_tensors(path)
            arrays = {n: found[n].numpy() if n in found else None for n in ARRAYS}
            return Tokens(**arrays, cut=more["cut"])  # type: ignore[arg-type]
        except FileNotFoundError:
            pass
        except DamagedFile as damage:
            warnings.warn(f"tokenising again: {damage}", stacklevel=2)
        made = encode(split, task, tokenizer, max_length)
        arrays = {name: getattr(made, name) for name in ARRAYS}
        tensors = {n: torch.from_numpy(a) for n, a in arrays.items() if a is not None}
        write_tensors(path, tensors, {"cut": made.cut})
        return made
