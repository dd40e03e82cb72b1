"""One table in three forms: Markdown to read, LaTeX (booktabs) to print, CSV to compute with."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from craft.files import write_text

MISSING = "-"
PAGE = 32  # rows of a LaTeX table, with its notes
NO_RECORD = "-: no record; there is no mean where one is missing"
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
        """Floating tables that need `booktabs` and `graphicx` alone, as many as fit the rows."""
        width = len(self.header)
        lines = [
            rf"\multicolumn{{{width}}}{{l}}{{{escape(row[0])}}} \\"
            if len(row) == 1
            else " & ".join(map(escape, row)) + r" \\"
            for row in self.rows
        ]
        parts = [lines[i : i + PAGE] for i in range(0, len(lines), PAGE)] or [[]]
        text = [r"% needs \usepackage{booktabs,graphicx}"]
        for number, part in enumerate(parts, start=1):
            several = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            label = self.name if number == 1 else f"{self.name}-{number}"
            text += [r"\begin{table}", r"\centering"]
            text += [rf"\caption{{{escape(self.title + several)}}}", rf"\label{{tab:{label}}}"]
            text += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
            text += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
            text += [" & ".join(map(escape, self.header)) + r" \\", r"\midrule"]
            text += [_ruled(part, line) for line in range(len(part))]
            text += [r"\bottomrule", r"\end{tabular}}"]
            if number == len(parts) and self.notes:
                text += [r"\footnotesize", *(rf"\par {escape(note)}" for note in self.notes)]
            text += [r"\end{table}"]
        return "\n".join(text) + "\n"

    def csv(self) -> str:
        return csv(self.data)

    def files(self) -> dict[str, str]:
        """The names and contents of its files."""
        forms = {"md": self.markdown(), "tex": self.latex(), "csv": self.csv()}
        return {f"{self.name}.{suffix}": text for suffix, text in forms.items()}

    def write(self, folder: Path) -> None:
        for name, text in self.files().items():
            write_text(folder / name, text)


def _ruled(lines: list[str], line: int) -> str:
    """A line of a table, with a rule above a heading that is not the first."""
    heading = line > 0 and lines[line].startswith(r"\multicolumn")
    return (r"\midrule " if heading else "") + lines[line]


def csv(data: pd.DataFrame, digits: int = 6) -> str:
    """CSV with so many significant digits: the last ones of a sum differ between machines."""
    return data.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    pattern = "|".join(map(re.escape, (*SPECIAL, *SYMBOLS)))
    return re.sub(pattern, lambda found: (SPECIAL | SYMBOLS)[found[0]], text)


def number(value: float | None, form: str = "{:,.0f}") -> str:
    """A number in some form, `-` where there is none."""
    return MISSING if value is None or pd.isna(value) else form.format(value)


def percent(value: float | None) -> str:
    """A fraction as per cent, `-` where there is none."""
    return number(None if value is None else 100 * value, "{:.1f}")


def signed(value: float | None) -> str:
    """A difference in points with its sign, `-` where there is none."""
    return MISSING if value is None or pd.isna(value) else f"{value:+.1f}".replace("-", "−")


def between(low: float, high: float, form: Callable[[float], str] = signed) -> str:
    """An interval, `-` where it has no bounds."""
    return f"{form(low)} to {form(high)}" if math.isfinite(low) and math.isfinite(high) else MISSING


def p_text(p: float) -> str:
    """A p to three digits, `-` where no test was possible."""
    return MISSING if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def span(values: pd.Series, form: str = "{:,.0f}") -> str:
    """One value, or the least and the largest: what differs between the tasks of a row."""
    values = values.dropna()
    if values.empty:
        return MISSING
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low}–{high}"
