"""Fetch and compute beforehand what the runs of a sweep need, so that its jobs need no network.

    craft prepare -m experiment=table2_base outputs=STORE     the sweep's command line

Models and GLUE go to the Hugging Face cache, tokens and decompositions to STORE/cache. Jobs are
given it as store=STORE: they only read it, and what it lacks goes to their own outputs.
"""

import sys
from argparse import Namespace
from pathlib import Path

import hydra
from huggingface_hub import constants
from omegaconf import DictConfig

from craft.bench.cli.process import job
from craft.bench.cli.train import arguments as arguments
from craft.bench.model.locate import tokenizer_of
from craft.bench.run.execute import caches, prepare
from craft.bench.run.inputs import Planner
from craft.bench.settings.places import CONFIGS, let_configs_name_them
from craft.bench.settings.resolve import check
from craft.bench.training.loop import Seeds

_planner = Planner()  # the basic launcher composes all runs in this process
_done: set[str] = set()


@job
def run(cfg: DictConfig) -> None:
    config = check(cfg, cuda=True)
    of_data = (config.task.name, config.data, config.selection, config.fold)
    key = f"{config.model} {of_data} {config.train.max_length}"
    method = f"{config.model} {config.method}"
    if {key, method} <= _done:
        return
    inputs = _planner.inputs(config)
    backbone, data = inputs.backbone, inputs.data
    cache = caches(config, data.digest, backbone.tokenizer)
    if key not in _done:
        _done.add(key)
        tokenizer = tokenizer_of(backbone)
        tokens = 0
        for split in data.splits.values():
            tokens += len(cache.encode(split, config.task, tokenizer, config.train.max_length).ids)
        print(f"{config.task.name:6}{tokens:12,} tokens, {backbone.folder}", flush=True)
    if method not in _done:
        _done.add(method)
        model = prepare(config, backbone, Seeds.of(config.seed))
        weights = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(
            f"{config.method.label:24}{weights:12,} weights, {trained:,} of them trained: "
            f"a job needs {(4 * weights + 12 * trained) / 2**30:.1f} GiB of GPU memory "
            "besides its batches",
            flush=True,
        )


_of_hydra = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(run)


def main(_: Namespace | None = None) -> None:
    let_configs_name_them()  # for --resolve, which asks no code of ours
    _of_hydra()
    outputs = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("outputs=")), "outputs")
    print(
        f"jobs need, to read: {Path(outputs).resolve() / 'cache'} (store={outputs}) and "
        f"{constants.HF_HUB_CACHE} (HF_HOME), to write: their own outputs; no network"
    )
