"""Train, evaluate or predict: one run, or with -m a sweep.

python scripts/train.py model=roberta_base task=rte method=craft seed=3 train.precision=bf16
python scripts/train.py -m task=rte,mrpc method=craft,lora seed=0,1,2
"""

import shlex
import sys

import hydra
from entry import start, stopped
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from craft.config import check

    config = check(cfg)
    command = shlex.join(["python", "scripts/train.py", *sys.argv[1:]])

    from craft.run import run

    made = run(config, command, stopped, say=print)
    score = (made["result"] or {}).get("score") or {}
    return score["best"][score["headline"]] if score.get("best") else None


if __name__ == "__main__":
    start(main)
