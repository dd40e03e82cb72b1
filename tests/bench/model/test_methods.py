"""The contract that every method of configs/method must pass, as its own `facts` declare it."""

import copy
import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_bench import METHODS, method_of
from transformers import RobertaConfig, RobertaForSequenceClassification

import craft  # noqa: F401  registers the tuners
from craft.bench.model.build import attach, trained
from craft.bench.model.counts import expected_parameters

CONFIGS = Path(__file__).resolve().parents[3] / "configs"

pytestmark = pytest.mark.filterwarnings(
    "ignore:ranks .* exceed", "ignore:.*is_gradient_checkpointing.*", "ignore:.*unused.*"
)


def backbone(depth=3):
    """Non-square feed-forward Linears, a width that VB-LoRA's vectors divide, no dropout."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=120,
        hidden_size=64,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=40,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return RobertaForSequenceClassification(config).eval()


@pytest.fixture(params=METHODS)
def method(request):
    return method_of(request.param)


@pytest.fixture
def attached(method):
    return attach(backbone(), method, seed=1)


def batch(rows=5, length=9, seed=0):
    return torch.randint(3, 119, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, ids=None):
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch() if ids is None else ids).logits


def train(model, steps=3, lr=1e-2):
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    gradients = []
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=batch(seed=step)).logits, torch.tensor([0, 1, 0, 1, 1])
        )
        optimizer.zero_grad()
        loss.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        )
        optimizer.step()
    return gradients


def test_only_adapter_and_head_train(method, attached):
    adapter, head = trained(attached)
    trains = {id(p) for p in attached.parameters() if p.requires_grad}
    assert trains == {id(p) for part in (adapter, head) for p in part.values()}
    assert not set(adapter) & set(head)
    assert {n.rpartition("modules_to_save.default.")[2] for n in head} == {
        "dense.weight",
        "dense.bias",
        "out_proj.weight",
        "out_proj.bias",
    }
    if not method.train_backbone:
        assert not any("base_layer" in n and "modules_to_save" not in n for n in adapter)


def test_the_count_of_shapes_is_what_trains(method, attached):
    adapter, head = trained(attached)
    assert sum(p.numel() for p in adapter.values()) == expected_parameters(
        method, attached.get_base_model().config
    )
    assert sum(p.numel() for p in head.values()) == 64 * 64 + 64 + 2 * 64 + 2


def test_the_start_is_the_backbone(method, attached):
    tolerance = method.facts["start_tolerance"]
    if tolerance is None:
        assert not torch.equal(logits(attached), logits(backbone()))
        return
    # the head is drawn by `models.build`; here both sides have the backbone's own
    difference = (logits(attached) - logits(backbone())).abs().max()
    assert difference <= tolerance


def test_every_trained_tensor_gets_a_gradient_and_a_step_changes_the_output(method, attached):
    before = logits(attached)
    gradients = train(attached)
    for name in gradients[0]:
        assert all(torch.isfinite(step[name]).all() for step in gradients), name
        if "word_embeddings" in name or "position_embeddings" in name or "pooler" in name:
            continue
        assert any(step[name].abs().sum() > 0 for step in gradients), (
            f"{name} never gets a gradient"
        )
    assert not torch.equal(logits(attached), before)


def test_merging_as_declared_keeps_the_output(method, attached):
    train(attached)
    expected, way = logits(attached), method.facts["merge"]
    if way == "none":
        with pytest.raises((ValueError, NotImplementedError)):
            attached.merge_and_unload()
        return
    if way == "merge_and_unload":
        merged = attached.merge_and_unload()
    else:
        with pytest.raises(AttributeError):  # what a stock peft method cannot do is declared
            copy.deepcopy(attached).merge_and_unload()
        attached.merge_adapter()
        merged = attached
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=2e-5)


def test_disabling_as_declared_gives_the_backbone_back(method, attached):
    train(attached)
    with attached.disable_adapter():
        same = torch.equal(logits(attached), logits(backbone()))
    assert same == method.facts["disable"]


def test_saved_and_loaded_onto_a_fresh_backbone_the_logits_are_the_same(method, attached, tmp_path):
    train(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        attached.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(backbone(), str(tmp_path))
    difference = (logits(loaded) - logits(attached)).abs().max()
    assert difference <= method.facts["reload_tolerance"]
    assert any("classifier" in name for name in load_file(tmp_path / "adapter_model.safetensors"))


def test_no_tensor_is_saved_twice(method, attached, tmp_path):
    attached.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    large = [
        (tuple(t.shape), t.float().sum().item(), t.float().std().item())
        for t in saved.values()
        if t.numel() > 256
    ]
    varied = [entry for entry in large if entry[2] > 0]
    assert len(varied) == len(set(varied))


def test_the_same_seed_attaches_the_same(method):
    first, second = (attach(backbone(), method, seed=7) for _ in range(2))
    for (name, a), (_, b) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("depth", [2, 3])
def test_depth_odd_batches_and_length_one(method, depth):
    model = attach(backbone(depth), method, seed=1)
    together = logits(model, batch(3, 4))
    torch.testing.assert_close(together[:1], logits(model, batch(3, 4)[:1]), rtol=0, atol=1e-5)
    assert logits(model, batch(1, 1)).shape == (1, 2)


FRESH = """
import json, sys, torch
sys.path[:0] = {tests!r}
from peft import PeftModel
import craft
from test_methods import backbone, logits
from tiny_bench import METHODS
found = {{}}
for name in METHODS:
    model = PeftModel.from_pretrained(backbone(), f"{{sys.argv[1]}}/{{name}}")
    found[name] = logits(model).tolist()
print("LOGITS" + json.dumps(found))
"""


def test_every_adapter_loads_in_a_fresh_process(tmp_path):
    expected, tolerance = {}, {}
    for name in METHODS:
        method = method_of(name)
        model = attach(backbone(), method, seed=1)
        train(model)
        model.save_pretrained(tmp_path / name)
        expected[name], tolerance[name] = logits(model), method.facts["reload_tolerance"]
    script = textwrap.dedent(FRESH).format(tests=[str(Path(__file__).parents[n]) for n in (0, 2)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("LOGITS")[1])
    for name in METHODS:
        difference = (torch.tensor(found[name]) - expected[name]).abs().max()
        assert difference <= tolerance[name] + 1e-7, name
