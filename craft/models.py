"""A classification model ready to train: backbone from a folder, a fresh head, and a method
attached by peft."""

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from craft.errors import InputError, first_line
from craft.glue.batches import Tokens
from craft.glue.tasks import Task
from craft.storage import sha256
from craft.targets import peft_config_class
from craft.tuners.targets import check_targets
from craft.tuners.tensors import as_in_a_file
from craft.vertical import make_vertical

FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "tokenizer*"]
# without one of these transformers makes up a tokenizer
VOCABULARY = ("tokenizer.json", "vocab.*", "*.model")


@dataclass(frozen=True)
class Backbone:
    """A folder with a pre-trained encoder and its tokenizer, a digest of its weights and config,
    and what is made of it: random weights, or layers as increments of others."""

    folder: Path
    digest: str
    random: bool = False
    vertical: Mapping[str, Any] | None = None  # the arguments of craft.vertical.make_vertical


def locate(model: Mapping[str, Any]) -> Backbone:
    """Find the files of a `model` section: the folder `path`, or a pinned revision on the hub or in
    its cache.

    InputError where there is no such folder, no safetensors weights in it, or neither network nor
    cache."""
    if model["path"] is not None:
        folder = Path(model["path"])
        if not (folder / "config.json").is_file():
            raise InputError(f"model.path: there is no config.json in {folder}")
    else:
        folder = _download(model["repository"], model["revision"])
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise InputError(f"model.path: {folder} holds no weights (model.safetensors)")
    content = {file.name: sha256(file.read_bytes()) for file in [folder / "config.json", *weights]}
    digest = sha256(repr(sorted(content.items())).encode())
    vertical = model.get("vertical", {"rank": None})
    return Backbone(
        folder,
        digest,
        random=model.get("random", False),
        vertical=None if vertical["rank"] is None else vertical,
    )


def _download(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the hub's client raises errors of many kinds
        raise InputError(
            f"{repository} is neither reachable nor cached ({first_line(error)}); "
            "give a local copy: model.path=FOLDER"
        ) from error


def tokenizer_of(backbone: Backbone) -> Any:
    """InputError where the folder holds no tokenizer."""
    if not any(file for pattern in VOCABULARY for file in backbone.folder.glob(pattern)):
        raise InputError(f"{backbone.folder} holds no tokenizer (tokenizer.json or a vocabulary)")
    try:
        return AutoTokenizer.from_pretrained(backbone.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{backbone.folder}: the tokenizer: {first_line(error)}") from error


def check_vocabulary(model: nn.Module, tokens: Iterable[Tokens]) -> None:
    """InputError where the tokenizer gives ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    largest = max(int(split.ids.max()) for split in tokens)
    if largest >= rows:
        raise InputError(
            f"the tokenizer gives ids up to {largest}, but the model has {rows} embeddings: "
            "they do not belong together"
        )


def tokenizer_digest(backbone: Backbone) -> str:
    """A digest of all small files beside the weights, the tokenizer's among them."""
    patterns = ("*.json", "*.txt", "*.model")
    files = {file for pattern in patterns for file in backbone.folder.glob(pattern)}
    return sha256(repr([(f.name, sha256(f.read_bytes())) for f in sorted(files)]).encode())


def heads(model: nn.Module) -> list[str]:
    """The names of what trains besides the adapter: every child but the backbone that has
    parameters."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def build(
    backbone: Backbone, task: Task, head_seed: int, attention_dropout: float | None = None
) -> PreTrainedModel:
    """The encoder of a folder with a fresh classification head drawn from `head_seed`, float32, on
    the CPU; its attention dropout is the folder's own where none is given.

    Weights that the folder lacks outside the head (an unused pooler), and all where random ones are
    asked for, are drawn from the same seed. A vertical backbone's `config.vertical` says what it
    cost: parameters before and after, and each weight's error. InputError where the architecture
    has no classification model, and where weights of the encoder are damaged or missing."""
    torch.manual_seed(head_seed)
    try:
        config = AutoConfig.from_pretrained(
            backbone.folder, trust_remote_code=False, num_labels=task.outputs
        )
        if attention_dropout is not None:
            setattr(config, _name_of_attention_dropout(config), attention_dropout)
        with _quiet():
            if backbone.random:
                model = AutoModelForSequenceClassification.from_config(
                    config, dtype=torch.float32, trust_remote_code=False
                )
                info = {"missing_keys": []}
            else:
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    backbone.folder, config=config, dtype=torch.float32, output_loading_info=True,
                    trust_remote_code=False, use_safetensors=True,
                )  # fmt: skip
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{backbone.folder}: {first_line(error)}") from error
    prefixes = tuple(f"{name}." for name in (*heads(model), f"{model.base_model_prefix}.pooler"))
    lacking = sorted(key for key in info["missing_keys"] if not key.startswith(prefixes))
    if lacking:
        raise InputError(
            f"{backbone.folder} lacks {len(lacking)} weights of the encoder, e.g. {lacking[0]}"
        )
    if backbone.vertical is not None:
        made = make_vertical(model, **backbone.vertical)
        model.config.vertical = {**backbone.vertical, **made.facts()}
    torch.manual_seed(head_seed)
    for name in heads(model):
        model.get_submodule(name).apply(
            model._init_weights
        )  # the head's start depends on the seed alone
    return model


def attention_dropout(config: Any) -> float:
    """The dropout of a model's attention probabilities."""
    return getattr(config, _name_of_attention_dropout(config))


def _name_of_attention_dropout(config: Any) -> str:
    for name in ("attention_probs_dropout_prob", "attention_dropout"):  # BERT, DistilBERT
        if hasattr(config, name):
            return name
    raise InputError(f"train.attention_dropout: a {config.model_type} has no such dropout")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report on missing weights: that a classifier is missing is no news;
    others we check."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def attach(model: nn.Module, method: Mapping[str, Any], seed: int) -> PeftModel:
    """Attach a method, `get_peft_model(model, instantiate(method.peft))`, with the heads as modules
    to save.

    `train_backbone` in the method's section adds the backbone itself (full fine-tuning). What the
    method draws at random comes from `seed`. InputError where its target modules match nothing."""
    saved = heads(model)
    if method.get("train_backbone"):
        saved = [model.base_model_prefix, *saved]
    config = peft_config(method, modules_to_save=saved)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft's second list of heads for this task type, which ours repeats by intent
        warnings.filterwarnings("ignore", message=".*modules_to_save.*")
        # peft asks by the name that transformers has renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        try:
            targets = getattr(config, "target_modules", None)
            if targets not in (None, DUMMY_TARGET_MODULES):
                check_targets(model, config)  # peft's message would not name them
            return get_peft_model(model, config)
        except ValueError as error:
            raise InputError(f"method {method['label']}: {' '.join(str(error).split())}") from error


def peft_config(method: Mapping[str, Any], modules_to_save: list[str]) -> PeftConfig:
    """The method's PeftConfig; InputError where its fields are not accepted."""
    try:
        given = {key: value for key, value in method["peft"].items() if key != "_target_"}
        fields = {"task_type": "SEQ_CLS", "modules_to_save": modules_to_save}
        return peft_config_class(method["peft"])(**copy.deepcopy(given), **fields)
    except (TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise InputError(f"method {method['label']}: {first_line(error)}") from error


def trained(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The trainable parameters of the adapter and of the heads, by their names in a file.

    A head's parameters are those under a `modules_to_save` copy of a module that is not the
    backbone."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    prefixes = tuple(f"base_model.model.{name}." for name in heads(base))
    adapter, head = {}, {}
    names = as_in_a_file(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (head if name.startswith(prefixes) else adapter)[names.get(name, name)] = parameter
    return adapter, head


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: RoBERTa counts from padding index + 1, BERT from
    0."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
