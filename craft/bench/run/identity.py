"""What makes a run this run."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from craft.bench.model.trusted import peft_config_class
from craft.bench.settings.declared import Effect, flatten
from craft.bench.settings.sections import declaration

PROTOCOL = 2  # raised by hand when code changes what the same config results in


class Known(NamedTuple):
    """What a record of these weights does not say where it is of before records did: the encoder's
    facts, and the digest of the tokenizer beside it, with which such a run keeps its id."""

    name: str
    licence: str
    model_type: str
    tokenizer: str


KNOWN = {
    "0112bc207fae74c4a725ab86ae50993c6348950d45238cc55ee52da7a20c9f91": Known(
        "roberta_mini",
        "cc-by-sa-3.0",
        "roberta",
        "2ef7c799d5295dfb0ce0b3e242545ffad2e14515c408c2621baecfe2fb8bfb6e",
    ),
    "16692479805225862faaf216eb7cdf58a2179a73c784cc6d4ea59f22a7436131": Known(
        "all-MiniLM-L6-v2",
        "apache-2.0",
        "bert",
        "6e165478604a3102a258b0812cbcfe05f46dfbd2bdaa38749b7e4c0a72ab44fc",
    ),
}


def identity(
    config: Mapping[str, Any], model_digest: str, data_digest: str, tokenizer_digest: str
) -> dict[str, Any]:
    """What makes this run this run, as a flat dictionary: settings that change something and are
    not neutral, and digests of weights, data and tokenizer.

    `config` is plain, as a record holds it."""
    kept: dict[str, Any] = {
        "protocol": PROTOCOL,
        "model.digest": model_digest,
        "data.digest": data_digest,
    }
    known = KNOWN.get(model_digest)
    if known is None or known.tokenizer != tokenizer_digest:
        kept["tokenizer.digest"] = tokenizer_digest
    for key, value in flatten({k: v for k, v in config.items() if k != "method"}):
        found = declaration(key)
        if found.effect is not Effect.NOTHING and value != found.neutral:
            kept[key] = value
    if config["method"].get("train_backbone"):
        kept["method.train_backbone"] = True
    kept["method.peft"] = _without_defaults(config["method"]["peft"])
    return kept


def _without_defaults(peft: Mapping[str, Any]) -> dict[str, Any]:
    """A method's fields, those at the default of its PeftConfig class left out."""
    defaults = {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(peft_config_class(peft))
    }

    def plain(value: Any) -> Any:
        return (
            sorted(value)
            if isinstance(value, set)
            else list(value)
            if isinstance(value, tuple)
            else value
        )

    return {
        k: v for k, v in peft.items() if k == "_target_" or plain(defaults.get(k, MISSING)) != v
    }
