"""What to do when a run finds too little memory, on the card or on the host."""

import gc

import torch

from craft.config import TrainSettings

MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(MemoryError):
    """Too little memory for a micro-batch; the message says which settings need less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, CUDA or Python said so: they have no exception in common."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)
    return isinstance(error, kinds) or said


def smaller(settings: TrainSettings) -> int | None:
    """The `accumulate` that at least halves the micro-batch; None where that is one row."""
    size = settings.batch_size
    found = (n for n in range(2 * settings.accumulate, size + 1) if size % n == 0)
    return next(found, None)


def advice(settings: TrainSettings) -> str:
    rows, more = settings.batch_size // settings.accumulate, smaller(settings)
    by_half = (
        f"train.accumulate={more} makes micro-batches of {settings.batch_size // more} rows (the "
        f"global batch stays {settings.batch_size}), train.auto_accumulate=true does so by itself; "
        if more is not None and not settings.auto_accumulate
        else ""
    )
    return (
        f"too little memory with micro-batches of {rows} rows: {by_half}train.precision=bf16 and a "
        "smaller train.max_length take less, too"
    )


def advice_in_evaluation(settings: TrainSettings) -> str:
    size = settings.eval_batch_size
    return (
        f"too little memory in evaluation with batches of {size} rows: train.eval_batch_size="
        f"{max(1, size // 2)}, train.precision=bf16 and a smaller train.max_length take less"
    )


def release() -> None:
    """Give back what abandoned models held, whose parts refer to one another, and count the card's
    peak of memory anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
