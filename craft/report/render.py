"""One table in three forms: Markdown to read, LaTeX (booktabs) to print, CSV to compute with."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from craft.storage import write_text

MISSING = "-"
SYMBOLS = {"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\le$", "√": r"$\surd$"}
SYMBOLS |= {c: f"${c}$" for c in "<>|"}  # other signs in TeX's old text fonts
SYMBOLS |= {"†": r"$\dagger$", "²": r"$^2$", "³": r"$^3$", "–": "--", "α": r"$\alpha$"}
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {c: rf"\{c}" for c in "&%$#_{}"}


@dataclass(frozen=True)
class Table:
    """A table as it is read (`header`, `rows`, `notes`) and the numbers behind it (`data`).

    A row of one cell is a heading over the rows that follow."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        widths = [max(len(r[i]) for r in self._full()) for i in range(len(self.header))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in self._full()
        ]
        rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
        body = [lines[0], rule, *lines[1:]]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"**{self.title}**", "", *body, *([""] if notes else []), *notes]) + "\n"

    def _full(self) -> list[list[str]]:
        def padded(row: list[str]) -> list[str]:
            heading = [f"*{row[0]}*"] if len(row) == 1 else row
            return heading + [""] * (len(self.header) - len(row))

        return [[c.replace("|", r"\|") for c in padded(row)] for row in [self.header, *self.rows]]

    def latex(self) -> str:
        """A floating table that needs `booktabs` and `graphicx` alone."""
        width = len(self.header)
        lines = []
        for row in self.rows:
            if len(row) == 1:
                rule = r"\midrule " if lines else ""
                lines.append(rf"{rule}\multicolumn{{{width}}}{{l}}{{{escape(row[0])}}} \\")
            else:
                lines.append(" & ".join(map(escape, row)) + r" \\")
        notes = [rf"\par {escape(note)}" for note in self.notes]
        return (
            "\n".join(
                [
                    r"% needs \usepackage{booktabs,graphicx}",
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{escape(self.title)}}}",
                    rf"\label{{tab:{self.name}}}",
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                    rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
                    r"\toprule",
                    " & ".join(map(escape, self.header)) + r" \\",
                    r"\midrule",
                    *lines,
                    r"\bottomrule",
                    r"\end{tabular}}",
                    *([r"\footnotesize", *notes] if notes else []),
                    r"\end{table}",
                ]
            )
            + "\n"
        )

    def csv(self) -> str:
        return csv(self.data)

    def write(self, folder: Path) -> None:
        for suffix, text in (("md", self.markdown()), ("tex", self.latex()), ("csv", self.csv())):
            write_text(folder / f"{self.name}.{suffix}", text)


def csv(data: pd.DataFrame, digits: int = 6) -> str:
    """CSV with so many significant digits: the last ones of a sum differ between machines."""
    return data.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    pattern = "|".join(map(re.escape, (*SPECIAL, *SYMBOLS)))
    return re.sub(pattern, lambda found: (SPECIAL | SYMBOLS)[found[0]], text)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent, `-` where there is none."""
    return MISSING if value is None or pd.isna(value) else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference in points with its sign."""
    return MISSING if value is None or pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def span(values: pd.Series, form: str = "{:,.0f}") -> str:
    """One value, or the least and the largest: what differs between the tasks of a row."""
    values = values.dropna()
    if values.empty:
        return MISSING
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low}–{high}"
