"""Hydra's launchers of this project; Hydra finds them here, in its namespace of plugins.

joblib's workers import this module, so that it imports nothing else of the project."""

import shutil
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from omegaconf import DictConfig, open_dict


class GpusLauncher(JoblibLauncher):
    """joblib's launcher with one worker process a GPU, or several: each sees its GPU alone."""

    def __init__(self, gpus: int | None, runs_per_gpu: int) -> None:
        super().__init__()
        self.gpus, self.runs_per_gpu = gpus, runs_per_gpu

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from craft.bench.sweep.gpus import asked_for

        asked_for(self.gpus)  # refused before the sweeper makes its folder
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from craft.bench.sweep.gpus import launch_on_gpus

        return launch_on_gpus(self, job_overrides, initial_job_idx)


class SlurmLauncher(Launcher):
    """Runs on Slurm through submitit, many to a job; `craft.bench.sweep.slurm` says how."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from craft.errors import InputError

        absent = [name for name in ("squeue", "sbatch") if shutil.which(name) is None]
        if absent:  # refused before the sweeper makes its folder
            raise InputError(
                f"hydra/launcher=slurm: there is no {', '.join(absent)} on this machine's PATH; "
                "start the sweep where Slurm is, or leave the launcher out"
            )
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from craft.bench.sweep.slurm import SlurmSettings, launch_on_slurm
        from craft.errors import InputError

        settings = SlurmSettings.of(self.settings)
        sweeper = self.config.hydra.sweeper._target_
        if settings.detach and not sweeper.endswith("BasicSweeper"):
            raise InputError(
                f"{sweeper.rpartition('.')[2]} waits for its runs' scores: give it "
                "hydra.launcher.detach=false"
            )

        def compose(overrides: Sequence[str]) -> DictConfig:
            found = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(found):
                del found["hydra"]
            return found

        return launch_on_slurm(settings, job_overrides, compose)
