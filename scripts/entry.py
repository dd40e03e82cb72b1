"""How the scripts start: a user's error becomes one line and exit code 2, others stay whole."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions out of Hydra, whole
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# a launcher's jobs unpickle the script's main function in fresh processes, which need this module
_path = [str(Path(__file__).parent.resolve()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, _path)))

from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import HydraException, MissingConfigException  # noqa: E402
from hydra.types import RunMode  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from omegaconf.errors import (  # noqa: E402
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)

from craft.errors import InputError  # noqa: E402

UNKNOWN_KEY = (ConfigAttributeError, ConfigKeyError)
_received: list[int] = []


class Refused(BaseException):
    """A user's error that leaves a single run past Hydra, which would print a line of its own."""


def stopped() -> bool:
    """Whether SIGTERM, SIGUSR2 or SIGINT has asked this process to stop; SIGINT twice ends it."""
    return bool(_received)


def _receive(number: int, _frame: object) -> None:
    if number == signal.SIGINT:
        if _received:
            raise KeyboardInterrupt
        os.write(2, b"stopping after this step; Ctrl-C again stops at once\n")
    _received.append(number)


def job(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap what `hydra.main` wraps: a user's error ends a run, or one job of a sweep, in a line."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except InputError as error:
            hydra = HydraConfig.get()
            if hydra.mode is not RunMode.MULTIRUN:
                raise Refused(str(error)) from error
            print(f"error in {hydra.job.override_dirname}: {error}", file=sys.stderr)
            raise

    return wrapped


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


def start(main: Callable[[], None]) -> None:
    """Run a main function and leave with 0, 2 after a user's error, or 130 when stopped."""
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, _receive)
    from craft.train import Interrupted

    try:
        main()
    except (InputError, Refused, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        sys.exit(130)


def explain(error: BaseException) -> str:
    """One line that names the value and the allowed ones, also for what Hydra says over many."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        allowed = ", ".join(error.options or ()) or "(none)"
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
    return " ".join(line.strip() for line in str(error).splitlines()[:3])
