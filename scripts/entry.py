"""How the scripts start: a user's error becomes one line and exit code 2, others stay whole."""

import contextlib
import errno
import functools
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions out of Hydra, whole
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# a launcher's jobs unpickle the script's main function in fresh processes, which need this module
_path = [str(Path(__file__).parent.resolve()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, _path)))

import psutil  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import HydraException, MissingConfigException  # noqa: E402
from hydra.experimental.callback import Callback  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from omegaconf.errors import (  # noqa: E402
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)

from craft.bench.run.provenance import without_secrets  # noqa: E402
from craft.bench.sweep import launchers_on_path  # noqa: E402
from craft.errors import InputError, Interrupted, first_line  # noqa: E402
from craft.files import write_json  # noqa: E402

UNKNOWN_KEY = (ConfigAttributeError, ConfigKeyError)
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_received: list[int] = []
_before: dict[int, Any] = {}  # the handlers that ours took the place of
_worker = True  # a launcher's, until `start` says that this is the process that was started


_with_source = warnings.formatwarning


def _one_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """A warning to the user, without the line of code that it comes from."""
    if issubclass(category, UserWarning):
        return f"warning: {message}\n"
    return _with_source(message, category, *place, **more)


warnings.formatwarning = _one_line
# peft's call to what transformers has deprecated, said again for each model
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)


class Stopped(Exception):
    """Interrupted, in a launcher's worker: an Exception, so that the other workers are not killed
    while they write their checkpoints."""


class Refused(BaseException):
    """A user's error that leaves a single run past Hydra, which would print a line of its own."""


class Full(BaseException):
    """A full disk that leaves a single run past Hydra, likewise."""


def stopped() -> bool:
    """Whether SIGTERM, SIGUSR2 or SIGINT has asked this process to stop; SIGINT twice ends it."""
    return bool(_received)


def _receive(number: int, _frame: object) -> None:
    if number == signal.SIGINT:
        if _received:
            raise KeyboardInterrupt
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")
    _received.append(number)
    if not _worker and number != signal.SIGINT:  # a terminal sends its Ctrl-C to all by itself
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if any("popen_loky" in part for part in process.cmdline()):  # joblib's workers
                    process.send_signal(signal.SIGTERM)


def received() -> list[int]:
    """The signals that have asked for a stop."""
    return list(_received)


def listen() -> None:
    """Let SIGTERM, SIGUSR2 and SIGINT ask for a stop, also in a launcher's worker processes."""
    if threading.current_thread() is not threading.main_thread():
        return  # a notebook or a test; signals are then somebody else's
    for number in SIGNALS:
        if (before := signal.signal(number, _receive)) is not _receive:
            _before[number] = before


def hand_over() -> None:
    """After an interruption give the signal to submitit, if this is its job: it requeues and exits.

    It does so on its own signal, SIGUSR2 (a time limit, or a preemption that is announced by it);
    a SIGTERM alone is a cancellation, or a preemption after which Slurm requeues by itself."""
    handler = _before.get(signal.SIGUSR2)
    of_submitit = getattr(handler, "__module__", None) == "submitit.core.job_environment"
    if callable(handler) and of_submitit and signal.SIGUSR2 in _received:
        handler(signal.SIGUSR2, None)


def job(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], float | None]:
    """Wrap what `hydra.main` wraps: main returns a run's record, or None, and the job its score.

    A user's error ends a run, or one job of a sweep, in a line. A sweep's jobs leave how they ended
    in their folders, from which its last line is made."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> float | None:
        listen()
        try:
            if stopped():
                raise Interrupted("stopped before the next run began; start again to go on")
            made = main(cfg)
            if made is not None:
                _ended(made["status"], made["provenance"]["name"])
            score = ((made or {}).get("result") or {}).get("score") or {}
            return score["best"][score["headline"]] if score.get("best") else None
        except Interrupted as interruption:
            hand_over()
            if _worker:
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
        with contextlib.suppress(OSError):  # a full disk: the last line does without
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


def options(arguments: list[str], **defaults: str | None) -> dict[str, str | None]:
    """Read `name=value` arguments of a script without a Hydra config; InputError on an unknown
    name."""
    given = dict(defaults)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in defaults:
            raise InputError(
                f"{argument!r} is not one of {', '.join(f'{known}=' for known in defaults)}"
            )
        given[name] = value or defaults[name]
    return given


def count(name: str, text: str) -> int:
    """A whole number of at least 1 from the command line; InputError names the option otherwise."""
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)


def start(main: Callable[[], None]) -> None:
    """Run a main function and leave with 0, 2 after a user's error, or 130 when stopped.

    A run that diverged has done what it was asked: it leaves with 0, and a sweep's last line names
    it. A sweep in which a run failed ends with 1, as does a full disk, which is named in a line."""
    global _worker
    _worker = False
    launchers_on_path()
    sys.excepthook = _report
    listen()
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
        if stopped() and type(error).__name__ == "TerminatedWorkerError":
            # one of joblib's workers was not yet up to hear the signal that was handed on to it
            print("interrupted: a worker ended before its run began", file=sys.stderr)
            sys.exit(130)
        if LastLine.sweep is None:
            raise
        sys.excepthook(*sys.exc_info())
        LastLine.show()
        sys.exit(1)


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
            return f"method {method} has no recipe for model {name!r}; it has one for {allowed}"
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
