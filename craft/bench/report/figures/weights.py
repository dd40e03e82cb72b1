"""Figures of pre-trained weights: PCA of query, key and value rows, and what low ranks keep."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator
from safetensors import safe_open
from torch import Tensor

from craft.bench.report.figures.style import COLOURS, DASHES, Drawn, canvas, legend_below, styled
from craft.errors import InputError
from craft.tucker import gram_matrices

PROJECTIONS = ("query", "key", "value")
# BERT, RoBERTa, ViT; DistilBERT; LLaMA and its kin; MPNet. GPT-2 keeps all three in one matrix,
# transposed.
PATTERNS = tuple(
    re.compile(rf"(?:^|\.)(?:layer|layers|h)\.(\d+)\.(?:.*\.)?({'|'.join(names)})\.weight$")
    for names in (PROJECTIONS, ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
) + (re.compile(r"(?:^|\.)layer\.(\d+)\.attention\.attn\.(q|k|v)\.weight$"),)
FUSED = re.compile(r"(?:^|\.)h\.(\d+)\.attn\.c_attn\.weight$")
# The paper's pink, olive and green, darkened until they differ in grey too, and a marker for each.
LOOK = {"query": ("#CC79A7", "o"), "key": ("#806A00", "^"), "value": ("#005A3C", "s")}
SHOWN = 150  # rows of each projection that are drawn; PCA and dispersion use them all
MODES = ("layers", "outputs", "inputs")
RANKS = (24, 100, 100)  # the paper's


@dataclass(frozen=True)
class Stacks:
    """The weights of one model: projection -> matrices (d_out, d_in) by layer."""

    name: str
    matrices: dict[str, list[Tensor]]


def read_stacks(folder: Path, name: str) -> Stacks:
    """Query, key and value weights from a folder of safetensors; InputError where they are not
    found."""
    found: dict[str, dict[int, Tensor]] = {p: {} for p in PROJECTIONS}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if fused := FUSED.search(key):
                    for p, part in zip(PROJECTIONS, file.get_tensor(key).T.chunk(3), strict=True):
                        found[p][int(fused[1])] = part
                elif place := _place(key):
                    found[place[0]][place[1]] = file.get_tensor(key)
    layers = [sorted(found[p]) for p in PROJECTIONS]
    if not layers[0] or layers[0] != layers[1] or layers[0] != layers[2]:
        raise InputError(f"{folder}: no query, key and value weights of every layer in safetensors")
    return Stacks(name, {p: [found[p][n] for n in layers[0]] for p in PROJECTIONS})


def _place(key: str) -> tuple[str, int] | None:
    """Projection and layer of a tensor's name."""
    for pattern in PATTERNS:
        if match := pattern.search(key):
            return PROJECTIONS["qkv".index(match[2][0])], int(match[1])
    return None


def dispersion(rows: np.ndarray) -> float:
    """Mean squared distance of the rows from their mean, (1/d_out) sum_i |w_i - mean|^2: ours, the
    paper's Eq. 1 is not known."""
    return float(((rows - rows.mean(0)) ** 2).sum(1).mean())


def principal_plane(pooled: np.ndarray) -> tuple[np.ndarray, float]:
    """Two leading principal axes (d, 2) of rows (n, d), signs fixed, and the share of variance that
    they explain."""
    centred = pooled - pooled.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return axes, float(values[-2:].sum() / values.sum())


def shown_layers(depth: int, most: int = 4) -> list[int]:
    """First, last, and evenly between."""
    return sorted({round(x) for x in np.linspace(0, depth - 1, min(most, depth))})


def pca(models: Sequence[Stacks]) -> Drawn:
    """Figure 1: rows of W_Q, W_K and W_V on the first two principal axes of the three pooled, layer
    by layer."""
    data = []
    columns = max(len(shown_layers(len(m.matrices["query"]))) for m in models)
    with styled():
        figure = canvas(2.0 * columns, 0.6 + 2.3 * len(models))
        axes = figure.subplots(len(models), columns, squeeze=False)
        for line, model in zip(axes, models, strict=True):
            layers = shown_layers(len(model.matrices["query"]))
            for axis in line[len(layers) :]:
                axis.remove()
            for axis, layer in zip(line, layers, strict=False):
                rows = {p: model.matrices[p][layer].double().numpy() for p in PROJECTIONS}
                pooled = np.concatenate(list(rows.values()))
                plane, explained = principal_plane(pooled)
                spread = {p: dispersion(r) for p, r in rows.items()}
                for p, own in rows.items():
                    kept = own[np.linspace(0, len(own) - 1, min(SHOWN, len(own))).astype(int)]
                    points = (kept - pooled.mean(0)) @ plane
                    colour, marker = LOOK[p]
                    axis.scatter(
                        *points.T,
                        s=7,
                        color=colour,
                        marker=marker,
                        alpha=0.6,
                        linewidths=0,
                        label=p,
                    )
                    data += [
                        {"model": model.name, "layer": layer + 1, "projection": p, "x": x, "y": y}
                        | {"explained": explained, "dispersion": spread[p]}
                        for x, y in points
                    ]
                q, k, v = (f"{spread[p]:.2g}" for p in PROJECTIONS)
                axis.set_title(
                    f"layer {layer + 1}: {100 * explained:.0f} % explained\nD: Q {q}, K {k}, V {v}",
                    fontsize=7,
                )
                axis.set_xticks([])
                axis.set_yticks([])
            line[0].set_ylabel(model.name)
        figure.suptitle(
            r"Rows of $W_Q$, $W_K$, $W_V$ on the principal plane of the three pooled"
            "\n(D: dispersion, our definition)",
            fontsize=8.5,
        )
        legend_below(figure, [axes[0, 0]], columns=3)
    return Drawn("pca", figure, pd.DataFrame(data))


def spectra(models: Sequence[Stacks], ranks: tuple[int, int, int] = RANKS) -> Drawn:
    """Singular values of the three unfoldings of each stack, and the energy that the ranks keep of
    each mode.

    Energy of rank r in mode n: sum_{i <= r} sigma_i^2 / sum_i sigma_i^2 of W_(n)."""
    data = pd.concat([_spectrum(m, p, ranks) for m in models for p in PROJECTIONS])
    with styled():
        figure = canvas(7.2, 0.5 + 2.5 * len(models))
        axes = figure.subplots(len(models), 3, squeeze=False)
        for line, (name, model) in zip(axes, data.groupby("model", sort=False), strict=True):
            for axis, (mode, values) in zip(line, model.groupby("mode"), strict=True):
                shares = []
                for n, (p, own) in enumerate(values.groupby("projection", sort=False)):
                    look = {"color": COLOURS[n], "linestyle": DASHES[n], "label": p}
                    axis.plot(own["index"], own["singular_value"], **look)
                    shares.append(f"{str(p)[0].upper()} {100 * own['energy'].iloc[0]:.0f} %")
                rank = values["rank"].iloc[0]
                axis.axvline(rank, color="#888888", linewidth=0.6)
                title = f"mode {mode} ({MODES[mode - 1]}), r{mode} = {rank}"
                axis.set_title(f"{title}\nkeeps {', '.join(shares)}", fontsize=7)
                axis.set(xlabel="index", ylim=(0, 1.05))
                axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            line[0].set_ylabel(f"{name}\nsingular value / largest")
        legend_below(figure, [axes[0, 0]], columns=3)
    return Drawn("spectra", figure, data)


def _spectrum(model: Stacks, projection: str, ranks: tuple[int, int, int]) -> pd.DataFrame:
    """Singular values, relative to the largest, of the three unfoldings of one stack: of each the
    first 16, where they fall fastest, and about 64 evenly from first to last."""
    rows = []
    for mode, gram in enumerate(gram_matrices(model.matrices[projection])):
        values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).numpy()
        rank = min(ranks[mode], len(values))
        kept = float(values[:rank].sum() / values.sum())
        facts = {"model": model.name, "projection": projection, "mode": mode + 1}
        facts |= {"rank": rank, "energy": kept}
        evenly = np.linspace(0, len(values) - 1, 64).astype(int)
        for i in np.union1d(evenly, np.arange(min(16, len(values)))):
            sigma = float(np.sqrt(values[i] / values[0]))
            rows.append(facts | {"index": i + 1, "singular_value": sigma})
    return pd.DataFrame(rows)
