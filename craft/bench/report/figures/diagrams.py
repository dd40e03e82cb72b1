"""Figures 2 and 3, drawn by code: how CRAFT is built, and where it stands among other methods."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# pyright: reportCallIssue=false
# pandas is typed as if every row, column or cell might be any of the three.

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from craft.bench.report.figures.style import Drawn, canvas, styled

FROZEN, TRAINED = "#DCE6EE", "#D55E00"
# Second field: is the update of one layer tied to those of others by a shared tensor? Third: is it
# made of a decomposition of the pre-trained weights? The note says what the place does not.
TAXONOMY = (
    ("LoRA", "no", "no", "product of two small matrices"),
    ("DoRA", "no", "no", "magnitude apart from direction"),
    ("Adapters", "no", "no", "bottleneck layers"),
    ("BitFit", "no", "no", "biases alone"),
    ("PiSSA", "no", "yes", "leading SVD factors train"),
    ("LoRA-XS", "no", "yes", "SVD factors frozen, trains r×r"),
    ("TinyLoRA", "edge", "yes", "LoRA-XS, its vectors tied over layers if wanted"),
    ("LoTR", "yes", "no", "Tucker-2 of the updates"),
    ("LoTR, SVD start", "yes", "yes", "Tucker-2 of the weights as start; all of it trains"),
    ("SuperLoRA", "yes", "no", "updates folded into one tensor"),
    ("VeRA", "yes", "no", "random A and B shared, frozen"),
    ("VB-LoRA, Uni-LoRA", "yes", "no", "one bank or vector for all layers"),
    ("FourierFT", "edge", "no", "positions shared, coefficients not"),
    ("CRAFT", "yes", "yes", "Tucker-3 of the weights frozen, trains J1, J2, J3"),
)


def taxonomy() -> Drawn:
    """Figure 3: methods by cross-layer structure and use of the pre-trained weights; axes are
    ours."""
    columns = ["method", "cross_layer", "of_pretrained_weights", "note"]
    data = pd.DataFrame(TAXONOMY, columns=columns)
    # methods on the edge between the columns stand in the left one, and say so
    places = data["cross_layer"].replace({"edge": "no"})
    lines = (("no", 0.8, 1.15, "pre-trained weights\nnot decomposed"),)
    lines += (("yes", 0.0, 0.8, "pre-trained weights\ndecomposed"),)
    with styled():
        figure = canvas(7.2, 3.8)
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set(xlim=(-0.16, 2.01), ylim=(-0.01, 2.07))
        for line, bottom, height, name in lines:
            axis.text(
                -0.08,
                bottom + height / 2,
                name,
                rotation=90,
                ha="center",
                va="center",
                weight="bold",
                linespacing=1.3,
            )
            for x, column in ((0, "no"), (1, "yes")):
                axis.add_patch(Rectangle((x, bottom), 1, height, fill=False, linewidth=0.8))
                inside = data[(data["of_pretrained_weights"] == line) & (places == column)]
                _members(axis, inside, x + 0.03, bottom + height - 0.08)
        for x, text in ((0.5, "each layer by itself"), (1.5, "one structure across layers")):
            axis.text(x, 2.0, text, ha="center", weight="bold")
    return Drawn("taxonomy", figure, data)


def _members(axis: Axes, members: pd.DataFrame, x: float, top: float) -> None:
    for number, (_, member) in enumerate(members.iterrows()):
        y = top - 0.215 * number
        ours = {"color": TRAINED, "size": 10} if member["method"] == "CRAFT" else {"size": 8}
        edge = " (partly across layers)" if member["cross_layer"] == "edge" else ""
        axis.text(x, y, member["method"] + edge, va="center", weight="bold", **ours)
        axis.text(x, y - 0.095, member["note"], va="center", size=6.6, color="#444444")


def architecture() -> Drawn:
    """Figure 2: the weights of one projection are stacked, decomposed once, and only three small
    matrices train."""
    parts = []
    with styled():
        figure = canvas(7.2, 3.3)
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set(xlim=(0, 14.4), ylim=(0, 6.6))
        axis.set_aspect("equal")

        def box(
            x: float, y: float, w: float, h: float, text: str, note: str, trained: bool
        ) -> None:
            face, ink = (TRAINED, "white") if trained else (FROZEN, "black")
            style = {"facecolor": face, "edgecolor": "black", "linewidth": 0.7}
            axis.add_patch(
                FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.0,rounding_size=0.08", **style)
            )
            axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=ink, size=9)
            axis.text(x + w / 2, y - 0.1, note, ha="center", va="top", size=6.5)
            parts.append({"part": text, "shape": note, "trained": trained})

        def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
            axis.add_patch(
                FancyArrowPatch(
                    start, end, arrowstyle="-|>", mutation_scale=9, linewidth=0.9, color="black"
                )
            )

        for n in range(3, 0, -1):  # the stack, front matrix last
            axis.add_patch(
                Rectangle(
                    (0.3 + 0.22 * n, 2.2 + 0.22 * n),
                    1.7,
                    1.7,
                    facecolor=FROZEN,
                    edgecolor="black",
                    linewidth=0.7,
                )
            )
        box(
            0.3,
            2.2,
            1.7,
            1.7,
            r"$W^{(1..N)}$",
            "one projection\n" + r"$N\times d_{out}\times d_{in}$",
            False,
        )
        arrow((2.9, 3.4), (4.35, 3.4))
        axis.text(3.62, 3.55, "HOSVD,\nonce", ha="center", va="bottom", size=7)
        for y, mode, size in ((5.0, 1, "N"), (2.9, 2, "d_{out}"), (0.8, 3, "d_{in}")):
            box(4.5, y, 1.5, 0.9, rf"$U^{{({mode})}}$", rf"${size}\times r_{mode}$", False)
            box(6.3, y, 0.9, 0.9, rf"$J^{{({mode})}}$", rf"$r_{mode}\times r_{mode}$", True)
            arrow((7.25, y + 0.45), (8.35, 3.2 + 0.32 * (y - 2.9) / 2.1))
        box(8.5, 2.6, 1.3, 1.3, r"$\mathcal{G}$", r"core $r_1\times r_2\times r_3$", False)
        arrow((9.9, 3.25), (10.9, 3.25))
        box(
            11.0,
            2.6,
            3.1,
            1.3,
            r"$\hat{\mathcal{W}}=\mathcal{W}+(\mathcal{T}-\mathcal{R})$",
            r"$\hat{W}^{(\ell)}$ used by layer $\ell$",
            False,
        )
        axis.text(
            11.0,
            1.35,
            r"$\mathcal{T}=\mathcal{G}\times_1 U^{(1)}J^{(1)}\times_2 U^{(2)}J^{(2)}\times_3 "
            r"U^{(3)}J^{(3)}$"
            "\n"
            r"$\mathcal{R}=\mathcal{T}$ at $J^{(n)}=I$",
            size=6.6,
            va="top",
            linespacing=1.6,
            ha="left",
        )
        axis.add_patch(
            Rectangle((8.6, 5.75), 0.4, 0.4, facecolor=FROZEN, edgecolor="black", linewidth=0.7)
        )
        axis.text(9.15, 5.95, "frozen", va="center")
        axis.add_patch(
            Rectangle((8.6, 5.15), 0.4, 0.4, facecolor=TRAINED, edgecolor="black", linewidth=0.7)
        )
        axis.text(9.15, 5.35, r"trained: $r_1^2+r_2^2+r_3^2$ per projection", va="center")
    return Drawn("architecture", figure, pd.DataFrame(parts))
