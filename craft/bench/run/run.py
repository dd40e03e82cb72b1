"""One run from its checked config to its record: locate, load, identify, compute, write."""

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from craft.bench.model.build import peft_config
from craft.bench.run.execute import Say, execute
from craft.bench.run.finished.card import share
from craft.bench.run.finished.predict import evaluate, predict_to_file
from craft.bench.run.folder import Attempts
from craft.bench.run.inputs import Inputs, Planner
from craft.bench.run.lease import Held, Lease, hold
from craft.bench.run.provenance import anonymous, commit, hardware, holder, versions
from craft.bench.run.record import Record, digest
from craft.bench.settings.declared import plain
from craft.bench.settings.resolve import check, differs, donor_line
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError, Interrupted

UNSAID = {"experiment": None, "differs": {}}


def carry_out(
    cfg: DictConfig, overrides: Sequence[str], command: str, stop: Callable[[], bool]
) -> Record | None:
    """What a composed config asks for: a run, whose record it returns, or the use of an adapter.

    `overrides` are what it was composed with, by a Hydra that is still initialized."""
    config = check(cfg)
    if config.mode == "evaluate":
        print(json.dumps(evaluate(config), indent=2))
        return None
    if config.mode == "predict":
        for path in predict_to_file(config):
            print(path)
        return None
    donor = None
    if config.start_from is not None:
        donor = check(hydra.compose("train", donor_line(cfg, overrides)))
    said = {"experiment": _experiment(overrides), "differs": differs(cfg)}
    return run(config, command, stop, print, donor, said)


def run(
    config: RunConfig,
    command: str,
    stop: Callable[[], bool],
    say: Say,
    donor: RunConfig | None = None,
    said: Mapping[str, Any] | None = None,
) -> Record:
    """Carry out one run and return its record; where its ok record exists, say so and return that
    one.

    `donor` is the run whose adapter and head this one starts from (`start_from`), which must be
    finished; `said` is what the record says besides of how it was asked for (`carry_out`). A run
    that fails leaves a `failed` record and the exception, and nothing that it has computed is
    removed; one that is interrupted leaves a checkpoint; one whose input is refused, which happens
    before its first step, leaves what was there before it."""
    peft_config(config.method, modules_to_save=[])  # refused before anything is read
    inputs = Planner().inputs(config, donor)
    inputs.check_start()
    folder = inputs.folder
    done = folder.done()
    if done is None:
        created = folder.make()
        try:
            with hold(folder.path, holder(), config.lease_seconds, say) as lease:
                done = folder.done()  # by whoever held the lease until now
                if done is None:
                    known = {"command": command, **(said or UNSAID)}
                    return _attempt(inputs, known, stop, lease, say)
        except InputError:
            if created:
                with contextlib.suppress(OSError):  # something is in it, which stays
                    folder.path.rmdir()
            raise
    folder.finish()
    say(f"{folder.path.name}: done already ({_headline(done)}); its record is {folder.record}")
    if config.train.save_adapter:
        say(f"{folder.path.name}: adapter and model card in {share(folder, done)}")
    return done


def _attempt(
    inputs: Inputs, known: Mapping[str, Any], stop: Callable[[], bool], lease: Lease, say: Say
) -> Record:
    """One attempt at a run whose lease this process holds, from the door to the record."""
    config, backbone, data = inputs.config, inputs.backbone, inputs.data
    run_id, folder = inputs.id, inputs.folder
    folder.tidy()
    attempts = Attempts(folder.attempts, lease.silent_since)
    provenance: dict[str, Any] = {
        "name": folder.path.name,
        **known,
        "row": config.row_id,
        "started": attempts.made[0]["started"],
        "config": plain(config),
        "recipe": config.recipe.source,
        "model": backbone.facts(),
        "data": {
            "source": {k: v for k, v in plain(config.data).items() if k != "dir" and v is not None},
            "digest": data.digest,
            "examples": {name: len(split) for name, split in data.splits.items()},
            "skipped_rows": data.skipped,
        },
        "environment": {
            **commit(),
            "versions": versions(),
            "hardware": hardware(torch.device(config.train.device)),
        },
    }

    def stop_or_lost() -> bool:
        lease.check()
        return stop()

    try:
        with _torch_settings(config):
            outcome = execute(inputs, stop_or_lost, say, attempts.begin)
        found = anonymous(provenance | outcome.provenance)
        digest([outcome.result, found])  # what no JSON can hold is a failure, as any other
        lease.check()
    except (Interrupted, KeyboardInterrupt):
        attempts.end("interrupted")
        raise
    except Held:
        raise  # the folder is another process's now
    except Exception as error:
        if isinstance(error, InputError) and not attempts.training:
            attempts.forget()
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        error.add_note(folder.path.name)
        failure = {"traceback": traceback.format_exc().splitlines()[-12:]}
        with contextlib.suppress(OSError):  # a full disk: the error itself says so
            attempts.end("failed")
            failure |= attempts.spent()
            known = anonymous(provenance | failure)
            Record(run_id, "failed", {}, known, anonymous(reason)).write(folder.record)
        raise
    attempts.end(outcome.status)
    made = Record(run_id, outcome.status, outcome.result, found | attempts.spent())
    made.write(folder.record)
    folder.finish()
    say(f"{folder.path.name}: {made.status}, {_headline(made)}; {folder.record}")
    if config.train.save_adapter and made.ok:
        say(f"{folder.path.name}: adapter and model card in {share(folder, made)}")
    return made


def _experiment(overrides: Sequence[str]) -> str | None:
    """The experiment that a run's overrides choose."""
    words = (word.partition("=") for word in overrides)
    return next((name for key, _, name in words if key.lstrip("+") == "experiment"), None)


def _headline(made: Record) -> str:
    if not made.result or not made.result["history"]:
        return "no score"
    score = made.result["score"]
    return (
        f"{score['headline']} {score['best'][score['headline']]:.4f} (epoch {score['best_epoch']})"
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
