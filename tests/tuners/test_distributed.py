"""An adapter where the model is spread over processes, or wrapped as if it were."""

import copy

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tiny_models import IDS, RANKS, llama, outputs, roberta, trained
from tiny_tuners import attach, excite
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.roberta.modeling_roberta import RobertaLayer

from craft import CraftConfig
from craft.errors import InputError


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


@pytest.fixture
def alone():
    """A group of this one process."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


FSDP1_WARNS = pytest.mark.filterwarnings(
    "ignore:.*NO_SHARD", "ignore:.*both parameters with requires_grad", "ignore::FutureWarning"
)
WRAPS = {"whole": None, "layers": ModuleWrapPolicy({RobertaLayer})}


def wrapped(model, policy):
    return FullyShardedDataParallel(
        copy.deepcopy(model),
        auto_wrap_policy=policy,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )


@FSDP1_WARNS
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", ["lotr", "lora_xs", "superlora", "houlsby", "bitfit"])
def test_fsdp1_runs_the_adapter(alone, name, wrap):
    model = excite(attach(roberta(), name))
    expected = outputs(model)
    assert (expected - outputs(roberta())).abs().max() > 0.01
    sharded = wrapped(model, WRAPS[wrap])
    assert torch.equal(outputs(sharded), expected)
    for each in (model, sharded):
        each(input_ids=IDS, labels=IDS[:, 0] % 2).loss.backward()
    gradients = dict(model.named_parameters())
    for path, parameter in sharded.named_parameters():
        other = gradients[path.replace("_fsdp_wrapped_module.", "")].grad
        if other is not None:
            torch.testing.assert_close(parameter.grad, other)
    if wrap == "whole":  # peft finds no adapter below a wrapped layer
        loaded = attach(roberta(), name)
        set_peft_model_state_dict(loaded, get_peft_model_state_dict(sharded))
        assert torch.equal(outputs(loaded), expected)


@FSDP1_WARNS
def test_bitfit_refuses_an_fsdp1_of_its_own_modules(alone):
    sharded = wrapped(attach(roberta(), "bitfit"), ModuleWrapPolicy({nn.Linear, nn.LayerNorm}))
    with pytest.raises(InputError, match="FullyShardedDataParallel stands between BitFit and"):
        outputs(sharded)
