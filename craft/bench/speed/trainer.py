"""A run end to end beside Hugging Face's Trainer with peft LoRA, from texts to dev scores.

Tokenising, one epoch of training and evaluation are timed, loading the backbone is not. Both sides
have the same texts, cut at 128 tokens, the same encoder, batch size, optimizer and dropout."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from craft.bench.glue.metrics import score
from craft.bench.glue.sources import Split
from craft.bench.glue.tokens import encode
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run.execute import prepare
from craft.bench.settings.sections import RunConfig, Task
from craft.bench.speed.measure import Figure, Findings, clock_of, interleaved, ratio
from craft.bench.speed.subjects import Setup
from craft.bench.training.batches import layout_of
from craft.bench.training.loop import Loop, Seeds, fit
from craft.bench.training.step import frozen_casts

LENGTH = 128
SPEEDUP = {  # (task, precision) -> how many times faster than padding to 128
    ("cola", "bf16"): 8.0,
    ("sst2", "bf16"): 6.0,
    ("stsb", "bf16"): 3.5,
    ("mrpc", "bf16"): 2.4,
    ("rte", "bf16"): 1.9,
    ("cola", "fp32"): 7.0,
    ("rte", "fp32"): 1.5,
}
FLATTENING = (
    "transformers' flattening collator was not run: it is made for causal language models (one "
    "label a token), and a stock classifier reads the first token of its only row"
)

UNFINISHED = "not finished: later tasks and precisions are missing"


def bench(
    setup: Setup,
    precisions: Sequence[str] = ("bf16", "fp32"),
    more: Sequence[str] = (),
    keep: Callable[[Findings], None] = lambda found: None,
) -> Findings:
    """Every task in bf16, CoLA and RTE in fp32, too; `more` overrides our side's config.

    It takes almost half an hour on two cores, and would take longer but for what fp32 goes without:
    three quarters of the rows, and CRAFT beside our LoRA. `keep` is given what is found so far
    after each task."""
    disable_progress_bar()
    figures: list[Figure] = []
    facts: dict[str, Any] = {}
    dynamic = []
    for precision in precisions:
        for task in setup.tasks:
            if precision == "fp32" and task not in ("cola", "rte"):
                continue
            rows = setup if precision == "bf16" else _quarter(setup)
            work, warm_up, lengths = _work(rows, task, precision, more)
            clock = clock_of(setup.device, setup.threads)
            times = interleaved(work, setup.rounds, clock, warm_up)
            name, goal = f"{task} {precision}", SPEEDUP.get((task, precision))
            against = f"{name}: Trainer padded to {LENGTH} / ours"
            limit = {} if goal is None or setup.shape != "base" else {"least": goal}
            figures.append(ratio(f"{against} (lora)", times, "padded", "lora", **limit))
            if precision == "bf16":
                figures.append(ratio(f"{against} (craft)", times, "padded", "craft", **limit))
                found = ratio(f"{name}: Trainer padded to the longest / ours (lora)", times,
                              "dynamic", "lora")  # fmt: skip
                figures.append(found)
                dynamic.append(found.value)
            facts[name] = {"rows": rows.rows, "seconds": times, "mean_length": lengths}
            keep(Findings(figures, facts, remarks=(UNFINISHED, FLATTENING)))
    if dynamic:
        mean = math.exp(float(np.mean(np.log(dynamic))))
        limit = {"least": 1.8} if setup.shape == "base" else {}
        figures.append(Figure("bf16: padded to the longest / ours, geometric mean", mean, **limit))
    return Findings(figures, facts, remarks=(FLATTENING,))


def _work(
    setup: Setup, task: str, precision: str, more: Sequence[str]
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]], dict[str, float]]:
    """What is timed of one task, the same of one batch, and the mean lengths of its texts in
    tokens."""
    given = [f"train.precision={precision}", *more]
    config = setup.config(task, "lora", *given)
    runs = {"padded": _peer(config, padded=True), "lora": _ours(config)}
    if precision == "bf16":
        runs["craft"] = _ours(setup.config(task, "craft", *given))
        runs["dynamic"] = _peer(config, padded=False)
    splits = setup.texts(config)
    few = replace(setup, rows=min(32, setup.rows), dev_rows=min(8, setup.dev_rows)).texts(config)
    work, warm_up = ({n: partial(run, s) for n, run in runs.items()} for s in (splits, few))
    tokenizer = tokenizer_of(locate(config.model))
    tokens = {n: encode(s, config.task, tokenizer, 512) for n, s in splits.items()}
    return work, warm_up, {name: float(t.lengths.mean()) for name, t in tokens.items()}


def _quarter(setup: Setup) -> Setup:
    return replace(setup, rows=max(1, setup.rows // 4), dev_rows=max(1, setup.dev_rows // 4))


def _ours(config: RunConfig) -> Callable[[dict[str, Split]], Any]:
    backbone = locate(config.model)
    model = prepare(config, backbone, Seeds.of(0))
    tokenizer = tokenizer_of(backbone)
    task, settings = config.task, config.train
    layout = layout_of(model, tokenizer.pad_token_id, settings.batching, settings.device)

    def work(splits: dict[str, Split]) -> None:
        def scored(logits: dict[str, np.ndarray]) -> dict[str, float]:
            return _scores(task, logits["dev"], splits["dev"].labels)

        tokens = {n: encode(s, task, tokenizer, LENGTH) for n, s in splits.items()}
        loop = Loop(
            train=tokens["train"], dev={"dev": tokens["dev"]}, score=scored,
            headline=task.headline, regression=task.regression, settings=settings,
            seeds=Seeds.of(0), layout=layout,
            checkpoint=config.outputs / "none", identity="bench",
            observe=lambda progress, total, running: None, stop=lambda: False,
        )  # fmt: skip
        with frozen_casts(model):
            fit(model, loop)

    return work


def _peer(config: RunConfig, padded: bool) -> Callable[[dict[str, Split]], Any]:
    """What `run_glue.py` does, with LoRA: padded to 128, or to the longest of each batch."""
    task, settings = config.task, config.train
    folder = str(config.model.path)
    torch.manual_seed(0)
    rate, name = settings.attention_dropout, "attention_probs_dropout_prob"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=task.outputs, **({} if rate is None else {name: rate})
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"])
    model = get_peft_model(model, lora)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    arguments = TrainingArguments(
        output_dir=str(config.outputs / "trainer"), num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.eval_batch_size, learning_rate=settings.lr,
        bf16=settings.precision == "bf16", use_cpu=settings.device == "cpu",
        dataloader_pin_memory=settings.device != "cpu", eval_strategy="epoch",
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)  # on several cards it would wrap in DataParallel

    def tokenised(split: Split) -> Dataset:
        columns = dict(zip(task.columns, split.texts, strict=True))
        padding = {"padding": "max_length"} if padded else {}

        def encode_rows(rows: dict[str, list]) -> Any:
            texts = (rows[column] for column in task.columns)
            return tokenizer(*texts, truncation=True, max_length=LENGTH, **padding)

        dataset = Dataset.from_dict({**columns, "label": split.labels})
        return dataset.map(encode_rows, batched=True)

    def scored(prediction: Any) -> dict[str, float]:
        return _scores(task, prediction.predictions, prediction.label_ids.tolist())

    def work(splits: dict[str, Split]) -> None:
        trainer = Trainer(
            model=model, args=arguments, train_dataset=tokenised(splits["train"]),
            eval_dataset=tokenised(splits["dev"]), compute_metrics=scored,
            data_collator=default_data_collator if padded else DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        trainer.train()

    return work


def _scores(task: Task, logits: np.ndarray, labels: Any) -> dict[str, float]:
    """The task's metrics on its first dev split."""
    name = task.dev[0]
    return score(replace(task, dev=(name,)), {name: logits}, {name: labels})
