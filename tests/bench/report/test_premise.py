"""What layers share, measured where the answer is known: layers of noise, copies, one subspace."""

import runpy
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_bench import ROOT

from craft.bench.report.figures.weights import PROJECTIONS, Stacks
from craft.bench.report.study.premise import (
    edge,
    largest_cosine,
    measured,
    permuted,
    premise,
    premise_figure,
    premise_table,
)
from craft.tucker import gram_matrices

RANKS = (4, 10, 10)


def noise(layers=6, d_out=60, d_in=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(layers, d_out, d_in, generator=generator))


def shared(layers=6, seed=1):
    """Layers with directions in common, U C_l V^T over noise, but nothing else: orthogonal ones."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(d, 10, generator=generator)).Q for d in (60, 80))
    cores = 30 * torch.randn(layers, 10, 10, generator=generator)
    return [w + u @ c @ v.T for w, c in zip(noise(layers), cores, strict=True)]


def of(matrices, ranks=RANKS):
    return premise(Stacks("made", {"query": matrices}), "query", ranks)


def test_of_noise_nothing_is_shared_and_nothing_is_above_the_edge():
    found = of(noise())
    assert found.kept["hosvd"] == pytest.approx(found.kept["permuted"], rel=0.05)
    assert found.kept["random"] == pytest.approx(4 / 6 * 10 / 60 * 10 / 80, rel=0.1)
    assert found.cosine < 0.06  # of 4,800 numbers: 1 / sqrt(4800) = 0.014 a pair
    for mode in (2, 3):
        assert found.above(mode) <= 1
        assert found.spectra[mode - 1][0] == pytest.approx(found.edges[mode - 1], rel=0.05)


def test_shared_directions_are_above_the_permuted_and_counted():
    found = of(shared())
    assert found.kept["hosvd"] > 1.5 * found.kept["permuted"] > 1.5 * found.kept["random"]
    assert found.above(2) == found.above(3) == 10
    spectrum = found.spectra[1]
    assert found.energy_above(2) == pytest.approx(spectrum[:10].sum())
    assert all(one.sum() == pytest.approx(1) for one in found.spectra)


def test_hosvd_s_share_is_what_its_reconstruction_keeps():
    from craft.tucker import decompose

    stack = torch.stack(shared()).double()
    rest = (decompose(stack, RANKS).reconstruct() - stack).square().sum() / stack.square().sum()
    assert of(shared()).kept["hosvd"] == pytest.approx(1 - float(rest))


def test_permuted_layers_hold_their_numbers_and_their_own_spectrum():
    before = shared()
    after = permuted(before, 0)
    for one, other in zip(before, after, strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(torch.linalg.svdvals(one), torch.linalg.svdvals(other))
    rows = [row for _ in range(3) for row in [torch.arange(60.0)[:, None].expand(60, 80)]]
    orders = [w[:, 0] for w in permuted(rows, 0)]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])


def test_cosine_is_the_largest_of_all_pairs_of_either_sign():
    layers = noise(4)
    layers[3] = -2 * layers[1] + 0.5 * layers[3]
    flat = torch.stack(layers).double().flatten(1).numpy()
    expected = abs(np.corrcoef(flat)[1, 3])
    assert largest_cosine(gram_matrices(layers)[0]) == pytest.approx(expected, rel=1e-2)
    assert of(noise(1)).cosine is None


def test_edge_is_that_of_marchenko_and_pastur():
    values = torch.linalg.svdvals(torch.randn(200, 1600, generator=torch.manual_seed(0))) ** 2
    found = float(values[0] / values.sum())
    assert edge((1, 200, 1600), 1) == pytest.approx(found, rel=200 ** (-2 / 3))  # of finite sizes


def test_table_and_figure_tell_of_each_model_and_warn_of_copied_layers():
    alike = [noise()[0] + 0.3 * w for w in noise(seed=3)]
    models = [Stacks("made", {"query": shared(), "value": noise()})]
    models += [Stacks("grown", {"query": alike, "value": noise()})]
    found = measured(models, RANKS)
    table = premise_table(found)
    assert [row[:3] for row in table.rows] == [
        [model, projection, "(4, 10, 10)"]
        for model in ("made", "grown")
        for projection in ("query", "value")
    ]
    warned = [note for note in table.notes if "copied" in note]
    assert len(warned) == 1 and warned[0].startswith(
        "grown, query: two layers have a cosine of 0.9"
    )
    data = premise_figure(found).data
    layers = data[(data.model == "made") & (data.projection == "query") & (data.panel == "layers")]
    assert len(layers) == 6 and layers.share.sum() == pytest.approx(1)


def test_script_measures_a_folder_and_refuses_what_is_none(tmp_path, monkeypatch, capsys):
    def script(*arguments):
        monkeypatch.setattr(sys, "argv", ["scripts/premise.py", *arguments])
        try:
            runpy.run_path(str(ROOT / "scripts" / "premise.py"), run_name="__main__")
        except SystemExit as leave:
            return leave.code
        return 0

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    name = "encoder.layer.{}.attention.self.{}.weight"
    tensors = {
        name.format(n, p): w.clone() for p in PROJECTIONS for n, w in enumerate(noise(3, 20, 20))
    }
    (tmp_path / "made").mkdir()
    save_file(tensors, tmp_path / "made" / "model.safetensors")
    given = [f"model={tmp_path / 'made'}", f"out={tmp_path / 'out'}"]
    assert script(*given, "ranks=2,5,0.5") == 0
    assert "(2, 5, 10)" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"premise.{kind}" for kind in ("md", "tex", "csv", "pdf", "png")}
    for arguments, message in (
        ([], "model=FOLDER"),
        (["model=nowhere"], "there is no folder nowhere"),
        ([given[0], "ranks=2,5"], "three positive integers"),
    ):
        assert script(*arguments) == 2
        assert message in capsys.readouterr().err
