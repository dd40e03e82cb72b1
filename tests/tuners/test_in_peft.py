"""What peft, transformers and TRL do with any tuner, and what ours answer."""

import json
from inspect import signature

import pytest
import torch
from peft import (
    PeftModel,
    PeftModelForSequenceClassification,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from tiny_models import IDS, gpt2, llama, outputs, roberta, some_steps
from tiny_tuners import CONFIGS, adapter_parameters, attach, excite
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from craft import BitFitConfig
from craft.bench.model.build import trained
from craft.errors import InputError
from craft.tuners.sandwich.tensors import Trained

SANDWICH = ("craft", "lotr", "lora_xs", "superlora")
SIX = (*SANDWICH, "bitfit", "houlsby")
every_tuner = pytest.mark.parametrize("name", SIX)
pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file")


# ---- the dtype of what trains


def dtypes(model, adapter="default"):
    return {parameter.dtype for parameter in adapter_parameters(model, adapter).values()}


@pytest.mark.skipif(
    "autocast_adapter_dtype"
    not in signature(PeftModelForSequenceClassification.add_adapter).parameters,
    reason="this peft casts every added adapter of a classifier",
)
@every_tuner
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_without_autocast_an_adapter_has_the_dtype_of_its_layers(name, low_cpu_mem_usage, tmp_path):
    torch.manual_seed(2)
    model = get_peft_model(roberta().bfloat16(), CONFIGS[name](), autocast_adapter_dtype=False)
    model.add_adapter("second", CONFIGS[name](), autocast_adapter_dtype=False)
    model.add_adapter("wide", CONFIGS[name]())
    assert dtypes(model) == dtypes(model, "second") == {torch.bfloat16}
    assert dtypes(model, "wide") == {torch.float32}
    some_steps(model)
    model.save_pretrained(tmp_path)
    for autocast in (False, True):
        loaded = PeftModel.from_pretrained(
            roberta().bfloat16(),
            tmp_path,
            autocast_adapter_dtype=autocast,
            low_cpu_mem_usage=low_cpu_mem_usage,
        )
        assert dtypes(loaded) == {torch.float32 if autocast else torch.bfloat16}
        torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0.02 * autocast)
        assert not any(p.requires_grad for p in adapter_parameters(loaded).values())


@every_tuner
def test_a_model_in_double_stays_so(name):
    model = attach(roberta(), name).double()
    model.base_model._cast_adapter_dtype("default")
    assert dtypes(model) == {torch.float64}


# ---- what is refused by name


@every_tuner
def test_a_mixed_batch_is_refused(name):
    model = attach(roberta(), name)
    model.add_adapter("second", CONFIGS[name]())
    names = ["default", "second", "default", "__base__"]
    with pytest.raises(InputError, match=r"adapter_names: \w+Model runs the same adapters"):
        model(input_ids=IDS, adapter_names=names)


@every_tuner
def test_a_weighted_adapter_is_refused(name):
    model = attach(roberta(), name)
    with pytest.raises(InputError, match=r"add_weighted_adapter: \w+Model cannot"):
        model.add_weighted_adapter(["default"], [1.0], "mix")
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("name", SANDWICH)
def test_transformers_own_add_adapter_is_refused_and_the_model_still_saves(name, tmp_path):
    base = roberta()
    with pytest.raises(InputError, match="shared state of the layers: take get_peft_model"):
        base.add_adapter(CONFIGS[name]())
    base.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert torch.equal(outputs(type(base).from_pretrained(tmp_path)), outputs(roberta()))
    with pytest.raises(InputError, match="take get_peft_model"):
        inject_adapter_in_model(CONFIGS[name](), roberta())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_a_refused_adapter_leaves_the_one_before_it():
    base = roberta()
    base.add_adapter(CONFIGS["bitfit"](task_type=None), "first")
    with pytest.raises(InputError):
        base.add_adapter(CONFIGS["craft"](), "second")
    assert list(base.peft_config) == ["first"] and base._hf_peft_config_loaded
    with pytest.raises(InputError, match="needs|no bias"):
        base.add_adapter(BitFitConfig(target_modules=["attention.self"]), "third")
    assert list(base.peft_config) == ["first"]


def test_bitfit_on_a_model_without_biases_says_so():
    with pytest.raises(InputError, match="trains biases, and the base model has none"):
        get_peft_model(llama(), BitFitConfig())


@pytest.mark.parametrize("name", SANDWICH)
def test_weights_of_another_making_are_refused(name):
    """A torchao layer put in by hand: a Linear whose weight only looks like one."""
    base = roberta()
    query = base.roberta.encoder.layer[1].attention.self.query
    query.weight = nn.Parameter(TwoTensor(query.weight.detach(), query.weight.detach()))
    with pytest.raises(InputError, match=r"the weights of query are quantised \(TwoTensor\)"):
        get_peft_model(base, CONFIGS[name]())


# ---- what is told


@every_tuner
def test_the_status_of_every_layer_names_its_adapters(name):
    model = attach(roberta(), name)
    model.add_adapter("second", CONFIGS[name]())
    layers = [s for s in model.get_layer_status() if "classifier" not in s.name]
    assert layers
    for status in layers:
        assert status.available_adapters == ["default", "second"]
        assert status.requires_grad == {"default": True, "second": False}
        assert status.devices == {"default": ["cpu"], "second": ["cpu"]}
    assert model.get_model_status().requires_grad == {"default": True, "second": False}
    with model.disable_adapter():
        assert not model.get_model_status().enabled
    assert model.get_model_status().requires_grad == {"default": True, "second": False}


@every_tuner
def test_layers_know_their_widths(name):
    """RoBERTa's are 16 and 8 wide; a dropout has no width."""
    widths = {
        (layer.in_features, layer.out_features)
        for layer in attach(roberta(), name, modules_to_save=[]).modules()
        if hasattr(layer, "base_layer")
    }
    assert widths <= {(16, 16), (16, 8), (8, 16), (None, None)} and widths
    if name in SANDWICH:
        model = get_peft_model(gpt2(), CONFIGS[name](task_type=None, target_modules=None))
        layer = model.transformer.h[0].attn.c_attn
        assert (layer.in_features, layer.out_features) == (16, 48)


@every_tuner
def test_the_config_of_a_model_is_the_caller_s(name, tmp_path):
    """Also where it serves two models: what belongs to one of them goes to that one's file."""
    config = CONFIGS[name]()
    first, second = get_peft_model(roberta(0), config), get_peft_model(roberta(1), config)
    assert first.peft_config["default"] is second.peft_config["default"] is config
    assert getattr(config, "backbone", None) is None
    for seed, model in enumerate((first, second)):
        model.save_pretrained(tmp_path / str(seed))
        excite(model)
    if name in SANDWICH:
        files = [json.loads((tmp_path / f"{s}/adapter_config.json").read_text()) for s in (0, 1)]
        assert files[0]["backbone"] != files[1]["backbone"]
    for seed in (0, 1):  # no warning of another backbone
        PeftModel.from_pretrained(roberta(seed), tmp_path / str(seed))


@every_tuner
def test_a_config_is_told_as_it_is_on_disk(name, tmp_path):
    config = CONFIGS[name]()
    config.save_pretrained(tmp_path)
    told = config.to_dict()
    read = json.loads((tmp_path / "adapter_config.json").read_text())
    for key, value in told.items():
        assert value == (set(read[key]) if isinstance(value, set) else read[key]), key
    assert not (tmp_path / "README.md").exists()


@every_tuner
def test_the_card_beside_an_adapter_says_what_to_import(name, tmp_path):
    model = attach(roberta(), name)
    model.add_adapter("second", CONFIGS[name]())
    for _ in range(2):  # once, however often it is saved
        model.save_pretrained(tmp_path)
        for folder in (tmp_path, tmp_path / "second"):
            card = (folder / "README.md").read_text()
            assert card.count("\nimport craft\n") == 1
            assert f"It is a {model.peft_config['default'].peft_type.value} adapter" in card
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


def test_the_card_of_bitfit_says_what_trl_needs(tmp_path):
    """Its parameters keep the names by which transformers' own `load_adapter` finds them."""
    attach(roberta(), "bitfit").save_pretrained(tmp_path)
    assert "Give the trainer a `ref_model`" in (tmp_path / "README.md").read_text()
    base, again = roberta(), roberta()
    base.add_adapter(CONFIGS["bitfit"](task_type=None))
    for name, parameter in base.named_parameters():
        if "bitfit" in name:
            parameter.data.add_(0.3)
    base.save_pretrained(tmp_path / "plain")
    again.load_adapter(tmp_path / "plain")
    assert torch.equal(outputs(again), outputs(base))


# ---- copies by name


@pytest.mark.skipif(Trained is nn.ParameterDict, reason="this peft names what trains in files")
@pytest.mark.parametrize("name", [*SANDWICH, "houlsby"])
def test_trl_s_reference_is_the_adapter(name):
    """TRL copies a trained adapter by the names of its parameters, as here (DPOTrainer)."""
    model = some_steps(attach(roberta(), name))
    expected = outputs(model)
    model.add_adapter("ref", model.peft_config["default"])
    for parameter_name, parameter in model.named_parameters():
        if ".default." in parameter_name:
            ref_name = parameter_name.replace(".default.", ".ref.")
            model.get_parameter(ref_name).data.copy_(parameter.data)
    model.set_adapter("ref")
    assert torch.equal(outputs(model), expected)


@every_tuner
def test_a_checkpoint_and_a_file_keep_the_names_they_had(name):
    """Whatever the parameters are called in the model: a stopped run goes on."""
    model = attach(roberta(), name)
    adapter, head = trained(model)
    names = {
        key.replace(".modules_to_save", "").replace(".default", "") for key in (*adapter, *head)
    }
    assert names <= set(get_peft_model_state_dict(model))
    if name != "houlsby":
        assert all(key.endswith(".default") for key in adapter)
