"""Tables, figures and CSV from run records.

craft report                           in a checkout: results/runs, results/study -> results/
                                       and the blocks of README.md and results/STUDY.md
craft report records=outputs/runs      -> outputs/report
craft report records=a,b out=FOLDER models=ENCODER,FacebookAI/roberta-base
craft report --check                   fail where results/ is not what its records say
"""

import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from craft.bench.cli.parser import Parser
from craft.bench.model.locate import locate
from craft.bench.report.figures.weights import Stacks, read_stacks
from craft.bench.report.load import load
from craft.bench.report.study.evidence import Study, frozen_commits
from craft.bench.report.study.plan import Plan
from craft.bench.report.study.premise import read as read_premise
from craft.bench.report.tables.render import Table
from craft.bench.report.whole import build, changed_pages, differing
from craft.bench.settings.places import CONFIGS, MINI_MODEL, PUBLISHED, ROOT
from craft.bench.settings.sections import Model
from craft.errors import InputError
from craft.files import write_text


def arguments(parser: Parser) -> None:
    parser.setting("records", help="folders of records", metavar="FOLDER,...")
    parser.setting("out", help="where the report goes", metavar="FOLDER")
    parser.setting(
        "models", help="encoders whose weights are looked at; else the embedded one",
        metavar="FOLDER|NAME,...",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="write nothing, compare")


def main(given: Namespace) -> None:
    results = ROOT / "results"
    folders = [Path(folder) for folder in (given.records or "").split(",") if folder]
    if not folders and not (results / "runs").is_dir():
        raise InputError("records: outside a checkout there are none; give records=FOLDER")
    out = Path(given.out or (Path("outputs") / "report" if folders else results))
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"records: there is no folder {folder}")
    searches = [] if folders else [results / "search" / "runs"]
    unrecorded = None if folders else results / "search" / "unrecorded.json"
    records = load(folders or [results / "runs"], CONFIGS, searches, unrecorded)
    study, premise = None, []
    if not folders:
        commits = frozen_commits(results / "STUDY.md")
        study = Study.read(results / "study", Plan.read(CONFIGS / "study.yaml"), commits)
        premise = read_premise(results / "study" / "premise.json")
    report = build(records, PUBLISHED, CONFIGS, _stacks(given.models), study, premise)
    for problem in report.problems:
        print(f"warning: left out: {problem}", file=sys.stderr)
    pages = [ROOT / "README.md", results / "STUDY.md"] if out.resolve() == results else []
    if given.check:
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


def _stacks(models: str | None) -> list[Stacks]:
    """Weights for PCA and spectra: folders or hub names; else the mini RoBERTa's, if there."""
    if models is None:
        there = (MINI_MODEL / "model.safetensors").is_file()
        return [read_stacks(MINI_MODEL, "roberta-mini")] if there else []
    found = []
    for model in filter(None, models.split(",")):
        path = Path(model) if Path(model).is_dir() else None
        backbone = locate(Model(path=path, repository=model))
        found.append(read_stacks(backbone.folder, Path(model).name))
    return found


def _show(table: Table) -> None:
    """A table on the screen; in a window too narrow for it, block after block of columns."""
    console = Console(width=None if sys.stdout.isatty() else 500)
    rows = [row + [""] * (len(table.header) - len(row)) for row in table.rows]
    widths = [max(map(len, column)) + 3 for column in zip(table.header, *rows, strict=True)]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if sum(widths[c] for c in (0, *blocks[-1], column)) > console.width and blocks[-1]:
            blocks.append([])
        blocks[-1].append(column)
    for block in blocks:
        shown = Shown(title=table.title, title_justify="left")
        for column in (0, *block):
            shown.add_column(table.header[column], justify="right" if column else "left")
        for row in rows:
            shown.add_row(*(row[column] for column in (0, *block)))
        console.print(shown)
    for note in table.notes:
        console.print(f"- {note}", highlight=False)
