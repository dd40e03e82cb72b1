"""Packed batches on stock Hugging Face encoders: an attention that stays within each sequence, and
the `<s>` rows.

transformers lets an attention function be registered by name and hands it the model's extra keyword
arguments. A packed batch is a batch of one row, its sequences end to end, with explicit positions
and a `packing` argument; attention runs within each sequence, and the encoder's output is cut to
the first token of each, which is all that a classifier reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from craft.errors import InputError

NAME = "packed"
REFUSED = "{} cannot read packed batches; use train.batching=padded"


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a packed batch lie."""

    runs: tuple[tuple[int, int], ...]  # (length, number of consecutive sequences of that length)
    starts: Tensor  # (B,) position of each first token

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> "Packing":
        """From the lengths of the sequences, in order."""
        change = np.flatnonzero(np.diff(lengths)) + 1
        groups = np.split(lengths, change)
        starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(device, non_blocking=True)
        return cls(tuple((int(g[0]), len(g)) for g in groups), starts)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of a packed batch; query, key, value (1, heads, T, head dim).

    softmax(q k^T scaling) v, the probabilities dropped out as the model says. On a CPU the plain
    products are faster than the fused kernel in bf16, whose backward is slow, and as fast in
    fp32."""
    if packing is None:
        raise InputError(
            "packed attention was called without `packing`; is this model's forward passing it on?"
        )
    sizes = [length * count for length, count in packing.runs]
    # one split, whose backward is one concatenation; slices would each fill a tensor of all tokens
    parts = zip(*(t[0].split(sizes, dim=1) for t in (query, key, value)), strict=True)
    outputs = []
    for (length, count), (q, k, v) in zip(packing.runs, parts, strict=True):
        q, k, v = (t.unflatten(1, (count, length)) for t in (q, k, v))
        scores = (q * scaling) @ k.transpose(-1, -2)  # (heads, count, length, length)
        weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        if dropout:
            weights = functional.dropout(weights, dropout, module.training)
        outputs.append((weights @ v).flatten(1, 2))
    return torch.cat(outputs, 1).transpose(0, 1).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def enable(model: PreTrainedModel) -> None:
    """Make a classification model read packed batches (`craft.glue.batches`), and only those.

    InputError where the architecture has its own attention, no encoder whose output could be cut,
    or more than attention that mixes neighbouring tokens (MobileBERT's embeddings)."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    backbone = model.base_model
    encoder = getattr(backbone, "encoder", None) or getattr(backbone, "transformer", None)
    if encoder is None or not getattr(model, "_supports_attention_backend", False):
        raise InputError(REFUSED.format(type(model).__name__))
    model.set_attn_implementation(NAME)
    encoder.register_forward_hook(_first_tokens, with_kwargs=True)
    if not _sequences_stay_apart(model):
        raise InputError(REFUSED.format(type(model).__name__))


@torch.no_grad()
def _sequences_stay_apart(model: PreTrainedModel) -> bool:
    """Whether the logits of some sequences are the same in one batch as each on its own."""

    def logits(sequences: tuple[Tensor, ...]) -> Tensor:
        ids, positions = torch.cat(sequences), torch.cat([torch.arange(len(s)) for s in sequences])
        packing = Packing.of(np.array([len(s) for s in sequences]), ids.device)
        return model(input_ids=ids[None], position_ids=positions[None], packing=packing).logits

    training = model.training
    model.eval()
    sequences = (37 * torch.arange(12) % model.config.vocab_size).split([3, 2, 4, 3])
    alone = torch.cat([logits((sequence,)) for sequence in sequences])
    apart = torch.allclose(logits(sequences), alone, rtol=1e-3, atol=1e-6)
    model.train(training)
    return apart


def _first_tokens(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep the rows of the first tokens: (1, T, d) -> (B, 1, d)."""
    packing = kwargs["packing"]
    output.last_hidden_state = output.last_hidden_state[0, packing.starts].unsqueeze(1)
    return output
