"""What methods train and cost: closed forms beside counts; hours, memory and bytes."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

from pathlib import Path

import pandas as pd

from craft.bench.model.counts import expected_parameters
from craft.bench.report.load import TITLES, Records
from craft.bench.report.method_files import SHAPES, methods
from craft.bench.report.tables.cells import Row
from craft.bench.report.tables.render import MISSING, Table, number, span
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Method


def parameter_table(records: Records, orders: pd.DataFrame, configs: Path) -> Table:
    """Proposition 1 with numbers: each method's closed form at base and large, and runs' counts."""
    runs = records.runs[records.runs["settings"] == ""]
    others = [m for m in dict.fromkeys(runs["model"]) if m not in SHAPES]
    by_model = {model: methods(configs, model) for model in SHAPES}
    order = orders.set_index("method")["order"]
    body, data = [], []
    for label, chosen in by_model["roberta_base"].items():
        facts = {"method": label, "closed_form": chosen["facts"]["parameters"]}
        facts["order"] = order.get(label, "")
        line = [label, facts["closed_form"], facts["order"] or MISSING]
        for model in (*SHAPES, *others):
            counted = runs[(runs["model"] == model) & (runs["method"] == label)]
            counted = counted["parameters_adapter"].drop_duplicates()
            if model in SHAPES:
                expected = expected_parameters(
                    read(Method, by_model[model][label], label), SHAPES[model]
                )
                facts[f"{model}_closed"] = expected
                line.append(f"{expected:,}")
            facts[f"{model}_measured"] = " ".join(map(str, counted))
            line.append(span(counted))
        body.append(line)
        data.append(facts)
    header = ["method", "closed form", "order (paper)"]
    for model in (*SHAPES, *others):
        header += [model, "counted"] if model in SHAPES else [f"{model} counted"]
    return Table(
        name="parameters",
        title="Trained parameters besides the head (Proposition 1 of arXiv 2602.17510v1)",
        header=header,
        rows=body,
        data=pd.DataFrame(data),
        notes=[
            "closed form: L layers, d width, n adapted projections a layer, r ranks (r1 clipped "
            "to the depth), f "
            "feed-forward width, V vocabulary, P positions, T token types; the same formulas that "
            "the tests check",
            "counted: in the records of runs with the method's default settings; -: no record, or "
            "not in the paper",
            *[
                f"{label}: the paper counts it with "
                + ", ".join(f"{k}={v}" for k, v in chosen["facts"]["paper_counts"].items())
                for label, chosen in by_model["roberta_base"].items()
                if "paper_counts" in chosen["facts"]
            ],
        ],
    )


def cost_table(records: Records) -> Table:
    """Memory, file size and hours of every row, by the hardware that it ran on.

    No speed: a record does not say what else its machine did, and epochs of one run differ by more
    than methods do."""
    runs = records.runs.assign(adapter_kilobytes=records.runs["adapter_bytes"] / 1000)
    key = ["suite", "model", "hardware", "precision", "method", "settings"]
    measures = {
        "peak_host_megabytes": "max",
        "peak_gpu_megabytes": "max",
        "adapter_kilobytes": "median",
        "seconds": "sum",
    }
    grouped = runs.groupby(key, sort=False)
    numbers = runs[[*key, *measures]].astype(dict.fromkeys(measures, "float64"))
    data = numbers.groupby(key, sort=False).agg(measures).reset_index()
    data.insert(len(key), "runs", grouped.size().to_numpy())
    data.insert(len(key) + 1, "tasks", grouped["task"].nunique().to_numpy())
    searches = runs.drop_duplicates([*key, "task"]).groupby(key, sort=False)["search_seconds"]
    data["search_seconds"] = searches.sum().to_numpy(dtype="float64")
    body = []
    for (suite, model, hardware, precision), chosen in data.groupby(key[:4], sort=False):
        body.append([f"{TITLES[suite]}, {model}, {hardware}, {precision}"])
        body += [_cost_line(row) for _, row in chosen.iterrows()]
    lost, sought = records.unsuccessful["seconds"].sum(), records.searches["seconds"].sum()
    total = (records.runs["seconds"].sum() + lost + sought) / 3600
    return Table(
        name="cost",
        title="Cost per method",
        header=["method", "runs", "tasks", "host MB", "GPU MB", "file kB", "hours", "with search"],
        rows=body,
        data=data,
        notes=[
            "memory: the largest over runs, what a process keeps of its earlier runs included; "
            "file: adapter with head",
            "hours: for which all attempts at the row's runs have held a machine, whatever else "
            "it did: no speed of a method, which `make speed` measures side by side "
            "(results/speed); with search: and those at the runs that searched the row's settings",
            f"all runs together: {total:,.2f} hours on these machines, {lost / 3600:,.2f} of them "
            f"in runs that failed and {sought / 3600:,.2f} in searches",
        ],
    )


def _cost_line(row: pd.Series) -> list[str]:
    return [
        Row(row["method"], row["settings"], "", {}).name,
        str(row["runs"]),
        str(row["tasks"]),
        number(row["peak_host_megabytes"]),
        number(row["peak_gpu_megabytes"]),
        number(row["adapter_kilobytes"]),
        f"{row['seconds'] / 3600:,.2f}",
        f"{(row['seconds'] + row['search_seconds']) / 3600:,.2f}",
    ]
