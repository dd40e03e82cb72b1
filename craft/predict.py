"""Use a saved adapter and head: evaluate them on a task's dev splits, or predict its test splits or
a file."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError

from craft import models, packing
from craft.config import RunConfig
from craft.errors import InputError
from craft.glue import sources
from craft.glue.batches import encode
from craft.glue.metrics import predictions_of, score
from craft.glue.sources import read_columns
from craft.glue.tasks import Split, Task
from craft.optimization import frozen_casts
from craft.outcome import ORIGIN
from craft.storage import read_json, write_text
from craft.targets import refuse_targets
from craft.train import Seeds, predict


def load_adapter(config: RunConfig, backbone: models.Backbone) -> torch.nn.Module:
    """The backbone with the adapter and head of `config.adapter`, ready to evaluate.

    InputError where they were made for another backbone or another number of labels."""
    assert config.adapter is not None
    if not (config.adapter / "adapter_model.safetensors").is_file():
        raise InputError(f"adapter: {config.adapter} holds no adapter_model.safetensors")
    check_adapter(config.adapter, backbone.name, backbone.digest)
    base = models.build(backbone, config.task, Seeds.of(config.seed).head)
    if config.train.batching == "packed":
        packing.enable(base)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, str(config.adapter))
    except (RuntimeError, KeyError, ValueError, TypeError, SafetensorError, UserWarning) as error:
        raise InputError(
            f"adapter: {config.adapter} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    return model.to(config.train.device).eval()


def check_adapter(folder: Path, model: str, digest: str) -> None:
    """Refuse a folder from elsewhere whose config names code or other adapters to load, or that was
    made on another backbone (known where a run of this project has made it)."""
    path = folder / "adapter_config.json"
    try:
        found = json.loads(path.read_bytes())
        kind, code = found.get("peft_type"), found.get("auto_mapping")
    except (ValueError, AttributeError) as error:
        raise InputError(f"adapter: {path} is not a JSON object") from error
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING or kind == "XLORA":  # X-LoRA names adapters to fetch
        raise InputError(f"adapter: {path}: peft_type {kind!r} is not one that can be loaded")
    if code:
        raise InputError(f"adapter: {path}: auto_mapping {code} names code to import; remove it")
    refuse_targets(found)
    origin = folder / ORIGIN
    if origin.is_file():
        made = read_json(origin)["model"]
        if made["digest"] != digest:
            raise InputError(
                f"adapter: {folder} was made on {made['name']} with the digest "
                f"{made['digest'][:12]}; {model} has {digest[:12]}"
            )


def logits_of(
    config: RunConfig, backbone: models.Backbone, splits: dict[str, Split]
) -> dict[str, np.ndarray]:
    """Logits (rows, outputs) of the saved adapter on each split."""
    tokenizer = models.tokenizer_of(backbone)
    model = load_adapter(config, backbone)
    position, pad = models.first_position(model), tokenizer.pad_token_id
    length = config.train.max_length
    tokens = {n: encode(s, config.task, tokenizer, length) for n, s in splits.items()}
    models.check_vocabulary(model, tokens.values())
    with frozen_casts(model):
        return {n: predict(model, t, config.train, position, pad) for n, t in tokens.items()}


def evaluate(config: RunConfig) -> dict[str, float]:
    """Every metric of the task on its dev splits."""
    data = sources.load(config.task, config.data, config.task.dev)
    labels: dict[str, Any] = {name: split.labels for name, split in data.splits.items()}
    logits = logits_of(config, models.locate(config.model), data.splits)
    return score(config.task, logits, labels)


def predict_to_file(config: RunConfig) -> list[Path]:
    """Write `index` and `prediction` (class names, or scores) of the test splits or of
    predict.input; returns the files.

    With several splits (MNLI) each has a file of its own, its name before the suffix."""
    if config.predict["output"] is None:
        raise InputError("mode=predict needs predict.output=FILE.tsv")
    if config.predict["input"] is None:
        splits = sources.load(config.task, config.data, config.task.test).splits
    else:
        splits = {"input": read_columns(config.task, Path(config.predict["input"]))}
    output = Path(config.predict["output"])
    written = []
    for name, logits in logits_of(config, models.locate(config.model), splits).items():
        path = output if len(splits) == 1 else output.with_stem(f"{output.stem}_{name}")
        write_text(path, _lines(config.task, splits[name], logits))
        written.append(path)
    return written


def _lines(task: Task, split: Split, logits: np.ndarray) -> str:
    predicted = predictions_of(task, logits)
    shown = [json.dumps(float(p)) if task.regression else task.labels[int(p)] for p in predicted]
    rows = [f"{index}\t{value}" for index, value in zip(split.idx, shown, strict=True)]
    return "\n".join(["index\tprediction", *rows]) + "\n"
