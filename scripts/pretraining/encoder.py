"""The mini RoBERTa: its shape, its start, its losses, its growth by stacking."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import RobertaConfig, RobertaForMaskedLM

from pretraining.corpus import LENGTH, MASKING, SOURCES, mask

LAYERS = 12


def mini_config(vocab_size: int, layers: int = LAYERS) -> RobertaConfig:
    """RoBERTa-base's depth at a quarter of its width, and no dropout: a model this small underfits,
    and on a CPU dropout takes a seventh of a step."""
    return RobertaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=LENGTH + 2,  # RoBERTa's positions start at 2
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        # about 1/sqrt(192): at 0.02 attention starts too flat and learns late
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


class PairedMaskedLM(RobertaForMaskedLM):
    """A RoBERTa with a second head, which says from `<s>` how much of a pair's second text restates
    the first, follows it or is foreign to it; it is no part of the model that is written."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.pair_head = nn.Linear(config.hidden_size, len(SOURCES))
        self._init_weights(self.pair_head)

    def without_pair_head(self) -> RobertaForMaskedLM:
        plain = RobertaForMaskedLM(self.config)
        state = self.state_dict()
        plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("pair_head.")})
        return plain


@torch.no_grad()
def start_local(model: RobertaForMaskedLM) -> None:
    """Start attention near: sinusoidal position embeddings, still trained, and keys equal to
    queries.

    From random positions a small post-norm encoder spends tens of millions of tokens at the unigram
    loss before it finds neighbouring words; equal projections make similar positions attend to each
    other (Trockman and Kolter 2023)."""
    embedding = model.roberta.embeddings.position_embeddings.weight  # (130, 192)
    position = torch.arange(len(embedding), dtype=torch.float32)[:, None]
    frequency = torch.exp(
        torch.arange(0, embedding.shape[1], 2) * (-math.log(1000.0) / embedding.shape[1])
    )
    scale = (
        2**0.5 * model.config.initializer_range
    )  # the standard deviation of the other embeddings
    embedding[:, 0::2] = scale * torch.sin(position * frequency)
    embedding[:, 1::2] = scale * torch.cos(position * frequency)
    for layer in model.roberta.encoder.layer:
        attention: Any = layer.attention.self
        attention.key.weight.copy_(attention.query.weight)


def make_optimizer(model: RobertaForMaskedLM, lr: float) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


@torch.no_grad()
def stack(
    shallow: RobertaForMaskedLM,
    optimizer: torch.optim.AdamW,
    deep: RobertaForMaskedLM,
    its_optimizer: torch.optim.AdamW,
) -> None:
    """Fill a model of twice the depth: layer l takes weights and moments of layer l mod depth (Gong
    et al. 2019)."""
    depth = shallow.config.num_hidden_layers
    source = dict(shallow.named_parameters())
    for name, parameter in deep.named_parameters():
        parts = name.split(".")
        if "layer" in parts:
            place = parts.index("layer") + 1
            parts[place] = str(int(parts[place]) % depth)
        origin = source[".".join(parts)]
        parameter.copy_(origin)
        its_optimizer.state[parameter] = {
            key: value.clone() for key, value in optimizer.state[origin].items()
        }


def masked_loss(
    model: RobertaForMaskedLM, tokens: torch.Tensor, inputs: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the chosen positions; logits are computed for these alone."""
    return _masked_loss(model, model.roberta(inputs).last_hidden_state, tokens, chosen)


def _masked_loss(
    model: RobertaForMaskedLM, hidden: torch.Tensor, tokens: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    hidden = hidden.flatten(0, 1)[chosen]  # (count, 192)
    return functional.cross_entropy(model.lm_head(hidden).float(), tokens.flatten()[chosen])


def losses(
    model: PairedMaskedLM,
    tokens: torch.Tensor,
    shares: torch.Tensor,
    inputs: torch.Tensor,
    chosen: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masked loss, and the cross-entropy of the shares of B's sources, (sequences, 3), over the
    sequences that are pairs; 0 where none is."""
    hidden = model.roberta(inputs).last_hidden_state  # (sequences, 128, 192)
    logits = model.pair_head(hidden[:, 0]).float()
    pairs = shares.sum()  # those of a pair sum to 1
    return (
        _masked_loss(model, hidden, tokens, chosen),
        -(shares * logits.log_softmax(-1)).sum() / pairs.clamp(min=1),
    )


@torch.no_grad()
def held_out_loss(model: RobertaForMaskedLM, rows: torch.Tensor, device: torch.device) -> float:
    model.eval()
    generator = torch.Generator().manual_seed(1)
    losses = []
    for tokens in rows.split(64):
        inputs, chosen = mask(tokens, model.config.vocab_size, generator)
        with torch.autocast(device.type, torch.bfloat16):
            losses.append(
                masked_loss(model, tokens.to(device), inputs.to(device), chosen.to(device))
            )
    model.train()
    return float(torch.stack(losses).mean())


def train_flops_per_token(config: RobertaConfig) -> float:
    """6 per weight that a token meets, plus attention's two products; the head sees the masked
    share of tokens."""
    d, layers = config.hidden_size, config.num_hidden_layers
    encoder = layers * (4 * d * d + 2 * d * config.intermediate_size)
    head = MASKING * (d * d + d * config.vocab_size)
    return 6 * (encoder + head) + 12 * layers * LENGTH * d
