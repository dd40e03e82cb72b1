"""Packed batches on stock Hugging Face encoders: an attention that stays within each sequence, and
the `<s>` rows.

transformers lets an attention function be registered by name and hands it the model's extra keyword
arguments. A packed batch is a batch of one row, its sequences end to end, with explicit positions
and a `packing` argument; attention runs within each sequence, and the encoder's output is cut to
the first token of each, which is all that a classifier reads."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from craft.errors import InputError

NAME = "packed"
REFUSED = "{} cannot read packed batches; use train.batching=grouped"


def runs_of(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(length, number of consecutive sequences of that length), in order."""
    groups = np.split(lengths, np.flatnonzero(np.diff(lengths)) + 1)
    return tuple((int(group[0]), len(group)) for group in groups)


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
        return [cls(runs_of(batch), view) for batch, view in zip(lengths, views, strict=True)]

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
    sequences of several lengths where it serves (`without_kernel`), else in a few rectangles of
    sequences of like length. On a CPU the plain products are faster than the fused kernel in bf16,
    whose backward is slow, and as fast in fp32."""
    if packing is None:
        raise InputError(
            "packed attention was called without `packing`; is this model's forward passing it on?"
        )
    device, dtype = query.device, query.dtype
    if torch.is_autocast_enabled(device.type):  # an adapter may hand on float32
        dtype = torch.get_autocast_dtype(device.type)
    if without_kernel(device, dtype, dropout, query.shape[-1]) is None:
        query, key, value = (t.to(dtype) for t in (query, key, value))
        return _by_kernel(query, key, value, scaling, packing), None
    heads, size = query.shape[1], query.shape[-1]
    shapes, masks, rows, tokens = _rectangles(packing.runs, heads, query.dtype, query.device)
    laid = (_Lay.apply(t[0].transpose(0, 1).flatten(1), rows, tokens) for t in (query, key, value))
    areas = [count * longest for count, longest in shapes]
    parts = zip(*(t.split(areas) for t in laid), strict=True)
    outputs = []
    for (count, longest), mask, part in zip(shapes, masks, parts, strict=True):
        q, k, v = (t.view(count, longest, heads, size).transpose(1, 2) for t in part)
        scores = (q * scaling) @ k.transpose(-1, -2)  # (count, heads, longest, longest)
        if mask is not None:
            scores = scores + mask
        weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        if dropout:
            weights = functional.dropout(weights, dropout, module.training)
        outputs.append((weights @ v).transpose(1, 2).flatten(0, 1).flatten(1))
    attended = _Gather.apply(torch.cat(outputs), tokens)
    return attended.unflatten(1, (heads, size)).unsqueeze(0), None


# What a further rectangle costs, forward and backward, in products of one query with one key of one
# head: on a CPU about 0.35 ms against 10 ns; on a card, by reckoning and not measured, about 18
# launches of 5 us against 0.04 ns.
RECTANGLE = {"cpu": 35_000, "cuda": 2_000_000}


def together(
    runs: Sequence[tuple[int, int]], cost: Callable[[int, int], float]
) -> list[list[tuple[int, int]]]:
    """Cut (length, count) runs into consecutive groups, each padded to its longest sequence, at the
    least `cost(count, longest)` in all.

    The best cut of the first j runs is the best one of the first i and the group of i to j, over
    all i < j."""
    best, start = [0.0], [0]
    for j in range(1, len(runs) + 1):
        costs, count, longest = [], 0, 0
        for i in range(j - 1, -1, -1):
            count, longest = count + runs[i][1], max(longest, runs[i][0])
            costs.append((best[i] + cost(count, longest), i))
        least, i = min(costs)
        best.append(least)
        start.append(i)
    groups, j = [], len(runs)
    while j:
        groups.append(list(runs[start[j] : j]))
        j = start[j]
    return groups[::-1]


@lru_cache(maxsize=2)  # every layer of a model asks for the same
def _rectangles(
    runs: tuple[tuple[int, int], ...], heads: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[tuple[int, int]], list[Tensor | None], Tensor, Tensor]:
    """Shapes (count, longest) of the rectangles, their masks (count, 1, 1, longest) or None, the
    token at each of their places, end to end, and the place of each token.

    A place behind the end of a sequence holds the sequence's first token."""
    shapes, masks, rows, tokens = [], [], [], []
    first = place = 0
    price = RECTANGLE["cpu" if device.type == "cpu" else "cuda"]
    for group in together(runs, lambda count, longest: price + heads * count * longest**2):
        lengths = np.repeat(*np.array(group).T)
        starts = first + np.cumsum(lengths) - lengths
        within = np.arange(lengths.max())
        real = within < lengths[:, None]
        rows.append(np.where(real, starts[:, None] + within, starts[:, None]).ravel())
        tokens.append(place + np.flatnonzero(real))
        mask = torch.zeros(real.shape, dtype=dtype).masked_fill_(torch.from_numpy(~real), -math.inf)
        masks.append(None if real.all() else _sent(mask[:, None, None], device))
        shapes.append(real.shape)
        first, place = first + int(lengths.sum()), place + real.size
    at, places = (_sent(torch.from_numpy(np.concatenate(f)), device) for f in (rows, tokens))
    return shapes, masks, at, places


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for the work that is queued there: from pinned memory."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class _Lay(torch.autograd.Function):
    """(T, d) -> (places, d). What stands behind a sequence's end is masked, and has no gradient:
    the gradient of a token is that of its place, and no sum."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return packed.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        return gradients[0].index_select(0, tokens), None, None


class _Gather(torch.autograd.Function):
    """(places, d) -> (T, d): the places of the tokens."""

    @staticmethod
    def forward(ctx: Any, laid: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.places = len(laid)
        return laid.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        laid = gradients[0].new_zeros(ctx.places, gradients[0].shape[1])
        laid[tokens] = gradients[0]
        return laid, None


def without_kernel(
    device: torch.device, dtype: torch.dtype, dropout: float, head_dim: int = 64
) -> str | None:
    """Why attention goes in rectangles there, or None where the kernel serves."""
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
    """Make a classification model read packed batches
    (`craft.bench.training.batches`), and only those.

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
