"""Methods as configs/method has them: their labels in order, and the fields to count them by."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from transformers import PretrainedConfig, RobertaConfig

TOKENS = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
BASE = RobertaConfig(**TOKENS)
LARGE = RobertaConfig(
    **TOKENS,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
)
SHAPES: dict[str, PretrainedConfig] = {"roberta_base": BASE, "roberta_large": LARGE}


def ordered(configs: Path, records: Iterable[Mapping[str, Any]] = ()) -> tuple[str, ...]:
    """Labels of the methods whose `facts` give them an order, the reference of comparisons first;
    tables and figures have the others after them, by name.

    A record says it of its own method; of those that do not, and of methods without a record, the
    method's file does."""
    said = (made.provenance["config"]["method"] for made in records)
    placed = {
        str(method["label"]): int(method["facts"]["order"])
        for method in (*files(configs).values(), *said)
        if "order" in method.get("facts", {})
    }
    return tuple(sorted(placed, key=lambda label: (placed[label], label)))


@cache
def methods(configs: Path, model: str) -> Mapping[str, Mapping[str, Any]]:
    """Label -> content of every method's file, with the fields that its recipe for the model fills
    in (on MNLI)."""
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        composed = [
            compose("train", [f"method={name}", f"model={model}", "task=mnli"])
            for name in files(configs)
        ]
    sections = [OmegaConf.to_container(cfg.method, resolve=True) for cfg in composed]
    return {section["label"]: section for section in sections}  # type: ignore[call-overload, index]


@cache
def files(configs: Path) -> Mapping[str, DictConfig]:
    """Name -> content of every file of configs/method, in the order of their names."""
    paths = sorted((configs / "method").glob("*.yaml"))
    return {path.stem: OmegaConf.load(path) for path in paths}  # type: ignore[misc]
