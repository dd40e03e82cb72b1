"""Tables, figures and CSV from run records.

python scripts/report.py                           results/runs, results/study -> results/ and
                                                   the blocks of README.md and results/STUDY.md
python scripts/report.py records=outputs/runs      -> outputs/report
python scripts/report.py records=a,b out=FOLDER models=ENCODER,FacebookAI/roberta-base
python scripts/report.py --check                   fail where results/ is not what its records say
"""

import sys
from pathlib import Path

from entry import start

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("records", "out", "models")


def main() -> None:
    from craft.bench.report.load import load
    from craft.bench.report.study.evidence import Study, frozen_commits
    from craft.bench.report.study.plan import Plan
    from craft.bench.report.study.premise import read as read_premise
    from craft.bench.report.whole import build, changed_pages, differing
    from craft.errors import InputError
    from craft.files import write_text

    options = {}
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        options[key] = value
    if odd := [key for key in options if key not in (*KEYS, "--check")]:
        raise InputError(f"{odd[0]!r} is not one of {', '.join(f'{k}=...' for k in KEYS)}, --check")
    results = ROOT / "results"
    given = [Path(folder) for folder in options.get("records", "").split(",") if folder]
    out = Path(options.get("out") or (ROOT / "outputs" / "report" if given else results))
    for folder in given:
        if not folder.is_dir():
            raise InputError(f"records: there is no folder {folder}")
    searches = [] if given else [results / "search" / "runs"]
    unrecorded = None if given else results / "search" / "unrecorded.json"
    records = load(given or [results / "runs"], ROOT / "configs", searches, unrecorded)
    models = _stacks(options.get("models"))
    study, premise = None, []
    if not given:
        commits = frozen_commits(results / "STUDY.md")
        study = Study.read(results / "study", Plan.read(ROOT / "configs" / "study.yaml"), commits)
        premise = read_premise(results / "study" / "premise.json")
    report = build(records, results / "published", ROOT / "configs", models, study, premise)
    for problem in report.problems:
        print(f"warning: left out: {problem}", file=sys.stderr)
    pages = [ROOT / "README.md", results / "STUDY.md"] if out.resolve() == results else []
    if "--check" in options:
        if records.empty and not (out / "tables").is_dir():
            print(f"there are no records and no report in {out}: nothing to check")
            return
        if changed := differing(report, out, pages):
            print(f"{out} is not what its records say:", *changed, sep="\n  ", file=sys.stderr)
            sys.exit(1)
        print(f"{out} is what its {len(records.runs)} records say")
        return
    report.write(out)
    for page, filled in [*changed_pages(report, pages)]:
        write_text(page, filled)
    for table in report.main:
        _show(table)
    print(
        f"{len(records.runs)} runs, {len(records.unsuccessful)} failed or diverged, "
        f"{len(report.problems)} left out: {len(report.tables)} tables and {len(report.drawn)} "
        f"figures in {out}"
    )


def _stacks(models: str | None) -> list:
    """Weights for PCA and spectra: folders or hub names; else the mini RoBERTa's, if there."""
    from craft.bench.model.locate import locate
    from craft.bench.report.figures.weights import read_stacks

    mini = ROOT / "results" / "models" / "roberta-mini"
    if models is None:
        return [read_stacks(mini, mini.name)] if (mini / "model.safetensors").is_file() else []
    found = []
    for model in filter(None, models.split(",")):
        path = model if Path(model).is_dir() else None
        backbone = locate({"path": path, "repository": model, "revision": None})
        found.append(read_stacks(backbone.folder, Path(model).name))
    return found


def _show(table) -> None:
    """A table on the screen; in a window too narrow for it, block after block of columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 500)
    rows = [row + [""] * (len(table.header) - len(row)) for row in table.rows]
    widths = [max(map(len, column)) + 3 for column in zip(table.header, *rows, strict=True)]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if sum(widths[c] for c in (0, *blocks[-1], column)) > console.width and blocks[-1]:
            blocks.append([])
        blocks[-1].append(column)
    for block in blocks:
        shown = Table(title=table.title, title_justify="left")
        for column in (0, *block):
            shown.add_column(table.header[column], justify="right" if column else "left")
        for row in rows:
            shown.add_row(*(row[column] for column in (0, *block)))
        console.print(shown)
    for note in table.notes:
        console.print(f"- {note}", highlight=False)


if __name__ == "__main__":
    start(main)
