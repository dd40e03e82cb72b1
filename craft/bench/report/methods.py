"""Methods as configs/method has them: their labels in order, and the fields to count them by."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
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
    files = (OmegaConf.load(path) for path in (configs / "method").glob("*.yaml"))
    said = (made["provenance"]["config"]["method"] for made in records)
    placed = {
        str(method["label"]): int(method["facts"]["order"])
        for method in (*files, *said)
        if "order" in method.get("facts", {})
    }
    return tuple(sorted(placed, key=lambda label: (placed[label], label)))


def methods(configs: Path, model: str) -> list[dict[str, Any]]:
    """Every method's file, with the fields that its recipe for the model fills in (on MNLI)."""
    return [
        _filled_in(configs, path, model) for path in sorted((configs / "method").glob("*.yaml"))
    ]


def _filled_in(configs: Path, path: Path, model: str) -> dict[str, Any]:
    recipe = OmegaConf.load(configs / "recipe" / path.stem / f"{model}.yaml")
    row = OmegaConf.merge(recipe.get("_all") or {}, recipe.get("mnli") or {})
    names = {"task": {"name": "mnli"}, "recipe": {"mnli": row}}
    whole = OmegaConf.merge(names, {"method": OmegaConf.load(path)})
    return OmegaConf.to_container(whole["method"], resolve=True)  # type: ignore[return-value]
