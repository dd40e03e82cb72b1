"""Published scores from results/published/*.csv, the one place where a paper's numbers stand."""

from pathlib import Path

import pandas as pd

from craft.bench.report.tables.cells import NAMES
from craft.bench.report.tables.render import Table, number
from craft.errors import InputError

EIGHT = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
SIX = ("sst2", "mrpc", "cola", "qnli", "rte", "stsb")  # of papers after VeRA
MODELS = {"roberta-base": "roberta_base", "roberta-large": "roberta_large"}


def related_table(related: pd.DataFrame) -> Table:
    """What other papers and repositories report for RoBERTa, with the source of each row."""
    body = [
        [f"{row['method']} ({row['backbone']})", number(row["parameters"])]
        + [number(row[task], "{:.1f}") for task in (*EIGHT, "avg")]
        + [f"{row['source']} ({row['provenance']})"]
        for _, row in related.iterrows()
    ]
    return Table(
        name="related",
        title="Published GLUE dev scores of related methods",
        header=["method", "parameters", *(NAMES[t] for t in EIGHT), "average", "source"],
        rows=body,
        data=related.drop(columns="model"),
        notes=[
            "average: as its source gives it, of six tasks (SST-2, MRPC, CoLA, QNLI, RTE, STS-B) "
            "for "
            "RoBERTa and of all eight for DeBERTa; never to be compared with the mean of eight in "
            "Table 2",
            "V: read in the source that is named; S: taken from a secondary source",
            "protocols differ: starts, selection and seeds are in the column `note` of the CSV",
        ],
    )


def read(folder: Path, name: str) -> pd.DataFrame:
    """One published table, indexed by `id`, scores in per cent; `table2` or `related`."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(p.stem for p in sorted(folder.glob("*.csv"))) or "none"
        raise InputError(f"published table {name!r} is not in {folder}; there are: {known}")
    text = ("method", "mark", "mnli_metric", "start", "source", "provenance", "note")
    table = pd.read_csv(path, dtype={"id": str})
    table = table.assign(**{c: table[c].fillna("") for c in text if c in table})
    if doubled := table["id"][table["id"].duplicated()].tolist():
        raise InputError(f"{path}: {doubled[0]} stands there twice")
    return table.assign(model=table["backbone"].map(MODELS)).set_index("id", drop=False)
