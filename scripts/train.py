"""Train, evaluate or predict: one run, or with -m a sweep.

python scripts/train.py model=roberta_base task=rte method=craft seed=3 train.precision=bf16
python scripts/train.py -m task=rte,mrpc method=craft,lora seed=0,1,2
"""

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from entry import job, start, stopped
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
@job
def main(cfg: DictConfig) -> dict[str, Any] | None:
    command = shlex.join(["python", "scripts/train.py", *sys.argv[1:]])
    return carry_out(cfg, HydraConfig.get().overrides.task, command)


def carry_out(cfg: DictConfig, overrides: Sequence[str], command: str) -> dict[str, Any] | None:
    """What a composed config asks for: a run, whose record it returns, or the use of an adapter.

    `overrides` are what it was composed with, by a Hydra that is still initialized."""
    from craft.bench.settings.resolve import check, donor_line

    config = check(cfg)
    donor = None
    if config.start_from is not None:
        donor = check(hydra.compose("train", donor_line(cfg, overrides)))
    if config.mode != "train":
        from craft.bench.run.predict import evaluate, predict_to_file

        if config.mode == "evaluate":
            print(json.dumps(evaluate(config), indent=2))
        else:
            for path in predict_to_file(config):
                print(path)
        return None
    from craft.bench.run.run import run

    return run(config, command, stopped, say=print, donor=donor)


if __name__ == "__main__":
    start(main)
