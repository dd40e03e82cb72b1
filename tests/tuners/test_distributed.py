"""Two processes under DistributedDataParallel learn the same adapter."""

import pytest
import torch
from peft import get_peft_model
from tiny_models import IDS, RANKS, llama, trained
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from craft import CraftConfig


def train_a_half(rank, store, results):
    """One of two processes: its half of each batch, gradients averaged by DDP."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = get_peft_model(llama(), CraftConfig(ranks=RANKS))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(3):
        ids = IDS.roll(step, 0)[2 * rank : 2 * rank + 2]
        parallel(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save({n: p.detach() for n, p in trained(model).items()}, results / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow  # each process imports all of transformers anew
def test_two_processes_end_with_equal_d(tmp_path):
    """And with the D of one process that sees the whole batch."""
    context = torch.multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=train_a_half, args=(rank, tmp_path / "store", tmp_path))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    alone = get_peft_model(llama(), CraftConfig(ranks=RANKS))
    optimizer = torch.optim.AdamW([p for p in alone.parameters() if p.requires_grad], lr=0.02)
    for step in range(3):
        ids = IDS.roll(step, 0)
        alone(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, parameter in trained(alone).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-3, atol=1e-4)
        assert parameter.abs().max() > 0
