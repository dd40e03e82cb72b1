"""Figures: the numbers they show, files that repeat byte for byte, and text that stays apart."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_records import CONFIGS, make_folder, make_run
from matplotlib.text import Text
from safetensors.torch import save_file

from craft.bench.model.counts import expected_parameters
from craft.bench.report.figures import scores as figures
from craft.bench.report.figures import weights
from craft.bench.report.figures.style import Looks
from craft.bench.report.load import load
from craft.bench.report.method_files import ordered
from craft.bench.report.tables.cells import cells
from craft.bench.report.tables.published import read
from craft.bench.settings.declared import read as section
from craft.bench.settings.sections import Method
from craft.errors import InputError

PUBLISHED = CONFIGS.parent / "results" / "published"
FIRST = ordered(CONFIGS)
LOOKS = Looks.of(FIRST, ["Head only", "FT", "BitFit", "Adpt-D", "Adpt-H"])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    make_folder(place, tasks=("rte", "cola"), seeds=2)
    for ranks, count in (([4, 16, 16], 1056), ([12, 64, 64], 16672)):
        make_run(place, "rte", peft={"ranks": ranks}, adapter=count, ranks=ranks)
    return load([place], CONFIGS)


@pytest.fixture(scope="module")
def stacks():
    generator = torch.Generator().manual_seed(0)

    def matrices(scale):
        return [scale * torch.randn(24, 16, generator=generator) for _ in range(5)]

    return weights.Stacks(
        "tiny", {"query": matrices(2.0), "key": matrices(1.0), "value": matrices(0.1)}
    )


@pytest.fixture(scope="module")
def drawn(records, stacks):
    found, table2 = cells(records.runs), read(PUBLISHED, "table2")
    made = [
        figures.parameters_against_depth(CONFIGS, LOOKS),
        figures.score_against_parameters(found, table2, "mini", "roberta_mini", LOOKS),
        figures.score_per_task(records, "mini", "roberta_mini", LOOKS),
        figures.learning_curves(records, "mini", "roberta_mini", LOOKS),
        figures.score_against_ranks(records, "mini", "roberta_mini", LOOKS),
        weights.pca([stacks]),
        weights.spectra([stacks], (2, 8, 8)),
    ]
    return {figure.name: figure for figure in made}


def test_counts_against_depth_are_the_papers(drawn):
    data = drawn["parameters_against_depth"].data.set_index(["width", "method", "depth"])[
        "parameters"
    ]
    assert data[(768, "CRAFT", 12)] == 40_288 and data[(1024, "CRAFT", 24)] == 41_152
    assert data[(768, "LoRA", 12)] == 294_912 and data[(1024, "LoRA", 24)] == 786_432
    assert data[(768, "LoTR", 12)] == 2 * (2 * 768 * 32 + 12 * 32**2)
    (legend,) = drawn["parameters_against_depth"].figure.legends
    assert [text.get_text() for text in legend.get_texts()][:3] == [
        "CRAFT 24×100×100", "LoRA r=8", "PiSSA r=8",
    ]  # fmt: skip
    assert data[(4096, "CRAFT", 96)] == data[(768, "CRAFT", 96)] == 41_152


def test_growth_with_depth_is_what_is_counted(drawn):
    data = drawn["parameters_against_depth"].data.set_index(["width", "method", "depth"])
    for label in FIRST:
        method = figures.as_counted(CONFIGS, label)
        expected = expected_parameters(section(Method, method), figures._shape(768, 20))
        assert data.loc[(768, label, 20), "parameters"] == expected, label


def test_every_seed_is_a_point(drawn, records):
    data = drawn["tasks_mini_roberta_mini"].data
    assert len(data) == len(records.runs)
    assert sorted(data["best"]) == pytest.approx(sorted(100 * records.runs["best"]))
    assert len(drawn["curves_mini_roberta_mini"].data) == 3 * len(records.runs)


def test_the_front_holds_what_no_smaller_row_beats():
    data = pd.DataFrame({"parameters": [10, 20, 30, 30, 5], "score": [50, 40, 60, 55, 10]})
    front = figures._front(data)
    assert list(front["parameters"]) == [5, 10, 30] and list(front["score"]) == [10, 50, 60]


def test_pareto_takes_only_rows_with_every_task(drawn):
    figure = drawn["pareto_mini_roberta_mini"]
    assert set(figure.data["row"]) == {"CRAFT", "LoRA", "Head only"}
    said = " ".join(figure.figure.axes[0].get_title().split())
    assert said.startswith("not shown, without a record of every task: CRAFT (ranks=(12, 64, 64));")
    assert "(means over 2 seeds)" in figure.figure.axes[0].get_ylabel()


def test_ranks_are_in_the_order_of_their_size(drawn):
    data = drawn["ranks_mini_roberta_mini"].data
    assert set(data["ranks"]) == {"4×16×16", "12×64×64", "12×100×100"}


def test_one_choice_of_ranks_is_no_figure(tmp_path):
    make_run(tmp_path, "rte")
    assert (
        figures.score_against_ranks(load([tmp_path], CONFIGS), "mini", "roberta_mini", LOOKS)
        is None
    )


def test_pca_is_numpys_and_dispersion_the_formula(drawn, stacks):
    data = drawn["pca"].data
    pooled = np.concatenate([stacks.matrices[p][0].double().numpy() for p in weights.PROJECTIONS])
    values = np.linalg.svd(pooled - pooled.mean(0), compute_uv=False) ** 2
    first = data[data["layer"] == 1]
    assert first["explained"].iloc[0] == pytest.approx(values[:2].sum() / values.sum())
    rows = stacks.matrices["query"][0].double().numpy()
    expected = np.mean(np.sum((rows - rows.mean(0)) ** 2, axis=1))
    assert first[first["projection"] == "query"]["dispersion"].iloc[0] == pytest.approx(expected)
    spread = first[["x", "y"]].to_numpy()
    assert (spread**2).sum() == pytest.approx(values[:2].sum())
    assert sorted(set(data["layer"])) == [1, 2, 4, 5]


def test_spectra_are_the_singular_values_of_the_unfoldings(drawn, stacks):
    data = drawn["spectra"].data
    tensor = torch.stack(stacks.matrices["key"]).double()
    for mode in range(3):
        unfolded = tensor.movedim(mode, 0).flatten(1)
        sigma = torch.linalg.svdvals(unfolded).numpy()
        own = data[(data["projection"] == "key") & (data["mode"] == mode + 1)]
        assert own["singular_value"].to_numpy() == pytest.approx(sigma / sigma[0])
        rank = (2, 8, 8)[mode]
        kept = (sigma[:rank] ** 2).sum() / (sigma**2).sum()
        assert own["energy"].iloc[0] == pytest.approx(kept)


def test_weights_are_found_under_the_names_of_several_families(tmp_path):
    matrix = torch.eye(4)
    families = {
        "roberta": [
            f"roberta.encoder.layer.{{}}.attention.self.{p}.weight" for p in weights.PROJECTIONS
        ],
        "distilbert": [
            f"distilbert.transformer.layer.{{}}.attention.{p}_lin.weight" for p in "qkv"
        ],
        "llama": [f"model.layers.{{}}.self_attn.{p}_proj.weight" for p in "qkv"],
        "mpnet": [f"encoder.layer.{{}}.attention.attn.{p}.weight" for p in "qkv"],
    }
    for name, patterns in families.items():
        tensors = {
            pattern.format(layer): (layer + 1) * matrix * (10**p)
            for layer in range(11)
            for p, pattern in enumerate(patterns)
        }
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        found = weights.read_stacks(tmp_path / name, name).matrices
        assert [m[0, 0].item() for m in found["value"]] == [100.0 * n for n in range(1, 12)]
    (tmp_path / "gpt2").mkdir()
    fused = torch.cat([matrix, 2 * matrix, 3 * matrix], dim=1)
    save_file({"h.0.attn.c_attn.weight": fused}, tmp_path / "gpt2" / "model.safetensors")
    assert weights.read_stacks(tmp_path / "gpt2", "g").matrices["value"][0].equal(3 * matrix)
    with pytest.raises(InputError, match="no query, key and value"):
        weights.read_stacks(Path(tmp_path), "none")


def test_files_repeat_byte_for_byte(records, tmp_path):
    for place in ("a", "b"):
        figures.score_per_task(records, "mini", "roberta_mini", LOOKS).save(tmp_path / place)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert [Path(f).suffix for f in files] == [".csv", ".pdf", ".png"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def undrawn(canvas):
    """Labels of ticks outside the axes' limits, which matplotlib keeps but does not draw."""
    return {
        tick.label1
        for axes in canvas.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }


def test_no_text_lies_on_another_or_is_cut(drawn):
    for name, figure in drawn.items():
        canvas = figure.figure
        canvas.draw_without_rendering()
        renderer = canvas.canvas.get_renderer()
        hidden = undrawn(canvas)
        boxes = [
            (text.get_text(), text.get_window_extent(renderer))
            for text in canvas.findobj(Text)
            if text.get_visible() and text.get_text().strip() and text not in hidden
        ]
        for text, box in boxes:
            assert box.x0 > -1 and box.y0 > -1, f"{name}: {text!r} is cut"
            assert box.x1 < canvas.bbox.width + 1, f"{name}: {text!r} is cut"
            assert box.y1 < canvas.bbox.height + 1, f"{name}: {text!r} is cut"
        for (one, a), (two, b) in itertools.combinations(boxes, 2):
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width < 1.5 or height < 1.5, f"{name}: {one!r} on {two!r}"


def test_methods_of_one_figure_differ_in_colour_and_all_in_marker_or_colour():
    assert len({LOOKS.line(name)["color"] for name in FIRST}) == len(FIRST)
    pairs = {(LOOKS.point(n)["color"], LOOKS.point(n)["marker"]) for n in LOOKS.names}
    assert len(pairs) == len(LOOKS.names)
    assert LOOKS.point("CRAFT", 0) != LOOKS.point("CRAFT", 1)
