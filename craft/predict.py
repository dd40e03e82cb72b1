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
from safetensors import SafetensorError, safe_open

from craft import models, packing
from craft.config import RunConfig
from craft.errors import InputError
from craft.glue import sources
from craft.glue.batches import encode
from craft.glue.metrics import predictions_of, score
from craft.glue.sources import read_columns
from craft.glue.tasks import Split, Task
from craft.optimization import frozen_casts
from craft.outcome import ORIGIN, origin_of
from craft.storage import read_json, write_text
from craft.targets import refuse_targets
from craft.train import Seeds, predict


def load_adapter(config: RunConfig, backbone: models.Backbone) -> torch.nn.Module:
    """The backbone with the adapter and head of `config.adapter`, ready to evaluate.

    InputError where they were made for another task, backbone or number of labels."""
    assert config.adapter is not None
    if not (config.adapter / "adapter_model.safetensors").is_file():
        raise InputError(f"adapter: {config.adapter} holds no adapter_model.safetensors")
    check_adapter(config.adapter)
    base = models.build(backbone, config.task, Seeds.of(config.seed).head)
    check_origin(config.adapter, origin_of(config, backbone, base.config.drawn))
    if config.train.batching == "packed":
        packing.enable(base)
    try:
        check_outputs(config.adapter, base, config.task)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, str(config.adapter))
    except InputError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, SafetensorError, UserWarning) as error:
        raise InputError(
            f"adapter: {config.adapter} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    return model.to(config.train.device).eval()


def check_adapter(folder: Path) -> None:
    """Refuse a folder from elsewhere whose config names code or other adapters to load."""
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


def check_origin(folder: Path, here: dict[str, Any]) -> None:
    """Refuse an adapter whose `made_on.json`, where a run has left one, says another task or
    backbone than `here` (`origin_of`); what it does not say is not compared."""
    if not (folder / ORIGIN).is_file():
        return
    made = read_json(folder / ORIGIN)
    if made["task"] != here["task"]:
        raise InputError(
            f"adapter: {folder} was made on task={made['task']}, not on task={here['task']}"
        )
    there, ours = made["model"], here["model"]
    for key in ("digest", "tokenizer"):
        if there.get(key, ours[key]) != ours[key]:
            raise InputError(
                f"adapter: {folder} was made on {there['name']} with the "
                f"{key.replace('tokenizer', 'tokenizer digest')} {there[key][:12]}; "
                f"{ours['name']} has {ours[key][:12]}"
            )
    for key in ("random", "vertical"):
        if there.get(key, ours[key]) != ours[key]:
            raise InputError(
                f"adapter: {folder} was made on model.{key}={_plain(there[key])}, "
                f"not on model.{key}={_plain(ours[key])}"
            )
    if there.get("seed", ours["seed"]) != ours["seed"]:
        raise InputError(
            f"adapter: {folder} was made on weights drawn from seed={there['seed']}, "
            f"not from seed={ours['seed']}"
        )


def _plain(value: Any) -> str:
    """A value of the model section as it is given on the command line."""
    return json.dumps(value).replace('"', "").replace(" ", "")


def check_outputs(folder: Path, base: torch.nn.Module, task: Task) -> None:
    """Refuse an adapter whose head has another number of outputs than the task's."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())
        for name in models.heads(base):
            for key, own in base.get_submodule(name).state_dict().items():
                saved = f"base_model.model.{name}.{key}"
                if own.shape[:1] != (task.outputs,) or saved not in names:
                    continue
                outputs = file.get_slice(saved).get_shape()[0]
                if outputs != task.outputs:
                    raise InputError(
                        f"adapter: {folder} has a head of {outputs} outputs ({name}.{key}); "
                        f"task={task.name} has {task.outputs}"
                    )


def logits_of(
    config: RunConfig, backbone: models.Backbone, splits: dict[str, Split]
) -> dict[str, np.ndarray]:
    """Logits (rows, outputs) of the saved adapter on each split."""
    tokenizer = models.tokenizer_of(backbone)
    model = load_adapter(config, backbone)
    settings, length = config.train, config.train.max_length
    layout = models.layout_of(model, tokenizer.pad_token_id, settings.batching, settings.device)
    tokens = {n: encode(s, config.task, tokenizer, length) for n, s in splits.items()}
    models.check_vocabulary(model, tokens.values())
    with frozen_casts(model):
        return {n: predict(model, t, settings, layout) for n, t in tokens.items()}


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
