"""Fetch and compute beforehand what the runs of a sweep need, so that its jobs need no network.

python scripts/prepare.py -m experiment=table2_base outputs=STORE     the sweep's command line

Models and GLUE go to the Hugging Face cache, tokens and decompositions to STORE/cache. Jobs are
given it as store=STORE: they only read it, and what it lacks goes to their own outputs.
"""

import sys
from pathlib import Path

import hydra
from entry import job, start
from omegaconf import DictConfig

_done: set[str] = set()  # the basic launcher composes all runs in this process


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
@job
def main(cfg: DictConfig) -> None:
    from craft.bench.glue.splits import data_of
    from craft.bench.model.locate import locate, tokenizer_of
    from craft.bench.run.execute import caches, prepare
    from craft.bench.settings.resolve import check
    from craft.bench.training.loop import Seeds

    config = check(cfg, cuda=True)
    of_data = (config.task.name, config.data, config.selection, config.fold)
    key = f"{config.model} {of_data} {config.train.max_length}"
    method = f"{config.model} {config.method['peft']} {config.method.get('train_backbone')}"
    if {key, method} <= _done:
        return
    backbone = locate(config.model)
    data = data_of(config)
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
            f"{config.method['label']:24}{weights:12,} weights, {trained:,} of them trained: "
            f"a job needs {(4 * weights + 12 * trained) / 2**30:.1f} GiB of GPU memory "
            "besides its batches",
            flush=True,
        )


def say_what_jobs_need() -> None:
    from huggingface_hub import constants

    outputs = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("outputs=")), "outputs")
    print(
        f"jobs need, to read: {Path(outputs).resolve() / 'cache'} (store={outputs}) and "
        f"{constants.HF_HUB_CACHE} (HF_HOME), to write: their own outputs; no network"
    )


if __name__ == "__main__":
    start(main)
    say_what_jobs_need()
