"""A loop on the tiny bench, and the state that it leaves."""

import torch

from craft.bench.glue import sources
from craft.bench.glue.tokens import encode
from craft.bench.model.build import trained
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run.execute import prepare
from craft.bench.training.batches import layout_of
from craft.bench.training.loop import (
    Loop,
    Seeds,
)


def model_of(bench, *more, dropout=True, seed=0, **choices):
    config = bench.config(*more, **choices)
    model = prepare(config, locate(config.model), Seeds.of(seed))
    if not dropout:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
    return config, model


def loop_of(config, model, tmp_path, **changes):
    """What `compute` hands to `fit`, with a score that nothing depends on, and no checkpoint."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.unlink(missing_ok=True)
    tokenizer = tokenizer_of(locate(config.model))
    data = sources.load(config.task, config.data, ("train", *config.task.dev))
    tokens = {n: encode(s, config.task, tokenizer, 32) for n, s in data.splits.items()}
    fields = {
        "train": tokens["train"], "dev": {n: tokens[n] for n in config.task.dev},
        "score": lambda logits: {"accuracy": 0.5}, "headline": "accuracy",
        "regression": config.task.regression, "settings": config.train, "seeds": Seeds.of(0),
        "layout": layout_of(
            model, tokenizer.pad_token_id, config.train.batching, config.train.device
        ),
        "checkpoint": checkpoint, "identity": "a test",
        "observe": lambda progress, total, running: None, "stop": lambda: False,
    }  # fmt: skip
    return Loop(**{**fields, **changes})


def trainable(model):
    adapter, head = trained(model)
    return {**adapter, **head}


def state(model):
    return {name: p.detach().clone() for name, p in trainable(model).items()}
