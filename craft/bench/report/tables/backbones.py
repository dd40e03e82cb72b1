"""The encoders behind the tables: what each is called, what it is, and whose weights they are."""

from typing import Any

import pandas as pd

from craft.bench.model.paper import REVISION, VERIFIED
from craft.bench.report.load import TITLES, Records
from craft.bench.report.tables.render import MISSING, Table
from craft.bench.run.identity import KNOWN


def encoder_table(records: Records) -> Table:
    """One row for each encoder of a suite, by the digest of its weights."""
    data = pd.DataFrame(
        _facts(records, str(suite), str(model))
        for suite, model in records.runs[["suite", "model"]].drop_duplicates().to_numpy()
    )
    body = [
        [
            facts["model"],
            TITLES[facts["suite"]],
            facts["model_type"] or MISSING,
            f"{facts['parameters'] / 1e6:.1f}M",
            facts["licence"] or MISSING,
            facts["weights"][:8],
            facts["tokenizer"][:8] or MISSING,
            _held_against(facts),
        ]
        for facts in data.to_dict("records")
    ]
    return Table(
        name="encoders",
        title="Encoders",
        header=["encoder", "suite", "type", "parameters", "licence", "weights", "tokenizer"]
        + ["the paper's by"],
        rows=body,
        data=data,
        notes=[
            "parameters: of the backbone, without heads; weights, tokenizer: how the digests of "
            "their files start",
            "the paper's by: what the weights of a published encoder were held against; -: none of "
            "the paper's",
            "licence: as the encoder's card states it; -: unknown",
        ],
    )


def _held_against(facts: dict[str, Any]) -> str:
    """What the weights of a published encoder were held against."""
    words = VERIFIED.get(facts["verified"], MISSING)
    return f"{words} {facts['revision'][:8]}" if facts["verified"] == REVISION else words


def _facts(records: Records, suite: str, model: str) -> dict[str, Any]:
    runs = records.runs
    chosen = runs[(runs["suite"] == suite) & (runs["model"] == model)]
    made = records.raw[str(chosen.index[0])]
    said = made.provenance["model"]
    known = KNOWN.get(said["digest"])
    facts = (known._asdict() if known else {}) | said
    return {
        "suite": suite,
        "model": model,
        "model_type": facts.get("model_type") or "",
        "parameters": int(chosen["parameters_backbone"].max()),
        "revision": facts.get("revision") or "",
        "verified": facts.get("verified") or "",
        "licence": facts.get("licence") or "",
        "weights": said["digest"],
        "tokenizer": facts.get("tokenizer") or "",
    }
