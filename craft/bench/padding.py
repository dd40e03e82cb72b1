"""Tokens computed for each useful one: packed, grouped, padded to the longest, padded to 128."""

import numpy as np
import torch

from craft import models
from craft.bench.measure import Figure, Findings
from craft.bench.subjects import Setup
from craft.glue import sources
from craft.glue.batches import Layout, batches, encode, order


def bench(setup: Setup) -> Findings:
    """One epoch of batches of 32 over the whole training set of each task."""
    figures, facts = [], {}
    for task in setup.tasks:
        config = setup.config(task, "craft")
        tokenizer = models.tokenizer_of(models.locate(config.model))
        split = sources.load(config.task, config.data, ("train",)).splits["train"]
        tokens = encode(split, config.task, tokenizer, 128)
        rows = order(len(tokens), 0, 0)
        useful, cpu = int(tokens.lengths.sum()), torch.device("cpu")
        kinds = {"packed": "packed", "grouped": "grouped", "padded to the longest": "padded"}
        layouts = {n: Layout.of(k, 2, tokenizer.pad_token_id, 768) for n, k in kinds.items()}
        computed = {
            name: sum(b.inputs["input_ids"].numel() for b in batches(tokens, rows, 32, layout, cpu))
            for name, layout in layouts.items()
        }
        computed["padded to 128"] = 128 * len(tokens)
        for name, count in computed.items():
            limit = {"most": 1.05} if name == "packed" else {}
            figures.append(Figure(f"{task}: {name} / useful tokens", count / useful, **limit))
        lengths = np.quantile(tokens.lengths, (0.5, 0.95)).tolist()
        facts[task] = {
            "rows": len(tokens), "mean": float(tokens.lengths.mean()), "median_and_95th": lengths,
            "useful": useful, "computed": computed, "cut": tokens.cut,
        }  # fmt: skip
    return Findings(figures, facts)
