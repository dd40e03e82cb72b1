"""Memory of the card and the host: what to do where it is too little, and its peaks."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from craft.bench.settings.sections import TrainSettings


class OutOfMemory(MemoryError):
    """Too little memory for a micro-batch; the message says which settings need less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, a device's library or Python said so: accelerate's test, and what accelerate
    1.15 does not count: MemoryError, torch's own class whatever it says, an allocation that failed
    in the CUDA runtime itself ("CUDA error: out of memory") or in cuBLAS."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)  # accelerate searches the one argument, which need not be a text
    beyond = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return should_reduce_batch_size(RuntimeError(said)) or any(text in said for text in beyond)


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
    """Give back what abandoned models held, whose parts refer to one another, and count the peaks
    of memory anew, so that they are not those of a process's earlier runs. What libraries keep of
    those (kernels, caches) stays, and counts."""
    gc.collect()
    if torch.cuda.is_initialized():  # a run on the CPU leaves the card alone
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # what these ask of glibc and of Linux, other systems do not have
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else the heap keeps what was freed
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peaks(device: torch.device) -> dict[str, float | None]:
    """In megabytes, since the last `release`: of this process on the host, resident; on the card,
    allocated."""
    card = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"host": round(host_peak(), 1), "gpu": None if card is None else round(card, 1)}


def host_peak() -> float:
    """This process's peak in megabytes: since the last `release` where the system counts anew
    (Linux, as a rule), else since it started.

    Linux' `ru_maxrss`, the other source, begins with the size of the process that started this
    one."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    counted = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    if counted:
        return int(counted[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
