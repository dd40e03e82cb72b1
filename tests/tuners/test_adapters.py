"""An adapter's life in peft: saved, loaded, one of several, switched, disabled, deleted, copied."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from peft import (
    AutoPeftModelForSequenceClassification,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTuner
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import (
    IDS,
    RANKS,
    attach,
    excite,
    gradients,
    loss,
    outputs,
    roberta,
    some_steps,
    t5,
    trained,
)
from transformers import RobertaForSequenceClassification, T5ForConditionalGeneration

import craft
from craft import CraftConfig
from craft.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A backbone on disk; with a name or path of its own, peft looks for nothing on the hub."""
    roberta().save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def backbone(folder):
    return RobertaForSequenceClassification.from_pretrained(folder)


def own_tensors(state):
    """Those of the adapter saved; older peft adds those of the others, their names ending so."""
    return [key for key in state if key.startswith("base_model.craft_") and key.count(".") == 1]


def second(**fields):
    return CraftConfig(**{"ranks": (1, 3, 2), "task_type": "SEQ_CLS", **fields})


# ---- saving and loading


def test_save_writes_every_tensor_once_and_warns_of_nothing(folder, tmp_path):
    model = some_steps(attach(backbone(folder)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    tuner = {
        f"base_model.craft_{group}_{name}"
        for group in ("query", "value")
        for name in ("core", "U1", "U2", "U3", "D1", "D2", "D3")
    }
    head = {name for name in saved if ".classifier." in name}
    assert saved.keys() == tuner | head and (len(tuner), len(head)) == (14, 4)
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", "pt") as file:
        size = sum(saved[name].numel() for name in file.keys())  # noqa: SIM118
    factors = 2 * (2 * 5 * 4 + 3 * 2 + 16 * 5 + 16 * 4)
    trains = model.get_nb_trainable_parameters()[0]
    assert size == factors + trains


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("is_trainable", [False, True])
def test_a_loaded_adapter_gives_the_same_logits(folder, tmp_path, low_cpu_mem_usage, is_trainable):
    model = some_steps(attach(backbone(folder)))
    model.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        loaded = PeftModel.from_pretrained(
            backbone(folder),
            tmp_path / "adapter",
            is_trainable=is_trainable,
            low_cpu_mem_usage=low_cpu_mem_usage,
        )
    assert torch.equal(outputs(loaded), outputs(model))
    assert not any(t.is_meta for t in loaded.state_dict().values())
    assert {p.requires_grad for p in trained(loaded).values()} == {is_trainable}
    if is_trainable:
        before = loss(loaded).item()
        assert loss(some_steps(loaded)).item() < before


def test_a_loaded_adapter_goes_on_training_as_the_saved_one(folder, tmp_path):
    model = some_steps(attach(backbone(folder)))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(backbone(folder), tmp_path / "adapter", is_trainable=True)
    for each in (model, loaded):
        loss(each).backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradients(loaded)[name], gradient)


def test_a_fresh_process_needs_import_craft_and_then_gives_the_same_logits(folder, tmp_path):
    model = some_steps(attach(backbone(folder)))
    model.save_pretrained(tmp_path / "adapter")
    torch.save({"ids": IDS, "logits": outputs(model)}, tmp_path / "expected.pt")
    script = f"""
import torch
from peft import PeftModel
from transformers import RobertaForSequenceClassification

torch.set_num_threads(1)
backbone = RobertaForSequenceClassification.from_pretrained({str(folder)!r})
try:
    PeftModel.from_pretrained(backbone, {str(tmp_path / "adapter")!r})
except KeyError as error:
    print(repr(error))
import craft

model = PeftModel.from_pretrained(backbone, {str(tmp_path / "adapter")!r})
expected = torch.load({str(tmp_path / "expected.pt")!r})
with torch.no_grad():
    print(torch.equal(model(expected["ids"]).logits, expected["logits"]))
"""
    root = str(Path(craft.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["KeyError('CRAFT')", "True"]


def test_auto_peft_model_loads_backbone_and_adapter(folder, tmp_path):
    model = some_steps(attach(backbone(folder)))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("decomposition", ["hooi", "random"])
def test_other_decompositions_load(folder, tmp_path, decomposition):
    model = excite(attach(backbone(folder), decomposition=decomposition, decomposition_seed=7))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(backbone(folder), tmp_path / "adapter")
    assert torch.equal(outputs(loaded), outputs(model))


def test_t5_s_three_attentions_load(tmp_path):
    t5().save_pretrained(tmp_path / "backbone")
    first, other = (
        T5ForConditionalGeneration.from_pretrained(tmp_path / "backbone") for _ in range(2)
    )
    model = excite(attach(first))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(other, tmp_path / "adapter")
    assert torch.equal(outputs(loaded), outputs(model))


def test_layers_to_transform_load(folder, tmp_path):
    model = excite(attach(backbone(folder), layers_to_transform=[0, 2]))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(backbone(folder), tmp_path / "adapter")
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_bf16_backbone_loads_its_float32_adapter(folder, tmp_path):
    model = some_steps(attach(backbone(folder).bfloat16()))
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(backbone(folder).bfloat16(), tmp_path / "adapter")
    assert {p.dtype for p in trained(loaded).values()} == {torch.float32}
    assert torch.equal(outputs(loaded), outputs(model))


def test_tensors_loaded_over_others_take_effect_at_once(folder):
    """Also the frozen ones, of which a bf16 model keeps casts."""
    model, other = (
        attach(backbone(folder).bfloat16(), decomposition=name) for name in ("hosvd", "random")
    )
    excite(other)
    outputs(model)
    set_peft_model_state_dict(model, get_peft_model_state_dict(other))
    assert torch.equal(outputs(model), outputs(other))


def test_low_cpu_mem_usage_leaves_what_trains_to_be_loaded():
    model = get_peft_model(roberta(), CraftConfig(ranks=RANKS), low_cpu_mem_usage=True)
    assert all(p.is_meta and p.requires_grad for p in trained(model).values())
    model.add_adapter("second", CraftConfig(ranks=RANKS), low_cpu_mem_usage=True)
    assert all(p.is_meta and not p.requires_grad for p in trained(model, "second").values())


# ---- without the factors


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_an_adapter_saved_without_factors_computes_them_again(folder, tmp_path, low_cpu_mem_usage):
    model = some_steps(attach(backbone(folder), save_factors=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "adapter")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        loaded = PeftModel.from_pretrained(
            backbone(folder), tmp_path / "adapter", low_cpu_mem_usage=low_cpu_mem_usage
        )
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    names = {name.rpartition("_")[2] for name in saved if "craft" in name}
    assert names == {"D1", "D2", "D3"}
    assert torch.equal(outputs(loaded), outputs(model))


def test_an_adapter_saved_without_factors_refuses_another_backbone(folder, tmp_path):
    attach(backbone(folder), save_factors=False).save_pretrained(tmp_path / "adapter")
    changed = backbone(folder)
    changed.roberta.encoder.layer[2].attention.self.query.weight.data[0, 0] += 1e-3
    with pytest.raises(InputError, match="query weights have the digest"):
        PeftModel.from_pretrained(changed, tmp_path / "adapter")


def test_a_config_without_factors_serves_a_second_backbone():
    """Its digest belongs to the adapter that was made, not to the config that the user gave."""
    config = CraftConfig(ranks=RANKS, target_modules=["query"], save_factors=False)
    model = attach(roberta(seed=1), save_factors=False)
    model.add_adapter("again", config)
    other = attach(roberta(seed=2), save_factors=False)
    other.add_adapter("again", config)
    digests = [m.base_model.found["again"]["backbone"]["query"] for m in (model, other)]
    assert config.backbone is None and digests[0] != digests[1]


def test_adapters_with_and_without_saved_factors_stand_side_by_side(folder):
    model = attach(backbone(folder))
    model.add_adapter("lean", second(save_factors=False))
    for name, tensors in (("default", 14), ("lean", 6)):
        state = get_peft_model_state_dict(model, adapter_name=name)
        assert len(own_tensors(state)) == tensors


# ---- several adapters


def test_a_second_adapter_with_other_ranks_is_its_own(folder, tmp_path):
    model = excite(attach(backbone(folder)))
    first = outputs(model)
    model.add_adapter("second", second())
    assert torch.equal(outputs(model), first)
    model.set_adapter("second")
    assert torch.equal(outputs(model), outputs(roberta()))
    excite(model, "second")
    assert not torch.equal(outputs(model), first)
    model.set_adapter("default")
    assert torch.equal(outputs(model), first)
    assert model.base_model.ranks() == {"query": RANKS, "value": RANKS}
    assert model.base_model.ranks("second") == {"query": (1, 3, 2), "value": (1, 3, 2)}


def test_set_adapter_moves_what_trains_and_what_gets_gradients():
    model = attach(roberta())
    model.add_adapter("second", second())
    for active, idle in (("default", "second"), ("second", "default"), ("default", "second")):
        model.set_adapter(active)
        model.zero_grad()
        loss(model).backward()
        assert all(p.requires_grad for p in trained(model, active).values())
        assert all(p.grad.abs().max() > 0 for p in trained(model, active).values())
        assert not any(p.requires_grad for p in trained(model, idle).values())
        assert all(p.grad is None for p in trained(model, idle).values())


def test_adapters_are_saved_and_loaded_each_by_its_name(folder, tmp_path):
    model = excite(attach(backbone(folder), "one"), "one")
    model.add_adapter("two", second())
    excite(model, "two", seed=2)
    expected = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        expected[name] = outputs(model)
    model.save_pretrained(tmp_path)
    for name in ("one", "two"):
        saved = load_file(tmp_path / name / "adapter_model.safetensors")
        assert len(own_tensors(saved)) == 14
        if hasattr(BaseTuner, "_get_adapter_state_dict"):
            assert sum("craft" in key for key in saved) == 14
    loaded = PeftModel.from_pretrained(backbone(folder), tmp_path / "one", adapter_name="two")
    loaded.load_adapter(tmp_path / "two", adapter_name="one")  # names exchanged
    assert torch.equal(outputs(loaded), expected["one"])
    loaded.set_adapter("one")
    assert torch.equal(outputs(loaded), expected["two"])


def test_an_added_adapter_leaves_alone_what_trains():
    model = attach(roberta())
    model.set_requires_grad("default", False)
    model.add_adapter("second", second())
    assert not any(p.requires_grad for p in trained(model).values())
    model.set_requires_grad("default", True)
    model.add_adapter("third", second(inference_mode=True))
    assert all(p.requires_grad for p in trained(model).values())
    assert not any(p.requires_grad for p in trained(model, "third").values())


def test_active_adapters_sum():
    model = excite(attach(roberta(), task_type=None).double())
    model.add_adapter("second", CraftConfig(ranks=(1, 3, 2), target_modules=["query", "key"]))
    model.double()
    excite(model, "second")
    model.base_model.set_adapter(["default", "second"])
    attention = model.roberta.encoder.layer[1].attention.self
    x = torch.randn(5, 16, dtype=torch.float64)
    for layer, names in (
        (attention.query, ("default", "second")),
        (attention.key, ("second",)),
        (attention.value, ("default",)),
    ):
        expected = layer.base_layer(x) + sum(x @ layer.get_delta_weight(n).T for n in names)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    summed = outputs(model)
    model.base_model.merge_adapter()
    torch.testing.assert_close(outputs(model), summed, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted")
@pytest.mark.parametrize("deleted", ["default", "second"])
def test_deleting_an_adapter_leaves_no_tensor_of_it_and_the_other_working(deleted):
    """`default` is active, so the other must take its place."""
    kept = "second" if deleted == "default" else "default"
    model = excite(attach(roberta().bfloat16()))
    model.add_adapter("second", second())
    excite(model, "second", seed=2)
    model.set_adapter(kept)
    expected = outputs(model)
    model.set_adapter(deleted)
    outputs(model)
    model.set_adapter("default")
    loss(model).backward()
    model.zero_grad()
    tuner = model.base_model
    remains = [
        weakref.ref(container[deleted])
        for name, container in tuner.named_children()
        if name.startswith("craft_")
    ]
    assert len(remains) == 14
    model.delete_adapter(deleted)
    gc.collect()
    assert [r() for r in remains] == [None] * 14
    assert not any(f".{deleted}." in f"{name}." for name in model.state_dict())
    assert deleted not in tuner.groups and model.active_adapters == [kept]
    assert torch.equal(outputs(model), expected)
    assert all(p.requires_grad for p in trained(model, kept).values())
    some_steps(model)
    model.add_adapter(deleted, CraftConfig(ranks=(2, 2, 2), task_type="SEQ_CLS"))
    assert tuner.ranks(deleted) == {"query": (2, 2, 2), "value": (2, 2, 2)}


def test_deleting_the_only_adapter_leaves_the_backbone():
    model = excite(attach(roberta()))
    model.delete_adapter("default")
    assert not any("craft" in name for name in model.state_dict())
    assert torch.equal(outputs(model.base_model.model), outputs(roberta()))


def test_the_status_of_the_model_names_the_adapters():
    model = attach(roberta())
    model.add_adapter("second", second())
    status = model.get_model_status()
    assert status.available_adapters == ["default", "second"]
    assert status.active_adapters == ["default"] and status.enabled is True
    assert status.peft_types == {"default": "CRAFT", "second": "CRAFT"}
    assert len(model.get_layer_status()) == status.num_adapter_layers == 6 + 1
    assert "CraftModel" in repr(model)


# ---- disabling, copying


def test_disable_adapter_gives_the_backbone_back_bit_for_bit():
    model = some_steps(attach(roberta()))
    adapted = outputs(model)
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(roberta()))
    assert torch.equal(outputs(model), adapted)
    assert all(p.requires_grad for p in trained(model).values())


def test_a_copy_is_independent_also_after_a_forward_in_training():
    model = attach(roberta()).train()
    loss(model)  # its graph is kept until the backward
    twin = copy.deepcopy(model)
    before = outputs(model.eval())
    some_steps(twin)
    assert torch.equal(outputs(model), before) and not torch.equal(outputs(twin), before)
    own = {id(m) for m in twin.modules()}
    for layer in (m for m in twin.modules() if hasattr(m, "places")):
        tuner, group, index = layer.places["default"]
        assert tuner is twin.base_model and group.layers[index] is layer and id(tuner) in own
    some_steps(model)
    assert torch.equal(outputs(model), outputs(twin))


def test_a_model_survives_pickle():
    model = some_steps(attach(roberta()))
    loss(model)
    assert torch.equal(outputs(pickle.loads(pickle.dumps(model))), outputs(model))
