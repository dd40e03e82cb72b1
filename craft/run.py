"""One run from its checked config to its record: locate, load, identify, tokenise, build, attach,
fit, write."""

import json
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from craft import environment, models, packing, record, tucker
from craft.config import RunConfig
from craft.errors import InputError
from craft.glue import sources
from craft.glue.token_cache import TokenCache
from craft.optimization import compute_dtype, frozen_casts
from craft.outcome import closed_form, count_parameters, save_adapters, summarise, write_predictions
from craft.progress import ProgressLine
from craft.start import Start, finished_run, start_from
from craft.storage import write_json
from craft.tracking import tracker
from craft.train import Interrupted, Loop, Seeds, fit

Say = Callable[[str], None]


def run(
    config: RunConfig,
    command: str,
    stop: Callable[[], bool],
    say: Say,
    donor: RunConfig | None = None,
) -> dict[str, Any]:
    """Carry out one run and return its record; where its ok record exists, say so and return that
    one.

    `donor` is the run whose adapter and head this one starts from (`start_from`), which must be
    finished. A run that fails leaves a `failed` record and the exception; one that is interrupted,
    a checkpoint; one whose input is refused, nothing."""
    models.peft_config(config.method, modules_to_save=[])  # refused before anything is read
    backbone = models.locate(config.model)
    data = sources.load(config.task, config.data, ("train", *config.task.dev))
    kept = record.identity(config, backbone.digest, data.digest)
    start = None if donor is None else finished_run(donor, backbone)
    if start is not None:
        kept["start_from.id"] = start.id
    run_id = record.digest(kept)
    folder = record.RunFolder.of(config, run_id)
    done = folder.read()
    if done is not None and done["status"] == "ok":
        say(f"{folder.path.name}: done already ({_headline(done)}); its record is {folder.record}")
        return done

    folder.path.mkdir(parents=True, exist_ok=True)
    attempts = _start_attempt(folder)
    tucker.use_cache(config.outputs / "cache" / "tucker")
    provenance: dict[str, Any] = {
        "name": folder.path.name,
        "command": command,
        "started": attempts[0]["started"],
        "config": config.resolved,
        "recipe": config.resolved["recipe"]["source"],
        "model": {k: config.model[k] for k in ("name", "repository", "revision")}
        | {"digest": backbone.digest},
        "data": {
            "source": {k: v for k, v in config.data.items() if k != "dir"},
            "digest": data.digest,
            "examples": {name: len(split) for name, split in data.splits.items()},
            "skipped_rows": data.skipped,
        },
        "environment": {
            **environment.commit(),
            "versions": environment.versions(),
            "hardware": environment.hardware(torch.device(config.train.device)),
        },
    }
    started = time.monotonic()
    try:
        with _torch_settings(config):
            result, more = _train(config, backbone, data, run_id, kept, folder, stop, start)
        made = record.make(run_id, more.pop("status"), result, provenance | more)
    except (Interrupted, KeyboardInterrupt):
        _end_attempt(folder, attempts, time.monotonic() - started, "interrupted")
        raise
    except InputError:
        _forget_attempt(folder, attempts)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _end_attempt(folder, attempts, time.monotonic() - started, "failed")
        failure = _spent(attempts) | {"traceback": traceback.format_exc().splitlines()[-12:]}
        record.write(
            folder.record, record.make(run_id, "failed", None, provenance | failure, reason)
        )
        raise
    _end_attempt(folder, attempts, time.monotonic() - started, made["status"])
    made["provenance"] |= _spent(attempts)
    record.write(folder.record, made)
    folder.checkpoint.unlink(missing_ok=True)
    say(f"{folder.path.name}: {made['status']}, {_headline(made)}; {folder.record}")
    return made


def _headline(made: dict[str, Any]) -> str:
    if made["result"] is None or not made["result"]["history"]:
        return "no score"
    score = made["result"]["score"]
    return (
        f"{score['headline']} {score['best'][score['headline']]:.4f} (epoch {score['best_epoch']})"
    )


def _train(
    config: RunConfig,
    backbone: models.Backbone,
    data: sources.GlueData,
    run_id: str,
    kept: dict[str, Any],
    folder: record.RunFolder,
    stop: Callable[[], bool],
    start: Start | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of a run, and what more is known of how it came about."""
    seeds = Seeds.of(config.seed)
    tokenizer = models.tokenizer_of(backbone)
    folder_of_tokens = config.outputs / "cache" / "tokens"
    cache = TokenCache(folder_of_tokens, data.digest, models.tokenizer_digest(backbone))
    tokens = {
        n: cache.encode(s, config.task, tokenizer, config.train.max_length)
        for n, s in data.splits.items()
    }
    clock = time.perf_counter()
    model = prepare(config, backbone, seeds)
    attach_seconds = time.perf_counter() - clock
    started_from = None if start is None else start_from(model, start)
    parameters = count_parameters(config, model)
    labels = {name: data.splits[name].labels for name in config.task.dev}
    line = ProgressLine(folder.path.name, config.task.headline)
    log = tracker(config.logger, run_id, folder.path.name, config.resolved, str(folder.path))

    def observe(progress: Any, total: int, running: torch.Tensor | None) -> None:
        line.observe(progress, total, running)
        if running is None:
            log.log(progress.history[-1], progress.step)

    def score(logits: dict[str, np.ndarray]) -> dict[str, float]:
        from craft.glue.metrics import score  # evaluate and datasets take a second to import

        return score(config.task, logits, labels)  # type: ignore[arg-type]

    with line, log, frozen_casts(model):
        fitted = fit(
            model,
            Loop(
                train=tokens["train"],
                dev={name: tokens[name] for name in config.task.dev},
                score=score,
                headline=config.task.headline,
                regression=config.task.regression,
                settings=config.train,
                seeds=seeds,
                first_position=models.first_position(model),
                pad=tokenizer.pad_token_id,
                checkpoint=folder.checkpoint,
                identity=run_id,
                observe=observe,
                stop=stop,
            ),
        )
    predictions = (
        write_predictions(folder.predictions, config.task, fitted, data) if fitted.logits else None
    )
    result = {
        "config": kept,
        "score": summarise(config.task, fitted),
        "history": fitted.progress.history,
        "parameters": parameters,
        "steps": fitted.progress.step,
        "tokens": fitted.progress.tokens,
        "skipped_steps": fitted.progress.skipped_steps,
        "predictions_sha256": predictions,
    }
    adapter_bytes = save_adapters(model, fitted, folder.path)
    progress = fitted.progress
    more = {
        "status": fitted.status,
        "start_from": started_from,
        "closed_form": closed_form(config, model),
        "tokens": {
            "max_length": config.train.max_length,
            "cut": {n: t.cut / len(t) for n, t in tokens.items()},
            "mean_length": {n: float(t.lengths.mean()) for n, t in tokens.items()},
        },
        "cost": {
            "attach_seconds": round(attach_seconds, 3),  # the decomposition included
            "train_seconds": round(progress.train_seconds, 3),
            "eval_seconds": round(progress.eval_seconds, 3),
            "epoch_seconds": progress.epoch_seconds,
            "steps_per_second": round(progress.step / max(progress.train_seconds, 1e-9), 3),
            "tokens_per_second": round(progress.tokens / max(progress.train_seconds, 1e-9), 1),
            "peak_megabytes": environment.peak_memory_megabytes(torch.device(config.train.device)),
            "adapter_bytes": adapter_bytes,
        },
    }
    log.finish(record.make(run_id, fitted.status, result, more))
    return result, more


def prepare(config: RunConfig, backbone: models.Backbone, seeds: Seeds) -> PeftModel:
    """The model ready to train: backbone, head, method, and packed attention where batches are
    packed."""
    settings = config.train
    model = models.build(backbone, config.task, seeds.head, settings.attention_dropout)
    available = getattr(model.config, "max_position_embeddings", None)
    usable = None if available is None else available - models.first_position(model)
    if usable is not None and config.train.max_length > usable:
        raise InputError(
            f"train.max_length {config.train.max_length} exceeds the {usable} positions of "
            f"{config.model['name']}"
        )
    if settings.batching == "packed":
        packing.enable(model)
        _tell_of_the_kernel(config, model)
    return models.attach(model, config.method, seeds.adapter)


def _tell_of_the_kernel(config: RunConfig, model: PreTrainedModel) -> None:
    """Say so where a card trains without the kernel for packed batches."""
    device, dtype = torch.device(config.train.device), compute_dtype(config.train)
    if device.type != "cuda":
        return
    reason = packing.without_kernel(device, dtype, models.attention_dropout(model.config))
    if reason is not None:
        warnings.warn(
            f"packed attention trains sequence by sequence, not by torch's kernel: {reason}",
            stacklevel=2,
        )


@contextmanager
def _torch_settings(config: RunConfig) -> Iterator[None]:
    """Threads and TF32 of this run alone: a sweep runs many in one process."""
    before = (
        torch.get_num_threads(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    torch.set_num_threads(config.train.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[1:]


def _start_attempt(folder: record.RunFolder) -> list[dict[str, Any]]:
    """The attempts at this run so far and the one that starts now, which counts even if nothing
    ends it."""
    attempts = json.loads(folder.attempts.read_text()) if folder.attempts.is_file() else []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    attempts.append({"started": now, "seconds": 0.0, "ended": "killed"})
    write_json(folder.attempts, attempts)
    return attempts


def _end_attempt(
    folder: record.RunFolder, attempts: list[dict[str, Any]], seconds: float, how: str
) -> None:
    attempts[-1] |= {"seconds": round(seconds, 3), "ended": how}
    write_json(folder.attempts, attempts)


def _forget_attempt(folder: record.RunFolder, attempts: list[dict[str, Any]]) -> None:
    """Leave a run as it was before this attempt, which ended at the door."""
    attempts.pop()
    if attempts:
        write_json(folder.attempts, attempts)
    else:
        shutil.rmtree(folder.path)


def _spent(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"attempts": attempts, "seconds": round(sum(a["seconds"] for a in attempts), 3)}
