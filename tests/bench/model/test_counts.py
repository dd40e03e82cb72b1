"""What each method trains: its formula, its count and the published counts agree."""

import ast
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_bench import compose
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from craft.bench.model.build import attach, trained
from craft.bench.model.counts import expected_parameters
from craft.bench.model.trusted import peft_config_class
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Method
from craft.errors import InputError
from craft.tuners.bottleneck import skipped_layers
from craft.tuners.targets import default_targets

CONFIGS = Path(__file__).parents[3] / "configs"
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
    ("vblora", {}, "base", 74_880),  # by arithmetic: a bank of 90 vectors of 256, and logits
    ("vblora", {}, "large", 161_280),  # the paper: 162K stored
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
    composed = compose(f"method={name}", f"model=roberta_{shape}")
    chosen = OmegaConf.to_container(composed.method, resolve=True)
    return read(Method, {**chosen, "peft": {**chosen["peft"], **changes}}, "method")


def id_of(row):
    name, changes, shape, _ = row
    return "-".join([name, shape, *(f"{k}={v}" for k, v in changes.items())])


def formula(chosen, config):
    """The value of a method's formula: L layers, d width, f feed-forward width, n adapted
    projections a layer, r1 to r3 the ranks, and the method's own fields."""
    fields, depth = chosen.peft, config.num_hidden_layers
    kind = peft_config_class(fields)
    given = {name: value for name, value in fields.items() if name != "_target_"}
    targets = fields.get("target_modules") or default_targets(kind(**given), config.model_type)
    values = {
        **fields,
        "L": depth,
        "d": config.hidden_size,
        "f": getattr(config, "intermediate_size", getattr(config, "hidden_dim", None)),
        "V": config.vocab_size,
        "P": config.max_position_embeddings,
        "T": getattr(config, "type_vocab_size", 0),
        "pooler": int(config.model_type == "bert"),
        "n": len(targets or ()),
        "skip_layers": skipped_layers(fields.get("skip_layers", 0), depth),
        **{f"r{i}": rank for i, rank in enumerate(fields.get("ranks", ()), 1)},
    }
    return eval(chosen.facts["parameters"], {"min": min, "max": max}, values)


@pytest.mark.parametrize("row", PUBLISHED, ids=id_of)
def test_count_and_formula_are_the_published_count(row):
    name, changes, shape, count = row
    chosen = method(name, shape, **changes)
    assert expected_parameters(chosen, SHAPES[shape]) == count
    assert formula(chosen, SHAPES[shape]) == count


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_count_is_what_the_formula_says(name, shape):
    chosen = method(name, shape)
    assert expected_parameters(chosen, SHAPES[shape]) == formula(chosen, SHAPES[shape])


SMALL = {"vocab_size": 30, "max_position_embeddings": 20}
ROBERTA = RobertaConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, **SMALL
)
BERT = BertConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, **SMALL
)
DISTILBERT = DistilBertConfig(dim=64, n_layers=4, n_heads=2, hidden_dim=48, **SMALL)
QUIET = pytest.mark.filterwarnings("ignore:.* exceeds? the shape:UserWarning")


@QUIET
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("config", [ROBERTA, BERT], ids=["roberta", "bert"])
def test_count_formula_and_the_model_itself_agree(name, config):
    """BERT has a pooler in its backbone, and these a feed-forward width below their width."""
    chosen = method(name, "mini")
    count = expected_parameters(chosen, config)
    assert count == formula(chosen, config) == measured(chosen, config)


def measured(chosen, config):
    """The number of trainable parameters besides the head of a model with weights."""
    torch.manual_seed(0)
    adapter, head = trained(attach(Classifier.from_config(config), chosen, seed=0))
    assert head
    return sum(parameter.numel() for parameter in adapter.values())


# what is not in the file of a method, and whether its formula holds it all the same
LINEAR = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
VARIANTS = [
    ("craft", {"ranks": [2, 5, 4]}, True),
    ("craft", {"ranks": [2, 5, 4], "target_modules": LINEAR[:4]}, True),
    ("craft", {"ranks": [0.5, 0.25, 0.1]}, False),
    ("craft", {"ranks": 0.5}, False),
    ("craft", {"j": "diagonal"}, False),
    ("craft", {"modes": [2, 3]}, False),
    ("craft", {"modes": [], "train_core": True}, False),
    ("craft", {"ranks": [2, 5, 4], "train_core": True}, False),
    ("craft", {"ranks": [2, 5, 4], "layer_blocks": 2}, False),
    ("craft", {"ranks": [2, 5, 4], "rank_pattern": {"value": [1, 3, 6]}}, False),
    ("craft", {"ranks": [2, 5, 50], "target_modules": LINEAR}, False),  # r3 clipped to 48 in one
    ("craft", {"target_modules": "all-linear"}, False),
    ("craft", {"layers_to_transform": [0, 2]}, False),
    ("craft", {"decomposition": "random", "ranks": [2, 5, 4]}, True),
    ("lotr", {"share": "projection", "target_modules": LINEAR}, False),
    ("lotr", {"target_modules": LINEAR[:4]}, True),
    ("superlora", {"ranks": [0.5, 0.25, 0.1]}, False),
    ("superlora", {"form": "lora", "r": 3}, True),
    ("lora_xs", {"target_modules": "all-linear", "r": 4}, False),
    ("lora", {"target_modules": "all-linear"}, False),
    ("pissa", {"rank_pattern": {"value": 2}}, False),
    ("adapter_pfeiffer", {"skip_layers": 1}, False),
]


@QUIET
@pytest.mark.parametrize(
    ("name", "changes", "held"),
    VARIANTS,
    ids=[f"{n}-{list(c)[-1]}-{i}" for i, (n, c, _) in enumerate(VARIANTS)],
)
def test_a_variant_is_counted_as_its_model_trains(name, changes, held):
    chosen = method(name, "mini", **changes)
    count = expected_parameters(chosen, ROBERTA)
    assert count == measured(chosen, ROBERTA) > 0
    if held:
        assert count == formula(chosen, ROBERTA)


def test_an_energy_is_not_counted_without_weights():
    with pytest.raises(InputError, match="ranks .*energy:0.9.* of query need its weights"):
        expected_parameters(method("craft", "mini", ranks="energy:0.9"), ROBERTA)


def test_counting_leaves_the_random_stream_and_the_refusal_of_meta_weights_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    expected_parameters(method("craft", "mini", ranks=[1, 2, 3]), ROBERTA)
    assert torch.equal(torch.rand(1), expected)
    with torch.device("meta"):
        model = Classifier.from_config(ROBERTA)
    with pytest.raises(InputError, match="on the meta device; load them first"):
        attach(model, method("craft", "mini"), seed=0)


@pytest.mark.parametrize(
    "name", ["adapter_houlsby", "adapter_pfeiffer", "adapter_drop", "bitfit", "full", "head"]
)
def test_formula_holds_for_distilbert(name):
    """Those methods that need no target modules there."""
    chosen = method(name, "mini")
    assert expected_parameters(chosen, DISTILBERT) == formula(chosen, DISTILBERT)


def test_no_method_is_known_by_its_label_outside_its_own_files():
    """The tuners register theirs, the speed bench has subjects, the study the arms that its frozen
    plan names."""
    labels = {method(name, "base").label for name in METHODS}
    package = CONFIGS.parent / "craft"
    apart = {package / "tuners", package / "bench" / "speed"}
    apart |= {package / "bench/report/study" / name for name in ("results.py", "pages.py")}
    for path in sorted(package.rglob("*.py")):
        if not apart & {path, *path.parents}:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            named = {n.value for n in nodes if isinstance(n, ast.Constant)} & labels
            assert not named, (path, named)


def test_every_method_declares_its_facts():
    keys = {"start_tolerance", "merge", "disable", "reload_tolerance", "parameters"}
    for name in METHODS:
        assert set(method(name, "base").facts) - {"order", "paper_counts"} == keys, name
        first = (CONFIGS / "method" / f"{name}.yaml").read_text().splitlines()[0]
        assert first == f"# python scripts/train.py method={name} task=rte"
