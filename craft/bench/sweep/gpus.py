"""Runs on the GPUs of one machine: joblib's worker processes, each with a GPU of its own."""

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from craft.errors import InputError

PATIENCE = 60.0  # seconds for a worker that is replaced to leave


def launch_on_gpus(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Any:
    """joblib's own launch, with as many workers as there are places on GPUs."""
    import cloudpickle
    from hydra_plugins.hydra_joblib_launcher import _core

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker has its GPU before torch
    places = [d for d in asked_for(launcher.gpus) for _ in range(launcher.runs_per_gpu)]
    with tempfile.TemporaryDirectory(prefix="craft-gpus-") as folder:
        if len(places) == 1:  # joblib then runs in this process and asks for no initializer
            take_place(folder, places)
        begin = {"initializer": take_place, "initargs": (folder, places)}
        launcher.joblib = {"n_jobs": len(places), **begin}
        return _core.launch(launcher=launcher, job_overrides=job_overrides, initial_job_idx=first)


def asked_for(gpus: int | None) -> list[str]:
    """So many of this machine's GPUs, or all; InputError where there is none, or fewer."""
    devices = visible_gpus()
    if not devices:
        raise InputError("hydra/launcher=gpus: torch sees no GPU on this machine")
    wanted = len(devices) if gpus is None else gpus
    if not 1 <= wanted <= len(devices):
        raise InputError(
            f"hydra/launcher=gpus: {wanted} GPUs are asked for, torch sees {len(devices)}"
        )
    return devices[:wanted]


def visible_gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(device) for device in range(count)]


def take_place(folder: str, places: Sequence[str]) -> None:
    """In a worker, before CUDA is started: see the GPU of a place that nobody holds, alone.

    The place is held by a lock on its file until the worker ends, for joblib puts a new worker in
    the place of one whose memory has grown. RuntimeError where none gets free."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for number, device in enumerate(places):
            file = os.open(f"{folder}/{number}", os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return
        time.sleep(0.2)
    raise RuntimeError(f"hydra/launcher=gpus: all {len(places)} places are taken")
