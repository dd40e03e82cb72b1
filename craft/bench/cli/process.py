"""How a command's process starts and ends: a user's error becomes one line and exit code 2, others
stay whole."""

import errno
import functools
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from craft.bench.run import signals
from craft.bench.run.provenance import without_secrets
from craft.bench.run.record import Record
from craft.bench.run.signals import Stopped
from craft.bench.settings.places import CONFIGS
from craft.errors import InputError, Interrupted, first_line
from craft.files import write_json

UNKNOWN_KEY = (ConfigAttributeError, ConfigKeyError)
_with_source = warnings.formatwarning


class Refused(BaseException):
    """A user's error that leaves a single run past Hydra, which would print a line of its own."""


class Full(BaseException):
    """A full disk that leaves a single run past Hydra, likewise."""


def job(main: Callable[[DictConfig], Record | None]) -> Callable[[DictConfig], float | None]:
    """Wrap what `hydra.main` wraps: main returns a run's record, or None, and the job its score.

    A user's error ends a run, or one job of a sweep, in a line. A sweep's jobs leave how they ended
    in their folders, from which its last line is made."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> float | None:
        signals.listen()
        _plain_warnings()
        try:
            if signals.stopped():
                raise Interrupted("stopped before the next run began; start again to go on")
            made = main(cfg)
            if made is None:
                return None
            _ended(made.status, made.name)
            return made.score()
        except Interrupted as interruption:
            signals.hand_over()
            if signals.is_worker():
                raise Stopped(str(interruption)) from interruption
            raise
        except InputError as error:
            hydra = HydraConfig.get()
            if hydra.mode is not RunMode.MULTIRUN:
                raise Refused(str(error)) from error
            line = f"error in {hydra.job.override_dirname}: {error}"
            print(without_secrets(line), file=sys.stderr)
            late = getattr(error, "__notes__", [])  # after the first step: the run's name
            _ended("failed" if late else "refused", [hydra.job.override_dirname, *late][-1])
            raise
        except Exception as error:
            notes = getattr(error, "__notes__", [HydraConfig.get().job.override_dirname])
            _ended("failed", f"{notes[-1]}: {type(error).__name__}: {first_line(error)}")
            line = full_disk(error)
            if line is not None and HydraConfig.get().mode is not RunMode.MULTIRUN:
                raise Full(line) from error
            raise

    return wrapped


def _ended(status: str, name: str) -> None:
    """Leave how a sweep's job ended in its folder."""
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        path = Path(HydraConfig.get().runtime.output_dir) / "ended.json"
        with suppress(OSError):  # a full disk: the last line does without
            write_json(path, {"status": status, "run": name})


class LastLine(Callback):
    """Hydra's callback that remembers where a sweep's jobs leave how they ended."""

    sweep: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        LastLine.sweep = Path(config.hydra.sweep.dir)

    @classmethod
    def show(cls) -> None:
        """Name what did not end well in a sweep, on stderr."""
        paths = [] if cls.sweep is None else sorted(cls.sweep.glob("*/ended.json"))
        ended = [json.loads(path.read_text()) for path in paths]
        if bad := [f"{job['run']} ({job['status']})" for job in ended if job["status"] != "ok"]:
            print(f"not ok: {len(bad)} of {len(ended)} runs: {'; '.join(bad)}", file=sys.stderr)


def start(main: Callable[[], Any]) -> None:
    """Run a main function and leave with 0, 2 after a user's error, or 130 when stopped.

    A run that diverged has done what it was asked: it leaves with 0, and a sweep's last line names
    it. A sweep in which a run failed ends with 1, as does a full disk, which is named in a line."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions out of Hydra, whole
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signals.started()
    signals.listen()
    sys.excepthook = _report
    _plain_warnings()
    try:
        main()
        LastLine.show()
        sys.stdout.flush()
    except BrokenPipeError:  # who read the output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (InputError, Refused, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        LastLine.show()
        sys.exit(2)
    except (Interrupted, Stopped, KeyboardInterrupt) as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        sys.exit(130)
    except (Full, Exception) as error:
        if (line := full_disk(error)) is not None:
            print(f"error: {line}", file=sys.stderr)
            LastLine.show()
            sys.exit(1)
        if signals.stopped() and type(error).__name__ == "TerminatedWorkerError":
            # one of joblib's workers was not yet up to hear the signal that was handed on to it
            print("interrupted: a worker ended before its run began", file=sys.stderr)
            sys.exit(130)
        if LastLine.sweep is None:
            raise
        sys.excepthook(*sys.exc_info())
        LastLine.show()
        sys.exit(1)


def _plain_warnings() -> None:
    """Show warnings to the user as a line, without the code that they come from."""
    warnings.formatwarning = _one_line
    # peft's call to what transformers has deprecated, said again for each model
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )


def _one_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    if issubclass(category, UserWarning):
        return f"warning: {message}\n"
    return _with_source(message, category, *place, **more)


def _report(kind: Any, error: Any, trace: Any) -> None:
    print(without_secrets("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)


def full_disk(error: BaseException) -> str | None:
    """One line on a full disk or quota, in whosever words it was raised; None of another error."""
    if isinstance(error, Full):
        return str(error)
    said = first_line(error)
    if not any(os.strerror(code) in said for code in (errno.ENOSPC, errno.EDQUOT)):
        return None
    named = ": ".join([*getattr(error, "__notes__", [])[-1:], said])
    return without_secrets(f"{named}; the same command goes on once there is room")


def explain(error: BaseException) -> str:
    """One line that names the value and the allowed ones, also for what Hydra says over many."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        allowed = ", ".join(error.options or ()) or "(none)"
        if (group, name) == ("hydra/sweeper", "optuna"):
            return 'the sweeper optuna is not installed: pip install "craft-peft[hpo]"'
        if group.startswith("recipe/"):
            method = group.removeprefix("recipe/")
            known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
            return (
                f"method {method} has no recipe for model {name!r}; it has one for "
                f"{', '.join(known) or '(none)'}; recipe=local asks for its values"
            )
        return f"{group} {name!r} is not one of {allowed}"
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, UNKNOWN_KEY):
        known = cause.parent_node
        if isinstance(known, DictConfig) and cause.full_key:
            section = cause.full_key.rpartition(".")[0]
            names = ", ".join(str(name) for name in known if name != "hydra")
            more = "; another field of its PeftConfig: +method.peft.NAME=VALUE"
            return (
                f"config key {cause.full_key!r} is unknown; {section or 'the config'} has {names}"
                f"{more if section == 'method.peft' else ''}"
            )
    return without_secrets(" ".join(line.strip() for line in str(error).splitlines()[:3]))
