"""How the scripts start: errors of the user's become one line and exit code 2, all others stay whole."""

import os
import signal
import sys
from collections.abc import Callable

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions out of Hydra, whole
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hydra.errors import HydraException  # noqa: E402
from omegaconf.errors import OmegaConfBaseException  # noqa: E402

from craft.errors import InputError  # noqa: E402

_received: list[int] = []


def stopped() -> bool:
    """Whether SIGTERM, SIGUSR2 or SIGINT has asked this process to stop; a second SIGINT stops it at once."""
    return bool(_received)


def _receive(number: int, _frame: object) -> None:
    if number == signal.SIGINT and _received:
        raise KeyboardInterrupt
    _received.append(number)


def start(main: Callable[[], None]) -> None:
    """Run a Hydra main function and leave with its exit code: 0, 2 after a user's error, 130 after an interruption."""
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, _receive)
    from craft.train import Interrupted

    try:
        main()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"error: {' '.join(lines[:3])}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        sys.exit(130)
