"""Many runs: on a machine's GPUs and on Slurm."""

import sys
from pathlib import Path


def launchers_on_path() -> None:
    """Let Hydra find this package's launchers: it takes them from the packages named
    `hydra_plugins` that are on the path when it starts."""
    plugins = str(Path(__file__).parent / "plugins")
    if plugins not in sys.path:
        sys.path.append(plugins)
