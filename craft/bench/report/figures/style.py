"""One look for all figures, safe for colour-blind readers and grey prints; files that repeat."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from craft.bench.report.tables.render import csv
from craft.files import atomically, write_text

# Okabe and Ito's palette without its yellow, from dark to light; markers and dashes carry the
# same in grey.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
NO_DATE = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawn:
    """A figure and the numbers that it shows."""

    name: str
    figure: Figure
    data: pd.DataFrame

    def files(self) -> list[str]:
        """The names of its files."""
        return [f"{self.name}.{suffix}" for suffix in (*NO_DATE, "csv")]

    def save(self, folder: Path, pictures: bool = True) -> None:
        """Write <name>.pdf, <name>.png and the plotted numbers as <name>.csv."""
        with styled():
            for suffix, metadata in NO_DATE.items() if pictures else ():
                with atomically(folder / f"{self.name}.{suffix}") as temporary:
                    self.figure.savefig(temporary, format=suffix, dpi=160, metadata=metadata)
        write_text(folder / f"{self.name}.csv", csv(self.data, digits=4))


@contextmanager
def styled() -> Iterator[None]:
    """The settings of all figures, whatever the user's own are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # pyright: ignore[reportCallIssue]
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure in inches, outside pyplot's global state."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panels(
    number: int, columns: int, size: Callable[[int, int], tuple[float, float]], **more: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in up to so many columns; `size` is its width and height in
    inches by its lines and columns."""
    columns = min(columns, number)
    lines = math.ceil(number / columns)
    figure = canvas(*size(lines, columns))
    axes = list(figure.subplots(lines, columns, squeeze=False, **more).flat)
    for spare in axes[number:]:
        spare.remove()
    return figure, axes[:number]


def count_axis(axis: Axes, most: float) -> None:
    """A logarithmic axis of counts, the largest of them `most`, with zero at its left edge."""
    axis.set_xscale("symlog", linthresh=1000, linscale=0.4)
    axis.set_xlim(0, 2 * max(most, 1e3))
    highest = math.floor(math.log10(max(most, 1e4)))
    axis.set_xticks([0, *(10.0**n for n in range(3, highest + 1))])
    axis.set_xticks([], minor=True)


@dataclass(frozen=True)
class Looks:
    """Colour, marker and dash of each method by its place, the same in every figure of a report; no
    two of the first seven share a colour, a variant keeps it, the very first is drawn heavy."""

    names: Sequence[str]

    @classmethod
    def of(cls, first: Sequence[str], others: Iterable[str] = ()) -> "Looks":
        return cls([*first, *sorted(set(others) - set(first))])

    @property
    def reference(self) -> str:
        return self.names[0]

    def point(self, name: str, variant: int = 0) -> dict[str, Any]:
        n = self.names.index(name)
        marker = MARKERS[(n + 4 * variant) % len(MARKERS)]
        return {"color": COLOURS[n % len(COLOURS)], "marker": marker}

    def line(self, name: str, variant: int = 0) -> dict[str, Any]:
        dash = DASHES[(self.names.index(name) + variant) % len(DASHES)]
        return self.point(name, variant) | {"linestyle": dash}


def legend_below(
    figure: Figure, axes: Sequence[Axes], columns: int, order: Sequence[str] = ()
) -> None:
    """One legend for all axes, under them, each name once, in as many columns up to `columns` as
    the names leave room for, the figure made higher by its lines; `order` names come first."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = {name: found[name] for name in order if name in found} | found
    inches = 0.55 + 0.06 * max(map(len, found))  # of one entry at 7.5 points
    columns = max(1, min(columns, int(figure.get_figwidth() / inches)))
    lines = math.ceil(len(found) / columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 1))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(columns, len(found)),
    )
