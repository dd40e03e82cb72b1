"""Use a saved adapter and head: evaluate them on a task's dev splits, or predict its test splits or
a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from craft.bench.glue import sources
from craft.bench.glue.metrics import predictions_of, score
from craft.bench.glue.sources import Split, read_columns
from craft.bench.glue.tokens import encode
from craft.bench.model.locate import Backbone, check_vocabulary, locate, tokenizer_of
from craft.bench.run.adapter import load_adapter
from craft.bench.settings.sections import RunConfig, Task
from craft.bench.training.batches import layout_of
from craft.bench.training.loop import predict
from craft.bench.training.step import frozen_casts
from craft.errors import InputError
from craft.files import write_text


def logits_of(
    config: RunConfig, backbone: Backbone, splits: dict[str, Split]
) -> dict[str, np.ndarray]:
    """Logits (rows, outputs) of the saved adapter on each split."""
    tokenizer = tokenizer_of(backbone)
    model = load_adapter(config, backbone)
    settings, length = config.train, config.train.max_length
    layout = layout_of(model, tokenizer.pad_token_id, settings.batching, settings.device)
    tokens = {n: encode(s, config.task, tokenizer, length) for n, s in splits.items()}
    check_vocabulary(model, tokens.values())
    with frozen_casts(model):
        return {n: predict(model, t, settings, layout) for n, t in tokens.items()}


def evaluate(config: RunConfig) -> dict[str, float]:
    """Every metric of the task on its dev splits."""
    data = sources.load(config.task, config.data, config.task.dev)
    labels: dict[str, Any] = {name: split.labels for name, split in data.splits.items()}
    logits = logits_of(config, locate(config.model), data.splits)
    return score(config.task, logits, labels)


def predict_to_file(config: RunConfig) -> list[Path]:
    """Write `index` and `prediction` (class names, or scores) of the test splits or of
    predict.input; returns the files.

    With several splits (MNLI) each has a file of its own, its name before the suffix."""
    if config.predict.output is None:
        raise InputError("mode=predict needs predict.output=FILE.tsv")
    if config.predict.input is None:
        splits = sources.load(config.task, config.data, config.task.test).splits
    else:
        splits = {"input": read_columns(config.task, config.predict.input)}
    output = config.predict.output
    written = []
    for name, logits in logits_of(config, locate(config.model), splits).items():
        path = output if len(splits) == 1 else output.with_stem(f"{output.stem}_{name}")
        write_text(path, _lines(config.task, splits[name], logits))
        written.append(path)
    return written


def _lines(task: Task, split: Split, logits: np.ndarray) -> str:
    predicted = predictions_of(task, logits)
    shown = [json.dumps(float(p)) if task.regression else task.labels[int(p)] for p in predicted]
    rows = [f"{index}\t{value}" for index, value in zip(split.idx, shown, strict=True)]
    return "\n".join(["index\tprediction", *rows]) + "\n"
