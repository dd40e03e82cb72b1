"""An adapter and its backbone: known again on loading, and stored without factors or with."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import Stack, attach, excite, llama, outputs, roberta, some_steps
from tiny_tuners import CONFIGS
from torch import nn

import craft.tucker
from craft import CraftConfig, use_cache
from craft.errors import InputError
from craft.tuners.sandwich.backbone import FORMAT, refuse_model

# ---- on disk


def rewrite(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path):
    """A trained adapter with its factors."""
    some_steps(attach(roberta())).save_pretrained(tmp_path, save_embedding_layers=False)
    return tmp_path


def test_the_file_names_its_format_and_its_backbone(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["format_version"] == FORMAT == 1
    assert {name: f.split(":")[0] for name, f in config["backbone"].items()} == {
        "query": "3x16x16",
        "value": "3x16x16",
    }


def test_a_file_of_a_later_format_is_refused(folder):
    rewrite(folder, format_version=FORMAT + 1)
    with pytest.raises(InputError, match="has format 2; this version of craft reads up to 1"):
        PeftModel.from_pretrained(roberta(), folder)


@pytest.mark.parametrize("name", ["craft", "lotr", "lora_xs"])
def test_other_weights_of_the_same_shape_warn_naming_the_group(name, tmp_path):
    make = attach if name == "craft" else lambda model: get_peft_model(model, CONFIGS[name]())
    make(roberta()).save_pretrained(tmp_path, save_embedding_layers=False)
    changed = roberta()
    changed.roberta.encoder.layer[1].attention.self.value.weight.data[0, 0] += 0.1
    with pytest.warns(UserWarning, match="made on other weights of value than the base model's"):
        PeftModel.from_pretrained(changed, tmp_path)


def test_a_change_elsewhere_in_the_backbone_is_none_of_the_adapter_s(folder):
    changed = roberta()
    changed.roberta.encoder.layer[1].attention.self.key.weight.data[0, 0] += 0.1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "this adapter was made")
        PeftModel.from_pretrained(changed, folder)


def test_the_backbone_in_bfloat16_is_the_same(folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "this adapter was made")
        PeftModel.from_pretrained(roberta().bfloat16(), folder)


def test_other_shapes_are_refused_by_name(folder):
    with pytest.raises(InputError, match="for query weights of shape 3x16x16; here they are 4x16"):
        PeftModel.from_pretrained(roberta(num_hidden_layers=4), folder)


def test_other_projections_are_refused_by_name(folder):
    rewrite(folder, target_modules=["q_proj", "v_proj"])
    with pytest.raises(InputError, match="query, value; the base model has q_proj, v_proj"):
        PeftModel.from_pretrained(llama(), folder)


def test_a_refused_file_leaves_the_model_as_it_was(folder):
    model = roberta(num_hidden_layers=4)
    with pytest.raises(InputError):
        PeftModel.from_pretrained(model, folder)
    assert set(model.state_dict()) == set(roberta(num_hidden_layers=4).state_dict())


# ---- factors stored once per backbone


class Base(nn.Module):
    """The query and value projections of RoBERTa-base alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        pair = ("query", "value")
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(768, 768, bias=False) for name in pair})
            for _ in range(12)
        )

    def forward(self, x):
        return sum(layer["value"](layer["query"](x)) for layer in self.layers)


@pytest.fixture
def store(tmp_path):
    use_cache(tmp_path / "factors")
    yield tmp_path / "factors"
    use_cache(None)


@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape", "ignore:Could not find a config")
def test_a_file_without_factors_is_d_alone_and_loads_from_the_store(store, tmp_path, monkeypatch):
    config = CraftConfig(
        target_modules=["query", "value"], save_factors=False, decomposition="random"
    )
    model = excite(get_peft_model(Base(), config), scale=0.01)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    size = (tmp_path / "adapter/adapter_model.safetensors").stat().st_size
    assert 4 * 40_288 == 161_152 <= size < 162_000
    assert len(load_file(tmp_path / "adapter/adapter_model.safetensors")) == 6
    assert len(list(store.iterdir())) == 2  # one file a projection

    def never(*arguments, **fields):
        raise AssertionError("decomposed again")

    monkeypatch.setattr(craft.tucker, "decompose", never)
    loaded = PeftModel.from_pretrained(Base(), tmp_path / "adapter")
    x = torch.randn(2, 768)
    assert torch.equal(loaded(x), model(x))
    another = get_peft_model(Base(), config)  # a second task shares the store
    assert torch.equal(another(x), Base()(x)) and len(list(store.iterdir())) == 2


def test_a_damaged_store_is_made_again(store):
    model = excite(attach(roberta(), save_factors=False))
    for file in store.iterdir():
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.warns(UserWarning, match="decomposing again"):
        again = excite(attach(roberta(), save_factors=False))
    assert torch.equal(outputs(again), outputs(model))


# ---- what cannot be a backbone


class Linear4bit(nn.Linear):
    """As a quantisation library's own layer."""


def test_a_quantised_layer_is_refused_by_name():
    stack = Stack(2, 4, 4)
    stack.layers[1]["proj"] = Linear4bit(4, 4)
    with pytest.raises(InputError, match="layers.1.proj is a Linear4bit; .* not quantised"):
        attach(stack, target_modules=["proj"])


def test_a_quantised_model_is_refused_by_name():
    model = roberta()
    model.is_quantized, model.quantization_method = True, "bitsandbytes"
    with pytest.raises(InputError, match=r"quantised \(bitsandbytes\)"):
        attach(model)


def test_integer_weights_are_refused():
    stack = Stack(2, 4, 4)
    for layer in stack.layers:
        layer["proj"].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"weights of proj are quantised \(torch.int8\)"):
        attach(stack, target_modules=["proj"])


def test_a_tensor_parallel_model_is_refused():
    with pytest.raises(InputError, match="sharded .tensor parallel."):
        refuse_model(SimpleNamespace(_tp_size=2), "llama")


def test_sharded_weights_are_refused_by_name():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = roberta()
        attention = model.roberta.encoder.layer[1].attention.self
        whole = attention.value.weight.detach()
        attention.value.weight = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
        with pytest.raises(InputError, match=r"weights of value are sharded \(DTensor\)"):
            attach(model)
    finally:
        distributed.destroy_process_group()


def test_a_partition_of_deepspeed_is_refused():
    model = roberta()
    model.roberta.encoder.layer[0].attention.self.query.weight.ds_id = 0
    with pytest.raises(InputError, match="weights of query are sharded .* before the model"):
        attach(model)


def test_weights_on_several_devices_are_refused_by_name(monkeypatch):
    from craft.tuners.sandwich import backbone

    class Weight:
        is_meta = False

        def __init__(self, device):
            self.device = torch.device(device)

        def is_floating_point(self):
            return True

    group = SimpleNamespace(name="q_proj", weights=lambda: [Weight("cuda:0"), Weight("cuda:1")])
    with pytest.raises(InputError, match=r"q_proj lie on several devices \(cuda:0, cuda:1\)"):
        backbone.refuse_weights(group)
