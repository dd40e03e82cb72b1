"""Runs on the GPUs of one machine: joblib's worker processes, each with a GPU of its own."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from craft.errors import InputError


def launch_on_gpus(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Any:
    """joblib's own launch, with as many workers as there are places on GPUs.

    InputError where there is no GPU, or fewer than asked for."""
    from hydra_plugins.hydra_joblib_launcher import _core

    devices = visible_gpus()
    wanted = len(devices) if launcher.gpus is None else launcher.gpus
    if not devices or not 1 <= wanted <= len(devices):
        raise InputError(
            f"hydra/launcher=gpus: {wanted} GPUs are asked for, torch sees {len(devices)}"
        )
    places = [device for device in devices[:wanted] for _ in range(launcher.runs_per_gpu)]
    with tempfile.TemporaryDirectory(prefix="craft-gpus-") as folder:
        begin = {"initializer": take_place, "initargs": (folder, places)}
        launcher.joblib = {"n_jobs": len(places), **begin}
        return _core.launch(launcher=launcher, job_overrides=job_overrides, initial_job_idx=first)


def visible_gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(device) for device in range(count)]


def take_place(folder: str, places: Sequence[str]) -> None:
    """In a worker, before CUDA is started: see the GPU of the first place that nobody has taken."""
    for number, device in enumerate(places):
        try:
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = device
        return
