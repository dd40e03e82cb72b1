"""What counts as too little memory: as torch, CUDA and Python say it, and nothing else."""

import pytest
import torch

from craft.bench.training.memory import is_out_of_memory

SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.OutOfMemoryError("Allocation on device"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB, max allowed: 1.00 GB)."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if"),
    RuntimeError(RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
    MemoryError(),
]
OTHERS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError(ValueError("mat1 and mat2 shapes cannot be multiplied")),
    RuntimeError(),
    ValueError("CUDA out of memory."),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", SAID, ids=repr)
def test_what_says_so_is_too_little_memory(error):
    assert is_out_of_memory(error)


def test_the_hosts_allocator_says_so():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_another_error_is_no_lack_of_memory(error):
    assert not is_out_of_memory(error)
