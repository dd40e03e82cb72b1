"""Every sub-bench runs, at a tiny size, and what it compares computes the same."""

import dataclasses
import json
import math

import pytest
import torch
from tiny_bench import CONFIGS, ROOT

from craft.bench.cli.speed import run
from craft.bench.speed import methods
from craft.bench.speed import planning as plan
from craft.bench.speed.measure import Figure, Findings, interleaved, interval, ratio, table
from craft.bench.speed.subjects import Setup

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of calls inside peft
FAST = ("trainer", "methods", "padding", "hosvd")


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_glue):
    return Setup(
        configs=CONFIGS, folder=tmp_path_factory.mktemp("bench"), glue_dir=str(tiny_glue),
        tokenizer=ROOT / "results" / "models" / "roberta-mini", shape="tiny", tasks=("cola",),
        rows=6, dev_rows=4, rounds=1, threads=1, device="cpu", llama=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", FAST)
def test_bench_prints_its_table_and_writes_its_file(name, setup, tmp_path, capsys):
    run(name, setup, tmp_path)
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"].keys() == {"cpu", "cores", "gpu", "cuda", "driver", "threads"}
    assert written["figures"]
    shown = capsys.readouterr().out
    for figure in written["figures"]:
        assert figure["what"] in shown
        assert math.isfinite(figure["value"]) and figure["value"] > 0
        assert f"| {figure['what']} | {figure['value']:.4g}" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_startup_bench_reaches_the_first_step(setup, tmp_path):
    run("startup", dataclasses.replace(setup, glue_dir=None), tmp_path)
    figures = json.loads((tmp_path / "startup.json").read_text())["figures"]
    imports, beyond, command = (figure["value"] for figure in figures)
    assert imports > 0 and command > 0
    assert abs(beyond) < command  # a difference of single starts: load can turn its sign


def test_cuda_bench_says_that_there_is_no_card(setup, tmp_path, capsys):
    run("cuda", setup, tmp_path)
    assert "not run: torch sees no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_naive_reconstruction_is_craft(setup):
    """The same logits and gradients, away from the start."""
    found = {}
    for variant in ("craft", "naive"):
        subject = methods.subject(setup, variant, 3, 7, "fp32")
        subject.model.eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in subject.model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        loss = subject.loss()
        loss.backward()
        named = subject.model.named_parameters()
        found[variant] = loss, {n: p.grad for n, p in named if p.requires_grad}
    (loss, ours), (other, theirs) = found.values()
    torch.testing.assert_close(loss, other)
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_saved_bytes_leave_out_weights_and_grow_with_the_batch(setup):
    small, large = (
        methods.saved_bytes(methods.subject(setup, "frozen", rows, 8, "fp32")) for rows in (2, 8)
    )
    assert 3 * small < large < 5 * small


def test_launches_count_what_computes_and_no_views():
    x = torch.ones(3, 4, requires_grad=True)
    assert methods.launches(lambda: x.T.flatten(0).unflatten(0, (2, 6))[0].detach()) == 1  # a copy
    assert methods.launches(lambda: (x * 2).exp()) == 2


def test_plan_counts_rows_tokens_and_epochs(setup, tmp_path):
    facts = {"base": {"tokens_per_second": [1e5, 3e5, 2e5]}}
    measured = {"bench": "cuda", "machine": {"gpu": "a card"}, "versions": {"torch": "2"}}
    measured |= {"rounds": 1, "minutes": 1.0, "figures": [], "remarks": [], "facts": facts}
    (tmp_path / "cuda.json").write_text(json.dumps(measured))
    run("planning", setup, tmp_path)
    written = json.loads((tmp_path / "planning.json").read_text())
    tokens = written["facts"]["tokens"]["base"]
    of_a_seed = 20 * sum(rows * length for rows, length in plan.TRAINING.values())
    assert tokens["base_craft"] == pytest.approx(5 * of_a_seed)
    hours = [f["value"] for f in written["figures"] if f["unit"] == "GPU-h"]
    total = [sum(tokens.values()), tokens["base_craft"]]
    assert hours == pytest.approx([1.1 * t / 2e5 / 3600 for t in total])


def test_ratio_is_taken_within_each_round():
    times = {"a": [1.0, 10.0, 2.0], "b": [2.0, 20.0, 4.0]}  # a machine that is slow for a while
    found = ratio("a / b", times, "a", "b", most=0.4)
    assert (found.value, found.low, found.high, found.met) == (0.5, 0.5, 0.5, False)
    assert found.scatter == 0


def test_rounds_turn_and_the_first_is_not_timed():
    seen, now = [], iter(range(100))
    work = {name: lambda name=name: seen.append(name) for name in "abc"}
    times = interleaved(work, 3, lambda: next(now))
    assert "".join(seen) == "abcbcacababc"
    assert times == {name: [1, 1, 1] for name in "abc"}
    seen.clear()
    times = interleaved(work, 2, lambda: next(now), settled=True)
    assert "".join(seen) == "abc" + "bbccaa" + "ccaabb"
    assert times == {name: [1, 1] for name in "abc"}


def test_noise_is_the_widest_interval():
    low, high = interval([1.0, 1.2, 0.8])
    figure = Figure("x", 1.0, low=low, high=high, least=0.9)
    assert figure.scatter == pytest.approx(0.2)
    found = Findings([figure, Figure("y", 5.0)], {})
    assert found.noise() == figure.scatter
    assert "at least 0.9" in table(found) and "met, within noise" in table(found)


@pytest.mark.parametrize(
    ("goal", "undecided"),
    [
        ({"least": 0.9}, True),
        ({"most": 1.1}, True),
        ({"least": 0.7}, False),
        ({"most": 0.8}, False),
    ],
)
def test_a_goal_inside_the_interval_is_too_noisy_to_tell(goal, undecided):
    found = Findings([Figure("x", 1.0, low=0.8, high=1.2, **goal), Figure("y", 5.0)], {})
    assert found.figures[0].undecided == undecided
    assert ("whether 1 of the figures" in str(found.warning())) == undecided
    assert found.figures[0].verdict.endswith("within noise") == undecided
