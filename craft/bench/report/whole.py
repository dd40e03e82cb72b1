"""The whole report from records: every table, figure and CSV; and what a report in place lacks."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from craft.bench.report.figures import scores as figures
from craft.bench.report.figures import weights
from craft.bench.report.figures.style import Drawn, Looks
from craft.bench.report.figures.weights import Stacks
from craft.bench.report.load import SUITES, Records
from craft.bench.report.method_files import SHAPES, methods, ordered
from craft.bench.report.resampling import Resampled
from craft.bench.report.study.evidence import Study
from craft.bench.report.study.pages import readme_block, what_came_out
from craft.bench.report.study.premise import Premise, premise_figure, premise_table
from craft.bench.report.study.results import pareto, study_tables
from craft.bench.report.tables import published
from craft.bench.report.tables.backbones import encoder_table
from craft.bench.report.tables.cells import (
    cells,
    detail_table,
    intervals,
    records_by_table,
    score_table,
)
from craft.bench.report.tables.comparisons import comparison_table, comparisons
from craft.bench.report.tables.render import Table, csv
from craft.bench.report.tables.reproduction import reproduction_table
from craft.bench.report.tables.search import search_table
from craft.bench.report.tables.sizes import cost_table, parameter_table
from craft.errors import InputError
from craft.files import read_json, write_json, write_text

START, END = "<!-- results:start -->", "<!-- results:end -->"
SCORES, LIST = "scores.csv", "report.json"
PICTURES = (".pdf", ".png")
DIAGRAMS = Path(__file__).with_name("figures")  # Figures 2 and 3 as *.svg: no function of records
DIGITS = 10  # of scores.csv: nothing there is computed


@dataclass(frozen=True)
class Report:
    """What was made of the records; `main` are the tables for the screen, `blocks` what stands
    between the marks of README.md and STUDY.md where there is a study."""

    tables: list[Table]
    drawn: list[Drawn]
    scores: pd.DataFrame
    main: list[Table]
    problems: list[str]
    blocks: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """What `write` writes into its folder, pictures too, apart from this list itself."""
        tables = [f"tables/{name}" for table in self.tables for name in table.files()]
        figures = [f"figures/{name}" for drawn in self.drawn for name in drawn.files()]
        diagrams = [f"figures/{path.name}" for path in DIAGRAMS.glob("*.svg")]
        return sorted([*tables, *figures, *diagrams, SCORES])

    def write(self, folder: Path, pictures: bool = True) -> None:
        """Write tables/, figures/, scores.csv and the list of them; what the list of an earlier
        report names beside them goes, and no other file."""
        for name in sorted(_listed(folder) - set(self.files)):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / LIST, {"files": self.files})
        for table in self.tables:
            table.write(folder / "tables")
        for drawn in self.drawn:
            drawn.save(folder / "figures", pictures)
        for path in DIAGRAMS.glob("*.svg"):
            write_text(folder / "figures" / path.name, path.read_text(encoding="utf-8"))
        write_text(folder / SCORES, csv(self.scores, DIGITS))


def build(
    records: Records,
    published_folder: Path,
    configs: Path,
    models: Sequence[Stacks],
    study: Study | None = None,
    premise: Sequence[Premise] = (),
) -> Report:
    """All that records, published numbers and weights show; a function of them alone."""
    table2 = published.read(published_folder, "table2")
    orders = pd.read_csv(published_folder / "proposition1.csv")
    found, resampled = cells(records.runs), Resampled(records)
    sure = intervals(records.runs, resampled)
    labels = {*methods(configs, "roberta_base"), *records.runs["method"]}
    looks = Looks.of(ordered(configs, records.raw.values()), labels | set(table2["method"]))

    reproduced = [reproduction_table(table2, records, model) for model in SHAPES]
    related = published.related_table(published.read(published_folder, "related"))
    tables = [*reproduced, related, parameter_table(records, orders, configs), cost_table(records)]
    tables.append(encoder_table(records))
    drawn: list[Drawn | None] = [figures.parameters_against_depth(configs, looks)]
    if models:
        drawn += [weights.pca(models), weights.spectra(models)]
    main: dict[str, list[Table]] = {suite: [] for suite in SUITES}
    for suite, model in records_by_table(records):
        scores = score_table(found, suite, model)
        tables += [scores, detail_table(found, suite, model, sure)]
        compared = comparisons(records.runs, resampled, suite, model, records.reference)
        if not compared.empty:
            tables.append(comparison_table(compared, suite, model))
        drawn += [
            figures.score_against_parameters(found, table2, suite, model, looks),
            figures.score_per_task(records, suite, model, looks),
            figures.learning_curves(records, suite, model, looks),
            figures.score_against_ranks(records, suite, model, looks),
        ]
        paper = [t for t in reproduced if t.name == f"table2_{model}"] if suite == "paper" else []
        main[suite] += paper or [scores]
    tables += [search_table(records.searches), unsuccessful_table(records.unsuccessful)]
    shown = next((main[suite] for suite in SUITES if main[suite]), [])
    if premise:
        tables.append(premise_table(premise))
        drawn.append(premise_figure(premise))
    blocks = {}
    if study is not None:
        tables += study_tables(study, reproduced)
        front = pareto(study)
        drawn.append(front)
        shown = [t for t in tables if t.name in ("study_claims", "study_headline")]
        blocks["README.md"] = readme_block(study, tables, front, premise)
        blocks["STUDY.md"] = what_came_out(study, tables)
    return Report(
        tables=tables,
        drawn=[d for d in drawn if d is not None],
        scores=records.scores,
        main=shown,
        problems=[*records.left_out, *resampled.problems, *(study.left_out if study else [])],
        blocks=blocks,
    )


def unsuccessful_table(runs: pd.DataFrame) -> Table:
    """Failed and diverged runs: they are in no score."""
    return Table(
        name="unsuccessful",
        title="Runs that failed or diverged",
        header=["run", "status", "reason"],
        rows=[[r["name"], r["status"], r["error"] or "-"] for _, r in runs.iterrows()],
        data=runs,
        notes=[
            f"{len(runs)} runs; none of them is in another table, their seconds are in the total "
            "cost"
        ],
    )


def page_with(page: Path, block: str) -> str | None:
    """A page with the block between its marks; None without marks, InputError without a pair."""
    text = page.read_text(encoding="utf-8")
    if START not in text and END not in text:
        return None
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise InputError(f"{page.name} must hold {START} and then {END} once each")
    before, rest = text.split(START)
    return f"{before}{START}\n{block}\n{END}{rest.split(END)[1]}"


def differing(report: Report, folder: Path, pages: Sequence[Path] = ()) -> list[str]:
    """The files of a folder, and of some pages, that this report would change, add or remove,
    pictures aside."""
    with tempfile.TemporaryDirectory() as place:
        fresh = Path(place)
        report.write(fresh, pictures=False)
        names = {*report.files, *_listed(folder), LIST}
        changed = [
            name
            for name in sorted(names)
            if not name.endswith(PICTURES) and _text(fresh / name) != _text(folder / name)
        ]
    return [*changed, *(page.name for page, _ in changed_pages(report, pages))]


def changed_pages(report: Report, pages: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The pages whose block is not the report's, and what they should be."""
    for page in pages:
        if page.is_file() and page.name in report.blocks:
            filled = page_with(page, report.blocks[page.name])
            if filled not in (None, page.read_text(encoding="utf-8")):
                yield page, filled


def _listed(folder: Path) -> set[str]:
    """What an earlier report says it wrote into a folder; InputError where that is no such list."""
    if not (folder / LIST).is_file():
        return set()
    content = read_json(folder / LIST)
    names = content.get("files") if isinstance(content, dict) else None
    ours = re.compile(rf"(tables|figures)/[^/]+|{re.escape(SCORES)}")
    if not isinstance(names, list) or not all(ours.fullmatch(str(name)) for name in names):
        raise InputError(
            f"{folder / LIST} is no list of a report's files: move it, or choose another out="
        )
    return set(names)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
