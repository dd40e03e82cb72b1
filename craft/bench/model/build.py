"""A classification model ready to train: backbone from a folder, a fresh head, and a method
attached by peft."""

import contextlib
import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from craft.bench.model.locate import Backbone
from craft.bench.model.trusted import check_fields, peft_config_class
from craft.bench.settings.sections import Method, Task
from craft.errors import InputError, first_line
from craft.tucker import Clipped
from craft.tuners.encoders import ENCODERS
from craft.tuners.sandwich.group import layer_index
from craft.tuners.sandwich.tensors import as_in_a_file
from craft.tuners.targets import check_targets, default_targets, linear_names
from craft.vertical import make_vertical


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
    asked for, are drawn from the same seed: `config.drawn` says whether any was. A vertical
    backbone's `config.vertical` says what it cost: parameters before and after, and each weight's
    error. InputError where the architecture
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
    beside = tuple(f"{name}." for name in heads(model))
    drawn = [key for key in info["missing_keys"] if not key.startswith(beside)]
    model.config.drawn = backbone.random or bool(drawn)
    if backbone.vertical is not None:
        made = make_vertical(model, **backbone.vertical)
        model.config.vertical = {**backbone.vertical, **made.facts()}
    torch.manual_seed(head_seed)
    for name in heads(model):
        head = model.get_submodule(name)
        for parameter in head.parameters():
            parameter._is_hf_initialized = False  # else one that the folder holds would be kept
        head.apply(model._init_weights)  # the head's start depends on the seed alone
    model._init_weights(model)  # what the class draws in another way than its modules
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


def attach(model: nn.Module, method: Method, seed: int) -> PeftModel:
    """Attach a method, `get_peft_model(model, instantiate(method.peft))`, with the heads as modules
    to save and, where it names none, the target modules of the encoder's type.

    `train_backbone` in the method's section adds the backbone itself (full fine-tuning). What the
    method draws at random comes from `seed`. A model on the meta device gets an adapter that is
    there too. InputError where its target modules match nothing."""
    saved = heads(model)
    if method.train_backbone:
        # by its whole path: ModernBERT calls its backbone `model`, and peft's tuner all that it has
        saved = [f"base_model.model.{model.base_model_prefix}", *saved]
    config = peft_config(method, modules_to_save=saved)
    torch.manual_seed(seed)
    with warnings.catch_warnings(record=True) as said:
        # peft's second list of heads for this task type, which ours repeats by intent
        warnings.filterwarnings("ignore", message=".*modules_to_save.*")
        # peft asks by the name that transformers has renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        try:
            if getattr(config, "target_modules", "") is None:
                config.target_modules = _own_targets(model, config)  # type: ignore[attr-defined]
            if getattr(config, "target_modules", None) not in (None, DUMMY_TARGET_MODULES):
                check_targets(model, config)  # peft's message would not name them
            on_meta = all(parameter.is_meta for parameter in model.parameters())
            attached = get_peft_model(model, config, low_cpu_mem_usage=on_meta)
        except (ValueError, TypeError) as error:
            raise InputError(f"method {method.label}: {' '.join(str(error).split())}") from error
    clipped = [one.message for one in said if isinstance(one.message, Clipped)]
    if clipped:
        warnings.warn(Clipped.merged(clipped), stacklevel=2)
    for one in said:
        if one.message not in clipped:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return attached


def adapted(model: PeftModel) -> list[dict[str, Any]]:
    """What a method adapts, one entry for all modules at one place of a layer: the path within the
    layer, the weight's shape, how many they are, and which projections the matrix holds, several
    where they are fused."""
    base: Any = model.get_base_model()
    encoder = ENCODERS.get(base.config.model_type)
    count: Counter[tuple[str, tuple[int, ...] | None]] = Counter()
    for path, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            starred, index = layer_index(path)
            weight = getattr(module.get_base_layer(), "weight", None)
            place = starred if index is None else starred.partition(".N.")[2]
            count[place, None if weight is None else tuple(weight.shape)] += 1
    return [
        {
            "module": place,
            "shape": None if shape is None else [*shape],
            "count": number,
            "projections": [] if encoder is None else encoder.held_by(place),
        }
        for (place, shape), number in count.items()
    ]


def _own_targets(model: nn.Module, config: PeftConfig) -> set[str] | str | None:
    """The target modules of a method that names none; InputError says what to write."""
    kind: Any = getattr(model.config, "model_type", None)
    try:
        targets = default_targets(config, kind)
    except InputError as error:
        raise InputError(
            f"{error}: give +method.peft.target_modules=[NAME,NAME], some of its Linear modules "
            f"{', '.join(linear_names(model))}"
        ) from error
    return set(targets) if isinstance(targets, list) else targets


def peft_config(method: Method, modules_to_save: list[str]) -> PeftConfig:
    """The method's PeftConfig; InputError where its fields are not accepted."""
    given = {key: value for key, value in method.peft.items() if key != "_target_"}
    fields = {"task_type": "SEQ_CLS", "modules_to_save": modules_to_save}
    try:
        kind = peft_config_class(method.peft)
        check_fields(kind, given)
        return kind(**copy.deepcopy(given), **fields)
    except (TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
        reason = first_line(error)
        if reason.split()[0] in given:  # the classes name their fields, not where they are given
            reason = f"method.peft.{reason}"
        raise InputError(f"method {method.label}: {reason}") from error


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
