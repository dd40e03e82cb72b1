"""What padding costs: tokens computed for each useful one, and the time of the same rows packed,
grouped and padded."""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch

from craft.bench.glue import sources
from craft.bench.glue.tokens import Tokens, encode
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run.execute import prepare
from craft.bench.settings.sections import BATCHINGS
from craft.bench.speed.measure import Figure, Findings, Times, clock_of, interleaved, ratio
from craft.bench.speed.subjects import Setup
from craft.bench.training.batches import Layout, batches, layout_of, order
from craft.bench.training.loop import Seeds
from craft.bench.training.step import autocast, frozen_casts, loss_of

SIZE = 16  # rows of a global batch
TIMED = 12  # global batches
TO_THE_LONGEST = "padded to the longest"


def bench(setup: Setup) -> Findings:
    """Tokens of one epoch of each task, and seconds of TIMED of its batches, drawn at random."""
    figures, facts = [], {}
    for task in setup.tasks:
        config = setup.config(task, "craft")
        tokenizer = tokenizer_of(locate(config.model))
        split = sources.load(config.task, config.data, ("train",)).splits["train"]
        tokens = encode(split, config.task, tokenizer, 128)
        computed = _computed(tokens, tokenizer.pad_token_id)
        useful = int(tokens.lengths.sum())
        for name, count in computed.items():
            limit = {"most": 1.05} if name == "packed" else {}
            figures.append(Figure(f"{task}: {name} / useful tokens", count / useful, **limit))
        times = _timed(setup, task, tokens)
        full = setup.shape in ("base", "large")  # the goals are those of real shapes
        for other, goal in (("packed", 1.25), ("padded", 1.0)):
            limit = {"most": goal} if full else {}
            what = f"{task}: seconds, grouped / {other}"
            figures.append(ratio(what, times, "grouped", other, **limit))
        lengths = np.quantile(tokens.lengths, (0.5, 0.95)).tolist()
        facts[task] = {
            "rows": len(tokens), "mean": float(tokens.lengths.mean()), "median_and_95th": lengths,
            "useful": useful, "computed": computed, "cut": tokens.cut, "seconds": times,
        }  # fmt: skip
    return Findings(figures, facts)


def _computed(tokens: Tokens, pad: int) -> dict[str, int]:
    """Tokens of an epoch, padding included, as an encoder of width 768 is given them."""
    rows, cpu = order(len(tokens), 0, 0), torch.device("cpu")
    found = {
        kind: sum(
            batch.inputs["input_ids"].numel()
            for batch in batches(tokens, rows, SIZE, Layout.of(kind, 2, pad, 768), cpu)
        )
        for kind in BATCHINGS
    }
    found[TO_THE_LONGEST] = found.pop("padded")
    return found | {"padded to 128": 128 * len(tokens)}


def _timed(setup: Setup, task: str, tokens: Tokens) -> Times:
    """Seconds of forward and backward of the same rows in each batching, dropout on, bf16."""
    device, rows = torch.device(setup.device), order(len(tokens), 0, 0)[: TIMED * SIZE]
    with ExitStack() as stack:
        work = {}
        for kind in BATCHINGS:
            config = setup.config(task, "craft", "train.precision=bf16", f"train.batching={kind}")
            backbone = locate(config.model)
            model = prepare(config, backbone, Seeds.of(0)).to(device).train()
            stack.enter_context(frozen_casts(model))
            layout = layout_of(model, tokenizer_of(backbone).pad_token_id, kind, setup.device)
            work[kind] = _pass(model, config, tokens, rows, layout, device)
        return interleaved(work, setup.rounds, clock_of(setup.device, setup.threads))


def _pass(model, config, tokens, rows, layout, device) -> Callable[[], None]:
    def work() -> None:
        for batch in batches(tokens, rows, SIZE, layout, device):
            with autocast(config.train):
                logits = model(**batch.inputs).logits
            assert batch.labels is not None
            loss_of(logits, batch.labels, config.task.regression, SIZE).backward()

    return work
