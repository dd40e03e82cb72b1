"""Every low-rank update leaves as a LoRA that peft alone loads, equal up to rounding."""

import json
import os
import subprocess
import sys

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_models import RANKS, gpt2, llama, outputs, roberta, some_steps, t5
from tiny_tuners import CONFIGS, adapter_parameters

from craft import CraftConfig
from craft.errors import InputError
from craft.export import as_lora, save_as_lora

pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out is set to", "ignore:Could not find a config file"
)
FOUR = ["query", "value", "attention.output.dense", "output.dense"]
LOTR, LORA_XS = ("lotr", "lotr_projection"), ("lora_xs", "lora_xs_four")
SUPERLORA = ("superlora", "superlora_lora")
LOW_RANK = {
    "craft": lambda **f: CraftConfig(**{"ranks": RANKS, "task_type": "SEQ_CLS", **f}),
    **{name: CONFIGS[name] for name in (*LOTR, *LORA_XS, *SUPERLORA)},
}
BACKBONES = {"gpt2": gpt2, "llama": llama, "t5": t5}


def attach(model, name, **fields) -> PeftModel:
    torch.manual_seed(2)
    return get_peft_model(model, LOW_RANK[name](**fields))


@torch.no_grad()
def excite(model, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(model).values():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def with_lora(model, config, tensors):
    """Plain peft: a LoRA made from the config and filled."""
    model = get_peft_model(model, config)
    found = set_peft_model_state_dict(model, tensors)
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if "lora" in key]
    return model.eval()


@pytest.mark.parametrize("name", LOW_RANK)
def test_the_lora_is_the_adapter(name):
    tuned = excite(some_steps(attach(roberta(), name)))
    config, tensors = as_lora(tuned)
    assert config.r == config.lora_alpha and {m.count(".") for m in config.target_modules} != {0}
    lora = with_lora(roberta(), config, tensors)
    assert (outputs(tuned) - outputs(roberta())).abs().max() > 0.05
    torch.testing.assert_close(outputs(lora), outputs(tuned), rtol=0, atol=2e-5)
    merged = lora.merge_and_unload()
    torch.testing.assert_close(outputs(merged), outputs(tuned), rtol=0, atol=2e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_conv1d_grouped_queries_and_cross_attention_leave_too(backbone):
    tuned = excite(attach(BACKBONES[backbone](), "craft", task_type=None))
    lora = with_lora(BACKBONES[backbone](), *as_lora(tuned))
    assert (outputs(lora) - outputs(tuned)).norm() < 1e-5 * outputs(tuned).norm()


@pytest.mark.parametrize("ranks", [(2, 5, 4), (2, 3, 7)])
def test_its_rank_is_the_smaller_outer_rank(ranks):
    config, tensors = as_lora(excite(attach(roberta(), "craft", ranks=ranks)))
    assert config.r == min(ranks[1:]) and not config.rank_pattern
    assert len(tensors) == 2 * 2 * 3 + 4  # A and B of two projections in three layers, the head
    adapted = [key for key in tensors if "lora_" in key]
    assert {min(tensors[key].shape) for key in adapted} == {min(ranks[1:])}


@pytest.mark.filterwarnings("ignore:r .* exceeds the shape")
def test_layers_of_a_lower_rank_are_padded_to_the_one_rank():
    """A reader that divides one alpha by each layer's own rank then scales all alike."""
    tuned = excite(attach(roberta(), "lora_xs_four", r=12))  # output.dense is 16 x 8
    config, tensors = as_lora(tuned)
    assert config.r == config.lora_alpha == 12
    assert not config.rank_pattern and not config.alpha_pattern
    assert {len(tensor) for name, tensor in tensors.items() if "lora_A" in name} == {12}
    assert {tensor.shape[1] for name, tensor in tensors.items() if "lora_B" in name} == {12}
    lora = with_lora(roberta(), config, tensors)
    torch.testing.assert_close(outputs(lora), outputs(tuned), rtol=0, atol=2e-4)


def test_an_adapter_of_another_name_leaves_and_the_model_stays(tmp_path):
    tuned = attach(roberta(), "craft")
    tuned.add_adapter("second", LOW_RANK["craft"](ranks=(1, 3, 2)))
    tuned.set_adapter("second")
    some_steps(tuned)
    before = outputs(tuned)
    config, tensors = as_lora(tuned, "second")
    assert config.r == 2
    torch.testing.assert_close(
        outputs(with_lora(roberta(), config, tensors)), before, rtol=0, atol=2e-5
    )
    assert torch.equal(outputs(tuned), before)


PLAIN = """
import importlib.abc, json, sys
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "craft":
            raise ImportError("craft is not installed here")
sys.meta_path.insert(0, Forbid())
import torch
torch.set_num_threads(1)
from peft import PeftModel
from transformers import RobertaForSequenceClassification
folder, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
found = {}
for name in sys.argv[3:]:
    backbone = RobertaForSequenceClassification.from_pretrained(f"{folder}/backbone")
    model = PeftModel.from_pretrained(backbone, f"{folder}/{name}")
    with torch.no_grad():
        found[name] = model(ids).logits.tolist()
assert "craft" not in sys.modules
print("LOGITS" + json.dumps(found))
"""


def test_a_process_without_this_package_loads_it(tmp_path):
    from tiny_models import IDS

    roberta().save_pretrained(tmp_path / "backbone")
    expected = {}
    for name in LOW_RANK:
        backbone = type(roberta()).from_pretrained(tmp_path / "backbone")
        tuned = some_steps(attach(backbone, name))
        save_as_lora(tuned, tmp_path / name)
        assert {f.name for f in (tmp_path / name).iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors"
        }  # fmt: skip
        expected[name] = outputs(tuned)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path), json.dumps(IDS.tolist()), *LOW_RANK],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("LOGITS")[1])
    for name, logits in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), logits, rtol=0, atol=2e-5)
        saved = load_file(tmp_path / name / "adapter_model.safetensors")
        assert not any("craft" in key or "lotr" in key for key in saved)


@pytest.mark.skipif(not hasattr(peft, "convert_to_lora"), reason="this peft converts nothing")
@pytest.mark.parametrize("name", LOW_RANK)
def test_peft_s_own_conversion_agrees(name):
    tuned = excite(attach(roberta(), name, task_type=None))
    assert tuned.supports_lora_conversion()
    config, tensors = peft.convert_to_lora(tuned, rank=5)
    lora = with_lora(roberta(), config, tensors)
    torch.testing.assert_close(outputs(lora), outputs(tuned), rtol=0, atol=1e-4)


@pytest.mark.skipif(not hasattr(peft, "convert_to_lora"), reason="this peft converts nothing")
@pytest.mark.parametrize("name", ["craft", "lotr_projection", "lora_xs", "superlora"])
def test_peft_s_own_conversion_agrees_on_conv1d(name):
    """A square one too, which a transposed update fits without a word."""
    modules = ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]
    tuned = excite(attach(gpt2(), name, target_modules=modules, task_type=None))
    lora = with_lora(gpt2(), *peft.convert_to_lora(tuned, rank=6))
    change = (outputs(tuned) - outputs(gpt2())).norm()
    assert (outputs(lora) - outputs(tuned)).norm() < 1e-4 * change


def test_what_is_no_low_rank_update_is_refused():
    with pytest.raises(InputError, match="'other'; it has default"):
        as_lora(attach(roberta(), "craft"), "other")
    with pytest.raises(InputError, match="is BITFIT, whose update"):
        as_lora(get_peft_model(roberta(), CONFIGS["bitfit"]()))
    with pytest.raises(InputError, match="is LORA, whose update"):
        as_lora(get_peft_model(roberta(), LoraConfig(target_modules=["query"])))
