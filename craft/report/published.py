"""Published scores from results/published/*.csv, the one place where a paper's numbers stand."""

from pathlib import Path

import pandas as pd

from craft.errors import InputError

EIGHT = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
SIX = ("sst2", "mrpc", "cola", "qnli", "rte", "stsb")  # of papers after VeRA
MODELS = {"roberta-base": "roberta_base", "roberta-large": "roberta_large"}


def read(folder: Path, name: str) -> pd.DataFrame:
    """One published table, indexed by `id`, scores in per cent; `table2` or `related`."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(p.stem for p in sorted(folder.glob("*.csv"))) or "none"
        raise InputError(f"published table {name!r} is not in {folder}; there are: {known}")
    text = ("method", "mark", "start", "source", "provenance", "note")
    table = pd.read_csv(path, dtype={"id": str})
    table = table.assign(**{c: table[c].fillna("") for c in text if c in table})
    if doubled := table["id"][table["id"].duplicated()].tolist():
        raise InputError(f"{path}: {doubled[0]} stands there twice")
    return table.assign(model=table["backbone"].map(MODELS)).set_index("id", drop=False)
