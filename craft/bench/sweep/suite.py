"""What `make reproduce-glue` can run here: findings, the suite that follows from them, and how long
it will take."""

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from craft.bench.glue.tokens import Tokens
from craft.bench.model import packing
from craft.bench.model.build import attach, build
from craft.bench.model.locate import locate
from craft.bench.settings.sections import RunConfig
from craft.bench.training.batches import batches, layout_of
from craft.bench.training.step import autocast, frozen_casts, loss_of
from craft.errors import InputError

SUITES = ("mini", "small", "paper")
PAPER_MODELS = {
    "roberta_base": "roberta-base",
    "roberta_large": "roberta-large",
}  # config -> folder's name


@dataclass(frozen=True)
class Here:
    """What is here: where each of the paper's models and GLUE lie (a folder, `hub`, or None), GPU
    and cores."""

    gpu: str | None
    cores: int
    weights: dict[str, str | None]
    glue: str | None

    def lines(self) -> list[str]:
        shown = {"GPU": self.gpu, "CPU cores": str(self.cores)}
        shown |= {f"{name} weights": place for name, place in self.weights.items()}
        shown["GLUE"] = self.glue
        return [f"{what:24}{place or 'not found'}" for what, place in shown.items()]


def find(model_dir: str | None, glue_dir: str | None, hub_answers: bool) -> Here:
    """Look for the paper's models (`model_dir`/roberta-base ...), GLUE (`glue_dir`/CoLA ...), and a
    GPU.

    A hub that answers counts as weights and data being there, and a `model_dir` as all the weights
    there are. InputError where a folder that was given has none of what it is for."""
    weights: dict[str, str | None] = dict.fromkeys(PAPER_MODELS, "hub" if hub_answers else None)
    if model_dir is not None:
        for name, folder in PAPER_MODELS.items():
            path = Path(model_dir) / folder
            weights[name] = str(path) if (path / "config.json").is_file() else None
        if not any(weights.values()):
            files = " nor ".join(f"{folder}/config.json" for folder in PAPER_MODELS.values())
            raise InputError(f"MODEL_DIR: there is neither {files} in {model_dir}")
    if (
        glue_dir is not None
        and not (Path(glue_dir) / "CoLA").is_dir()
        and not (Path(glue_dir) / "cola").is_dir()
    ):
        raise InputError(f"GLUE_DIR: there is neither CoLA/ nor cola/ in {glue_dir}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return Here(gpu, cores, weights, glue_dir or ("hub" if hub_answers else None))


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached; never asked in offline mode."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info("FacebookAI/roberta-base", timeout=seconds)
    except (OfflineModeIsEnabled, OSError, ValueError):
        return False
    except Exception as error:  # the client's own network errors derive from no common class
        if type(error).__module__.split(".")[0] in (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "huggingface_hub",
        ):
            return False
        raise
    return True


def choose(here: Here, wanted: str | None) -> tuple[str, str]:
    """The suite to run and why; one of the paper's models is enough for the paper's. InputError
    names what is missing where a GPU is there and weights or data are not."""
    absent = [name for name, place in here.weights.items() if place is None]
    lacking = []
    if len(absent) == len(here.weights):
        lacking.append(f"{' or '.join(absent)} weights (MODEL_DIR=FOLDER)")
    without = "".join(f"; {name} is left out" for name in absent)
    if here.glue is None:
        lacking.append("GLUE (GLUE_DIR=FOLDER)")
    if wanted is not None:
        if wanted not in SUITES:
            raise InputError(f"SUITE {wanted!r} is not one of {', '.join(SUITES)}")
        if wanted == "paper" and lacking:
            raise InputError(f"SUITE=paper: missing {', '.join(lacking)}")
        if wanted == "small" and here.glue in (None, "hub"):
            raise InputError("SUITE=small: missing GLUE (GLUE_DIR=FOLDER)")
        return wanted, "asked for" + (without if wanted == "paper" else "")
    if here.gpu is None:
        return "mini", "there is no GPU; the paper's models take hours on one"
    if lacking:
        raise InputError(f"GPU: {here.gpu}; missing: {', '.join(lacking)}; or take SUITE=mini")
    return "paper", f"GPU: {here.gpu}; GLUE and weights are there{without}"


@dataclass(frozen=True)
class Rate:
    """Useful tokens a second of one worker, in the faster of two precisions."""

    precision: str
    tokens_per_second: float


WARM_UP, TIMED = 12, 12  # training steps


def calibrate(config: RunConfig, tokens: Tokens, precisions: Sequence[str]) -> Rate:
    """Time a few training steps of one run's model and method in each precision; takes seconds.

    The first WARM_UP are not timed: kernels are made for the shapes of each new batch."""
    from dataclasses import replace

    backbone = locate(config.model)
    model = build(backbone, config.task, 0)
    packing.enable(model)
    with warnings.catch_warnings():  # a run says so itself, in its log
        warnings.filterwarnings("ignore", message="ranks .* exceed the shape")
        model = attach(model, config.method, 0)
    model.to(config.train.device).train()
    device = torch.device(config.train.device)
    layout = layout_of(model, 0, "packed", config.train.device)
    before = torch.get_num_threads()
    torch.set_num_threads(config.train.threads)
    rates = []
    for precision in precisions:
        settings = replace(config.train, precision=precision)
        size = settings.batch_size
        rows = torch.arange(min(len(tokens), (WARM_UP + TIMED) * size)).numpy()
        seen, clock = 0, time.perf_counter()
        with frozen_casts(model):
            for number, batch in enumerate(batches(tokens, rows, size, layout, device)):
                if number == WARM_UP:
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    seen, clock = 0, time.perf_counter()
                with autocast(settings):
                    logits = model(**batch.inputs).logits
                assert batch.labels is not None
                loss_of(logits, batch.labels, config.task.regression, size).backward()
                seen += batch.tokens
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(Rate(precision, seen / (time.perf_counter() - clock)))
    torch.set_num_threads(before)
    return max(rates, key=lambda rate: rate.tokens_per_second)
