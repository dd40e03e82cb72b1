"""start_from=mnli: adapter and head of a 3-label run, into 2 labels and into 1."""

import pytest
import torch
from peft import get_peft_model_state_dict
from tiny_bench import METHODS, method_of
from transformers import RobertaConfig, RobertaForSequenceClassification

from craft.bench.model.build import attach
from craft.bench.run.adapter import start_from
from craft.bench.run.folder import RunFolder
from craft.bench.run.inputs import Start
from craft.errors import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore:ranks .* exceed", "ignore:.*is_gradient_checkpointing.*", "ignore:.*unused.*"
)
OUT_PROJ = {
    "base_model.model.classifier.out_proj.weight",
    "base_model.model.classifier.out_proj.bias",
}


def model(name, labels, seed):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=120,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=40,
        type_vocab_size=1,
        num_labels=labels,
    )
    attached = attach(RobertaForSequenceClassification(config), method_of(name), seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return attached


@pytest.mark.parametrize("labels", [2, 1])
@pytest.mark.parametrize("name", [m for m in METHODS if m != "full"])
def test_all_but_the_output_projection_is_loaded(tmp_path, name, labels):
    donor = model(name, 3, seed=1)
    donor.save_pretrained(tmp_path / "last")
    receiver = model(name, labels, seed=2)
    before = get_peft_model_state_dict(receiver)
    before = {k: v.clone() for k, v in before.items()}
    told = start_from(receiver, Start("id", RunFolder(tmp_path)))
    after, given = get_peft_model_state_dict(receiver), get_peft_model_state_dict(donor)
    assert set(told["skipped"]) == OUT_PROJ
    assert set(told["loaded"]) == set(after) - OUT_PROJ
    for key in after:
        assert torch.equal(after[key], before[key] if key in OUT_PROJ else given[key]), key


def test_another_methods_adapter_is_refused(tmp_path):
    model("lora", 3, seed=1).save_pretrained(tmp_path / "last")
    with pytest.raises(InputError, match="does not hold this method's tensors"):
        start_from(model("craft", 2, seed=2), Start("id", RunFolder(tmp_path)))
