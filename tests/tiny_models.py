"""Small models of the shapes that matter, and the few things every tuner test does with them."""

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from craft import CraftConfig
from craft.tuners.sandwich.tensors import as_in_a_file

RANKS = (2, 5, 4)
VOCABULARY = 30
IDS = torch.randint(3, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0])


def roberta(seed=0, **changes):
    """3 layers of width 16; weights large enough that a change of them shows in the logits."""
    torch.manual_seed(seed)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 20,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return RobertaForSequenceClassification(RobertaConfig(**{**fields, **changes})).eval()


def llama(seed=0):
    """Grouped-query attention: q_proj is (16, 16), v_proj (8, 16)."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=8,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def gpt2(seed=0):
    """c_attn is a Conv1D: its weight is (16, 48), input first."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=20, initializer_range=0.2
    )
    return GPT2LMHeadModel(config).eval()


def t5(seed=0):
    """q and v are (8, 16) in encoder, decoder and cross attention."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        d_ff=8,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=2.0,
    )
    return T5ForConditionalGeneration(config).eval()


class Stack(nn.Module):
    """n Linear layers side by side, so that any shape goes: the outputs are summed."""

    def __init__(self, layers, d_out, d_in, seed=0, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        blocks = [nn.ModuleDict({"proj": nn.Linear(d_in, d_out)}) for _ in range(layers)]
        self.layers = nn.ModuleList(blocks).to(dtype)

    def forward(self, x):
        return torch.stack([layer["proj"](x) for layer in self.layers]).sum(0)


def attach(model, adapter="default", **fields) -> PeftModel:
    if isinstance(model, RobertaForSequenceClassification):
        fields = {"task_type": "SEQ_CLS", **fields}
    return get_peft_model(model, CraftConfig(**{"ranks": RANKS, **fields}), adapter)


def parameters_as_saved(model):
    """Name -> parameter, by the names of an adapter's file (and the adapter's own)."""
    names = as_in_a_file(model)
    return {names.get(name, name): parameter for name, parameter in model.named_parameters()}


def trained(model, adapter="default"):
    """Name -> parameter of everything that the adapter trains on the tuner."""
    return {
        name.removeprefix("base_model.").removesuffix(f".{adapter}"): parameter
        for name, parameter in parameters_as_saved(model).items()
        if name.startswith("base_model.craft_") and name.endswith(f".{adapter}")
    }


@torch.no_grad()
def excite(model, adapter="default", scale=0.3, seed=1):
    """Give the adapter an update that shows, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained(model, adapter).values():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(scale * noise.to(parameter.dtype))
    return model


@torch.no_grad()
def outputs(model, ids=IDS):
    fields = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", 0) else {}
    return model(input_ids=ids, **fields).logits


def loss(model, ids=IDS, labels=LABELS):
    return model(input_ids=ids, labels=labels).loss


def gradients(model, adapter="default"):
    return {name: p.grad.clone() for name, p in trained(model, adapter).items()}


def some_steps(model, steps=3, lr=0.05, weight_decay=0.0):
    """AdamW on everything that is trainable; leaves the model in eval mode."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
