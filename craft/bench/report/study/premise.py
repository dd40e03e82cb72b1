"""CRAFT's premise in the weights alone, without training: what layers of an encoder share.

A truncated Tucker decomposition across layers keeps more than chance where layers have directions
in common. Beside what HOSVD keeps stand two controls: the same with the rows and the columns of
every layer permuted at random, which leaves each layer's own spectrum and nothing in common, and
random factors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import NullFormatter
from torch import Tensor

from craft.bench.report.figures.style import COLOURS, DASHES, Drawn, canvas, legend_below, styled
from craft.bench.report.figures.weights import MODES, RANKS, Stacks
from craft.bench.report.tables.render import MISSING, Table, percent
from craft.errors import InputError
from craft.files import read_json, write_json
from craft.tucker import Rank, decompose, gram_matrices

ADAPTED = ("query", "value")  # by default
DRAWS = 5  # of the permuted and of the random, whose mean is told
ALIKE = 0.3  # a cosine between layers far above any of two trained apart
DIGITS = 6  # significant ones of what is written: the last of a sum differ between machines
KEPT = {"hosvd": "HOSVD", "permuted": "layers\npermuted", "random": "random\nfactors"}


@dataclass(frozen=True)
class Premise:
    """Of one projection over the layers: energies as shares of ||W||^2, spectra of W_(n) W_(n)^T.

    `edges` are the largest eigenvalues, as shares, of noise of the same shape and energy (the edge
    of Marchenko and Pastur 1967)."""

    model: str
    projection: str
    ranks: tuple[int, int, int]
    kept: dict[str, float]
    cosine: float | None  # the largest absolute one between two layers; None for one layer
    spectra: tuple[np.ndarray, np.ndarray, np.ndarray]
    edges: tuple[float, float, float]

    def above(self, mode: int) -> int:
        """How many eigenvalues of a mode (1, 2 or 3) lie above the edge."""
        return int((self.spectra[mode - 1] > self.edges[mode - 1]).sum())

    def energy_above(self, mode: int) -> float:
        """The share of energy that they hold."""
        return float(self.spectra[mode - 1][: self.above(mode)].sum())


def premise(model: Stacks, projection: str, ranks: Sequence[Rank] = RANKS) -> Premise:
    """Measure one projection; ranks are clipped to (N, d_out, d_in)."""
    slices = model.matrices[projection]
    shape = (len(slices), *slices[0].shape)
    wanted = [min(r, n) if isinstance(r, int) else r for r, n in zip(ranks, shape, strict=True)]
    energy = sum(float(w.double().square().sum()) for w in slices)
    hosvd = decompose(slices, wanted, name=projection)
    made = {
        "hosvd": [hosvd],
        "permuted": [decompose(permuted(slices, n), hosvd.ranks) for n in range(DRAWS)],
        "random": [decompose(slices, hosvd.ranks, "random", n, projection) for n in range(DRAWS)],
    }
    kept = {
        which: float(np.mean([float(one.core.square().sum()) for one in draws])) / energy
        for which, draws in made.items()
    }
    grams = gram_matrices(slices)
    spectra = [torch.linalg.eigvalsh(g).flip(0).clamp_min(0).numpy() / energy for g in grams]
    return Premise(
        model.name,
        projection,
        hosvd.ranks,
        kept,
        largest_cosine(grams[0]),
        (spectra[0], spectra[1], spectra[2]),
        (edge(shape, 0), edge(shape, 1), edge(shape, 2)),
    )


def permuted(slices: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Each matrix with its rows and columns in a random order of its own."""
    dice = np.random.default_rng(seed)
    return [w[dice.permutation(w.shape[0])][:, dice.permutation(w.shape[1])] for w in slices]


def largest_cosine(layers: Tensor) -> float | None:
    """max |<W_i, W_j>| / (||W_i|| ||W_j||) over i != j, from the layers' Gram matrix."""
    if len(layers) == 1:
        return None
    norms = layers.diagonal().sqrt()
    return float((layers / torch.outer(norms, norms)).fill_diagonal_(0).abs().max())


def edge(shape: Sequence[int], mode: int) -> float:
    """The largest eigenvalue of W_(n) W_(n)^T over their sum where W is white noise.

    Of an m x c unfolding with entries of variance s^2 it is s^2 (sqrt(m) + sqrt(c))^2, the sum
    s^2 m c: together (1 + sqrt(m / c))^2 / m, for large m and c."""
    m, c = shape[mode], math.prod(shape) // shape[mode]
    return (1 + math.sqrt(m / c)) ** 2 / m


def measured(
    models: Sequence[Stacks],
    ranks: Sequence[Rank] = RANKS,
    projections: Sequence[str] = ADAPTED,
) -> list[Premise]:
    return [premise(model, projection, ranks) for model in models for projection in projections]


def write(path: Path, found: Sequence[Premise]) -> None:
    """What was measured as JSON, so that a report needs no encoder at hand."""
    write_json(path, {"premise": [_rounded(asdict(one)) for one in found]})


def read(path: Path) -> list[Premise]:
    """What `write` wrote; none where there is no file, InputError where it is another's."""
    if not path.is_file():
        return []
    try:
        return [_premise_of(plain) for plain in read_json(path)["premise"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not what scripts/premise.py writes ({error})") from error


def _premise_of(plain: Mapping[str, Any]) -> Premise:
    spectra = [np.array(values, dtype=np.float64) for values in plain["spectra"]]
    ranks, edges = (tuple(plain[key]) for key in ("ranks", "edges"))
    return Premise(**{**plain, "ranks": ranks, "edges": edges, "spectra": tuple(spectra)})  # type: ignore[arg-type]


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def premise_table(found: Sequence[Premise]) -> Table:
    """A row for each projection of each model."""
    rows, data = [], []
    for one in found:
        layers = one.spectra[0]
        rows.append(
            [one.model, one.projection, f"({', '.join(map(str, one.ranks))})"]
            + [percent(one.kept[name]) for name in KEPT]
            + [MISSING if one.cosine is None else f"{one.cosine:.3f}"]
            + [f"{layers[0]:.3f}–{layers[-1]:.3f}", f"{1 / len(layers):.3f}"]
            + [f"{one.above(m)} ({percent(one.energy_above(m))})" for m in (1, 2, 3)]
        )
        facts = {"model": one.model, "projection": one.projection}
        facts |= {f"r{n}": rank for n, rank in enumerate(one.ranks, 1)}
        facts |= {f"kept_{name}": share for name, share in one.kept.items()}
        facts |= {"largest_cosine": one.cosine}
        facts |= {"layer_largest": layers[0], "layer_smallest": layers[-1]}
        for m in (1, 2, 3):
            facts |= {
                f"above_edge_{m}": one.above(m),
                f"energy_above_edge_{m}": one.energy_above(m),
            }
        data.append(facts)
    notes = [
        "kept, permuted, random: share of the energy ||W||² that HOSVD keeps at the ranks; the "
        "same with the rows and columns of each layer permuted at random, so that layers have "
        "nothing in common; random orthonormal factors. In per cent, the last two a mean of "
        f"{DRAWS} draws",
        "cosine: the largest absolute one between two layers; layer mode: the largest and the "
        "smallest share of energy in its spectrum, beside the flat one. Of orthogonal layers it is "
        "the energy of each layer, whatever they share",
        "above the edge: directions of the unfolding with more energy than noise of its shape has "
        "at most (Marchenko and Pastur 1967), and what they hold in per cent",
    ]
    notes += [
        f"{one.model}, {one.projection}: two layers have a cosine of {one.cosine:.2f}. Layers that "
        "were copied, or share weights, say nothing about what pre-training makes them share"
        for one in found
        if one.cosine is not None and one.cosine > ALIKE
    ]
    header = ["model", "projection", "ranks", "kept", "permuted", "random", "cosine"]
    header += ["layer mode", "flat", *(f"above the edge: {mode}" for mode in MODES)]
    title = "What layers share, without training"
    return Table("premise", title, header, rows, pd.DataFrame(data), notes)


def premise_figure(found: Sequence[Premise]) -> Drawn:
    """A line of panels for each model: what is kept, and the three spectra with their edges."""
    names = list(dict.fromkeys(one.model for one in found))
    data = []
    with styled():
        figure = canvas(7.2, 0.5 + 2.1 * len(names))
        axes = figure.subplots(len(names), 4, squeeze=False, width_ratios=(1.3, 1, 1, 1))
        for line, name in zip(axes, names, strict=True):
            own = [one for one in found if one.model == name]
            for n, one in enumerate(own):
                look = {"color": COLOURS[n + 1], "label": one.projection}
                facts = {"model": name, "projection": one.projection}
                places = np.arange(len(KEPT)) + (n - (len(own) - 1) / 2) * 0.8 / len(own)
                shares = [one.kept[which] for which in KEPT]
                hatch = ("", "///", "...")[n % 3]
                bars = {"width": 0.8 / len(own), "hatch": hatch, "edgecolor": "white"}
                line[0].bar(places, [100 * share for share in shares], **look, **bars)
                data += [
                    facts | {"panel": "kept", "index": which, "share": share}
                    for which, share in zip(KEPT, shares, strict=True)
                ]
                for mode, axis in enumerate(line[1:], 1):
                    spectrum = one.spectra[mode - 1]
                    index = np.arange(1, len(spectrum) + 1)
                    style = {"linestyle": DASHES[n], "marker": "os"[n % 2] if mode == 1 else ""}
                    axis.plot(index, 100 * spectrum, **look, **style)
                    data += [
                        facts | {"panel": MODES[mode - 1], "index": i, "share": share}
                        for i, share in zip(index, spectrum, strict=True)
                    ]
            line[0].set_xticks(range(len(KEPT)), list(KEPT.values()), fontsize=6)
            line[0].set_ylabel(f"{name}\nenergy kept, %")
            line[0].set_title(f"at ranks ({', '.join(map(str, own[0].ranks))})", fontsize=7)
            for mode, axis in enumerate(line[1:], 1):
                for value in dict.fromkeys(one.edges[mode - 1] for one in own):
                    axis.axhline(100 * value, color="#888888", linewidth=0.8, label="edge of noise")
                above = ", ".join(f"{one.projection[0].upper()} {one.above(mode)}" for one in own)
                axis.set_title(f"mode {mode} ({MODES[mode - 1]})\nabove: {above}", fontsize=7)
                axis.set(xlabel="index", ylabel="energy, %")
                if mode == 1:
                    axis.set_ylim(bottom=0)
                else:
                    axis.set_yscale("log")
                    axis.yaxis.set_major_formatter("{x:g}")
                    axis.yaxis.set_minor_formatter(NullFormatter())
        legend_below(figure, axes.flat, columns=4)
    return Drawn("premise", figure, pd.DataFrame(data))
