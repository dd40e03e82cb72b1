"""Packed batches on stock Hugging Face encoders: an attention that stays within each sequence, and
the `<s>` rows.

transformers lets an attention function be registered by name and hands it the model's extra keyword
arguments. A packed batch is a batch of one row, its sequences end to end, with explicit positions
and a `packing` argument; attention runs within each sequence, and the encoder's output is cut to
the first token of each, which is all that a classifier reads."""

import math
from collections.abc import Sequence
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
    edges: Tensor  # int32 (B + 1,) where each sequence starts, and where the last one ends

    @classmethod
    def of_batches(cls, lengths: Sequence[np.ndarray], device: torch.device) -> list["Packing"]:
        """Of several batches, from the lengths of their sequences, in order; one transfer for all,
        so that no batch waits for the device."""
        edges = [np.concatenate([[0], np.cumsum(batch)]).astype(np.int32) for batch in lengths]
        views = torch.from_numpy(np.concatenate(edges)).to(device).split([len(e) for e in edges])
        found = []
        for batch, view in zip(lengths, views, strict=True):
            groups = np.split(batch, np.flatnonzero(np.diff(batch)) + 1)
            found.append(cls(tuple((int(g[0]), len(g)) for g in groups), view))
        return found

    @property
    def starts(self) -> Tensor:
        """(B,) position of each first token."""
        return self.edges[:-1].long()

    @property
    def longest(self) -> int:
        return max(length for length, _ in self.runs)


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

    softmax(q k^T scaling) v, the probabilities dropped out as the model says. By torch's kernel for
    sequences of several lengths where it serves (`without_kernel`), else sequence by sequence. On a
    CPU the plain products are faster than the fused kernel in bf16, whose backward is slow, and as
    fast in fp32."""
    if packing is None:
        raise InputError(
            "packed attention was called without `packing`; is this model's forward passing it on?"
        )
    if without_kernel(query.device, query.dtype, dropout, query.shape[-1]) is None:
        return _by_kernel(query, key, value, scaling, packing), None
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


def without_kernel(
    device: torch.device, dtype: torch.dtype, dropout: float, head_dim: int = 64
) -> str | None:
    """Why attention goes sequence by sequence there, or None where the kernel serves."""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a card of compute capability 8.0 or more"
    if dtype not in (torch.bfloat16, torch.float16):
        return "it needs train.precision=bf16 or fp16"
    if head_dim % 8 or head_dim > 256:
        return f"it takes head sizes that are multiples of 8 up to 256, not {head_dim}"
    if dropout:
        return f"it takes no attention dropout, and this is {dropout:g}: train.attention_dropout=0"
    return None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, packing: Packing
) -> Tensor:
    """Attention by torch's variable-length kernel, which takes (T, heads, head dim)."""
    from torch.nn.attention.varlen import varlen_attn

    usual = query.shape[-1] ** -0.5  # the kernel's own; its argument is younger than the kernel
    if not math.isclose(scaling, usual):
        query = query * (scaling / usual)
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    edges, longest = packing.edges, packing.longest
    attended: Any = varlen_attn(q, k, v, edges, edges, longest, longest)
    return attended.unsqueeze(0)


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
        (packing,) = Packing.of_batches([np.array([len(s) for s in sequences])], ids.device)
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
