"""What each method trains: its closed form, the model itself and the published counts agree."""

import ast
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import craft.tuners.craft
import craft.tuners.lora_xs
from craft.counts import closed_form, expected_parameters
from craft.errors import InputError
from craft.models import attach, trained
from craft.tucker import Tucker, clip_ranks

CONFIGS = Path(__file__).parents[1] / "configs"
METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))
VOCABULARY = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
SHAPES = {
    "base": RobertaConfig(**VOCABULARY),
    "large": RobertaConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        **VOCABULARY,
    ),
}

# Counts of LoRA Table 2 and of each method's own paper or repository; for adapters and BitFit what
# the published sizes (0.1M, 0.3M, 0.8M, 0.9M, 3M, 6M) stand for, by arithmetic.
PUBLISHED = [
    ("craft", {}, "base", 40_288),  # 41,152 before r1 = 24 is clipped to 12 layers
    ("craft", {}, "large", 41_152),
    ("lora", {}, "base", 294_912),
    ("lora", {}, "large", 786_432),
    ("pissa", {}, "base", 294_912),
    ("pissa", {}, "large", 786_432),
    ("dora", {}, "base", 313_344),
    ("dora", {}, "large", 835_584),
    ("lotr", {}, "base", 73_728),
    ("lotr", {"r": 64}, "base", 196_608),
    ("lotr", {}, "large", 114_688),
    ("lotr", {"r": 64}, "large", 327_680),
    ("lotr", {"share": "projection"}, "base", 122_880),
    ("superlora", {}, "base", 25_792),
    ("superlora", {}, "large", 34_176),
    ("superlora", {"form": "lora"}, "base", 294_912),  # LoRA's
    ("vera", {}, "base", 43_008),
    ("vera", {}, "large", 61_440),
    ("lora_xs", {}, "base", 30_000),
    ("lora_xs", {"r": 4}, "large", 1_536),
    ("lora_xs", {"r": 16}, "large", 24_576),
    ("lora_xs", {}, "large", 60_000),
    ("fourierft", {}, "base", 24_000),
    ("fourierft", {}, "large", 48_000),
    ("unilora", {}, "large", 23_040),
    ("adapter_houlsby", {"bottleneck": 8}, "base", 313_536),
    ("adapter_houlsby", {"bottleneck": 8}, "large", 835_968),
    ("adapter_houlsby", {}, "large", 6_343_680),
    ("adapter_pfeiffer", {"bottleneck": 16}, "base", 304_320),
    ("adapter_pfeiffer", {"bottleneck": 16}, "large", 811_392),
    ("adapter_pfeiffer", {}, "large", 3_171_840),
    ("adapter_drop", {}, "base", 298_176),
    ("adapter_drop", {"skip_layers": 0}, "base", 894_528),
    ("bitfit", {}, "base", 102_144),
    ("bitfit", {}, "large", 271_360),
    ("full", {}, "base", 124_055_040),  # with the head of 592,130: 125M
    ("full", {}, "large", 354_310_144),  # with the head of 1,051,650: 355M
    ("head", {}, "base", 0),
]


def method(name, shape, **changes):
    """A method with its fields for RTE on a RoBERTa; some, such as VeRA's r, are in its recipe."""
    read = {
        "task": {"name": "rte"},
        "recipe": OmegaConf.load(CONFIGS / "recipe" / name / f"roberta_{shape}.yaml"),
        "method": OmegaConf.load(CONFIGS / "method" / f"{name}.yaml"),
    }
    chosen = OmegaConf.to_container(OmegaConf.create(read).method, resolve=True)
    return {**chosen, "peft": {**chosen["peft"], **changes}}


def model_of(config, kind=RobertaForSequenceClassification):
    """Every parameter is one zero seen many times: a model of any size costs nothing."""
    with torch.device("meta"):
        model = kind(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.zeros(()).expand(parameter.shape)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return model


@pytest.fixture
def free_decompositions(monkeypatch):
    """Decompositions of the right shapes at no cost: counts depend on shapes alone."""

    def tucker(slices, ranks, algorithm, seed, name):
        shape = (len(slices), *slices[0].shape)
        ranks = clip_ranks(ranks, shape, name)
        u1, u2, u3 = (torch.zeros(n, r) for n, r in zip(shape, ranks, strict=True))
        return Tucker(torch.zeros(ranks), (u1, u2, u3))

    def pair(matrix, rank):
        return torch.zeros(matrix.shape[0], rank), torch.zeros(rank, matrix.shape[1])

    def svd(matrix, full_matrices):
        rows, columns = matrix.shape
        k = min(rows, columns)
        return torch.zeros(rows, k), torch.zeros(k), torch.zeros(k, columns)

    monkeypatch.setattr(craft.tuners.craft, "decompose_cached", tucker)
    monkeypatch.setattr(craft.tuners.lora_xs, "truncated_svd", pair)
    monkeypatch.setattr(torch.linalg, "svd", svd)


def measured(chosen, config, kind=RobertaForSequenceClassification):
    """The number of trainable parameters besides the head."""
    if chosen.get("train_backbone"):  # peft copies it
        with torch.device("meta"):
            model = kind(config)
    else:
        model = model_of(config, kind)
    adapter, head = trained(attach(model, chosen, seed=0))
    assert head
    return sum(parameter.numel() for parameter in adapter.values())


def id_of(row):
    name, changes, shape, _ = row
    return "-".join([name, shape, *(f"{k}={v}" for k, v in changes.items())])


@pytest.mark.parametrize("row", PUBLISHED, ids=id_of)
def test_closed_form_is_the_published_count(row):
    name, changes, shape, count = row
    assert expected_parameters(method(name, shape, **changes), SHAPES[shape]) == count


@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape:UserWarning")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_model_trains_what_the_closed_form_says(name, shape, free_decompositions):
    expected = expected_parameters(method(name, shape), SHAPES[shape])
    assert measured(method(name, shape), SHAPES[shape]) == expected


@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape:UserWarning")
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row[1]], ids=id_of)
def test_model_trains_the_published_count(row, free_decompositions):
    name, changes, shape, count = row
    assert measured(method(name, shape, **changes), SHAPES[shape]) == count


SMALL = {"vocab_size": 30, "max_position_embeddings": 20}
BERT = BertConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, **SMALL
)
DISTILBERT = DistilBertConfig(dim=64, n_layers=4, n_heads=2, hidden_dim=48, **SMALL)


@pytest.mark.filterwarnings("ignore:.* exceeds? the shape:UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_closed_form_holds_for_bert(name, free_decompositions):
    """BERT has a pooler in its backbone, and this one a feed-forward width below its width."""
    expected = expected_parameters(method(name, "mini"), BERT)
    assert measured(method(name, "mini"), BERT, BertForSequenceClassification) == expected


@pytest.mark.parametrize(
    "name", ["adapter_houlsby", "adapter_pfeiffer", "adapter_drop", "bitfit", "full", "head"]
)
def test_closed_form_holds_for_distilbert(name):
    """Those methods that need no target modules there."""
    expected = expected_parameters(method(name, "mini"), DISTILBERT)
    assert (
        measured(method(name, "mini"), DISTILBERT, DistilBertForSequenceClassification) == expected
    )


def test_closed_form_computes():
    assert closed_form("2 * d * r + n // 2 - 3**2", d=5, r=7, n=9) == 65
    assert closed_form("min(r, d) * max(1, n)", r=4, d=3, n=2) == 6
    assert closed_form("2 if share == 'all' else 3", share="all") == 2
    assert closed_form("2 if share == 'all' else 3", share="projection") == 3


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("2 * width", "width in the closed form"),
        ("d.real", "d.real"),
        ("__import__('os')", "__import__"),
        ("d / 2", "d / 2"),
        ("[d][0]", r"\[d\]"),
        ("d *", "is not an expression"),
        ("2.5 * d", "2.5"),
    ],
)
def test_closed_form_refuses_what_it_does_not_know(expression, message):
    with pytest.raises(InputError, match=message):
        closed_form(expression, d=3)


def test_no_method_is_known_by_its_label_outside_its_own_files():
    """The tuners register theirs, the bench has subjects, and the taxonomy is of the literature."""
    labels = {method(name, "base")["label"] for name in METHODS}
    package = CONFIGS.parent / "craft"
    apart = {package / "tuners", package / "bench", package / "report" / "diagrams.py"}
    for path in sorted(package.rglob("*.py")):
        if not apart & {path, *path.parents}:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            named = {n.value for n in nodes if isinstance(n, ast.Constant)} & labels
            assert not named, (path, named)


def test_every_method_declares_its_facts():
    keys = {"start_tolerance", "merge", "disable", "reload_tolerance", "parameters"}
    for name in METHODS:
        assert set(method(name, "base")["facts"]) - {"order", "paper_counts"} == keys, name
        first = (CONFIGS / "method" / f"{name}.yaml").read_text().splitlines()[0]
        assert first == f"# python scripts/train.py method={name} task=rte"
