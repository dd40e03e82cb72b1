"""Train, evaluate or predict: one run, or with -m a sweep.

    craft train model=roberta_base task=rte method=craft seed=3 train.precision=bf16
    craft train model=roberta_mini data=mini task=rte method=craft logger=none
    craft train -m task=rte,mrpc method=craft,lora seed=0,1,2 hydra/launcher=gpus
    craft train mode=predict adapter=outputs/runs/RUN/best predict.output=FILE.tsv task=rte

The grammar is Hydra's (hydra.cc): group=choice, key=value, +key=value for a new one, -m for all
combinations; --cfg job shows what a command line comes to, --config-dir adds configs of your own.
"""

import shlex
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from craft.bench.cli.parser import Parser
from craft.bench.cli.process import job
from craft.bench.run import signals
from craft.bench.run.record import Record
from craft.bench.run.run import carry_out
from craft.bench.settings.places import CONFIGS, let_configs_name_them
from craft.bench.settings.sections import DECLARED

GROUPS = ("model", "task", "data", "method", "logger", "row", "experiment", "hydra/launcher")


@job
def run(cfg: DictConfig) -> Record | None:
    command = shlex.join(["craft", "train", *sys.argv[1:]])
    return carry_out(cfg, HydraConfig.get().overrides.task, command, signals.stopped)


_of_hydra = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(run)


def main(_: Namespace | None = None) -> None:
    let_configs_name_them()  # for --resolve, which asks no code of ours
    _of_hydra()


def arguments(parser: Parser) -> None:
    """For `--help` and completion alone: it is Hydra that reads the command line."""
    words = parser.add_argument("words", nargs="*", metavar="OVERRIDE", help=SUPPRESS)
    words.completer = lambda prefix, **_: completions(prefix)  # type: ignore[attr-defined]
    parser.epilog = "\n".join(["choices:", *_choices(), "", "settings:", *_settings()])


def choices() -> dict[str, list[str]]:
    """Group -> the names in it."""
    return {
        group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in GROUPS
    }


def completions(prefix: str) -> list[str]:
    group, equals, _ = prefix.partition("=")
    if equals:
        return [f"{group}={name}" for name in choices().get(group, [])]
    return [f"{name}=" for name in (*GROUPS, *_keys())]


def _keys() -> Sequence[str]:
    """Settings that are one value."""
    return [key for key in DECLARED if not any(other.startswith(f"{key}.") for other in DECLARED)]


def _choices() -> list[str]:
    return [f"  {group + '=':18}{' '.join(names)}" for group, names in choices().items()]


def _settings() -> list[str]:
    return [f"  {key + '=':30}{DECLARED[key].help}" for key in _keys() if DECLARED[key].help]
