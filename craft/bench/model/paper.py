"""The encoders of the paper's tables, and whether the weights in a folder are theirs.

A digest decides where one is known: pinned in configs/model/, or that of the pinned revision in the
hub's cache. Where none is, what has been published of the model must agree: its config, the shapes
of its tensors, its tokenizer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

DIGEST, REVISION, ARCHITECTURE = "digest", "revision", "architecture"
VERIFIED = {
    DIGEST: "digest of the pinned weights",
    REVISION: "hub, revision",
    ARCHITECTURE: "published config, shapes and tokenizer alone",
}
CONFIG = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
PROBE = ("Hello world", [0, 31414, 232, 2])  # text and ids, as transformers documents them


@dataclass(frozen=True)
class Published:
    """An encoder of the paper: its name here, and what its config says."""

    name: str
    config: Mapping[str, Any]


def _roberta(name: str, width: int, layers: int, heads: int) -> Published:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return Published(name, CONFIG | shape | {"intermediate_size": 4 * width})


PUBLISHED = {  # by repository; sizes from table 9 of arXiv 1907.11692
    "FacebookAI/roberta-base": _roberta("roberta_base", 768, 12, 12),
    "FacebookAI/roberta-large": _roberta("roberta_large", 1024, 24, 16),
}


def difference(
    published: Published,
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> str | None:
    """The first thing in which a folder differs from the published architecture; None where it
    agrees."""
    return next(_differences(published, folder, config, shapes), None)


def _differences(
    published: Published,
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:
    for key, value in published.config.items():
        if config.get(key) != value:
            yield f"{key} is {config.get(key)} instead of {value}"
    shape = {key: value for key, value in published.config.items() if key != "model_type"}
    with torch.device("meta"):
        expected = RobertaModel(RobertaConfig(**shape), add_pooling_layer=False).state_dict()
    found = {_today(name): shape for name, shape in shapes.items()}
    for name, tensor in expected.items():
        if tensor.is_floating_point() and found.get(name) != tuple(tensor.shape):
            yield f"{name} is {found.get(name, 'missing')} instead of {tuple(tensor.shape)}"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        text, ids = PROBE
        if len(tokenizer) != published.config["vocab_size"] or tokenizer(text)["input_ids"] != ids:
            yield "its tokenizer is another"
    except (OSError, ValueError) as error:
        yield f"its tokenizer cannot be read ({type(error).__name__})"


def _today(name: str) -> str:
    """A tensor's name in the encoder, where a file has its older one."""
    name = name.removeprefix("roberta.")
    return name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias")
