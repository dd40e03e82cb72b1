"""Every method on encoders of other kinds: what it adapts by default, or how it is refused."""

import functools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from tiny_bench import METHODS, method_of, task_of
from torch import nn
from torch.nn import functional as F

from craft.bench.glue.tokens import Tokens
from craft.bench.model.build import adapted, attach, build, heads, trained
from craft.bench.model.locate import locate
from craft.bench.settings.sections import Model
from craft.bench.training.batches import batches, layout_of
from craft.errors import InputError
from craft.tuners.encoders import ENCODERS, PROJECTIONS

method_of = functools.cache(method_of)
pytestmark = pytest.mark.filterwarnings("ignore:.* exceeds? the shape", "ignore:.*unused.*")

DEPTH, WIDTH, INNER, VOCABULARY = 2, 64, 96, 60
HEAD = WIDTH * WIDTH + WIDTH + 2 * WIDTH + 2
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
BERT = {**SHAPE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
V3 = {"position_biased_input": False, "share_att_key": True, "position_buckets": 4, **RELATIVE}
KINDS = {  # name of the classes -> what makes a tiny one
    "MPNet": BERT,
    "Camembert": BERT,
    "XLMRoberta": BERT,
    "Electra": {**BERT, "embedding_size": 32},
    "Deberta": {**BERT, **RELATIVE},
    "DebertaV2": {**BERT, **V3},
    "DistilBert": {
        "vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": DEPTH, "n_heads": 2,
        "hidden_dim": INNER, "max_position_embeddings": 30, "pad_token_id": 1,
        "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
    },
    "ModernBert": {**SHAPE, "cls_token_id": 0, "sep_token_id": 2},
}  # fmt: skip
FUSED = ("Deberta", "ModernBert")
every_kind = pytest.mark.parametrize("kind", KINDS)


def encoder(kind, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind], **changes)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


def padded(model, seed=0):
    (batch,) = given(model, layout_of(model, 1, "padded", "cpu"), seed)
    return batch


def given(model, layout, seed=0):
    """The bench's own batches of four sequences of 3 to 9 tokens."""
    random = np.random.default_rng(seed)
    lengths = np.array([3, 9, 5, 7])
    ids = random.integers(3, VOCABULARY, lengths.sum()).astype(np.int32)
    tokens = Tokens(ids, None, np.cumsum([0, *lengths]), np.array([0, 1, 1, 0]), 0)
    return [*batches(tokens, np.arange(4), 4, layout, torch.device("cpu"))]


@every_kind
def test_grouped_parts_have_the_gradient_of_the_padded_batch(kind):
    layout, found = layout_of(encoder(kind), 1, "grouped", "cpu"), []
    for how in (replace(layout, price=1.0), replace(layout, batching="padded")):
        model, generator = (
            attach(encoder(kind), method_of("lora"), seed=1),
            torch.Generator(),
        )
        with torch.no_grad():
            for parameter in trained(model)[0].values():
                parameter.normal_(std=0.1, generator=generator)
        parts, logits = given(model, how), []
        for part in parts:
            logits.append(model(**part.inputs).logits)
            F.cross_entropy(logits[-1], part.labels, reduction="sum").backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        found.append((len(parts), torch.cat(logits), gradients))
    (cut, ours, theirs), (whole, expected, gradients) = found
    assert cut > whole == 1
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, atol=1e-5, rtol=1e-3)


def counts(n, d_out):
    """What a method trains besides the head in the numbers of configs/method, where query and value
    are n matrices (d_out, WIDTH) a layer."""
    layers, pair = n * DEPTH, d_out + WIDTH
    bottleneck = 2 * WIDTH * 64 + 64 + WIDTH
    return {
        "adapter_drop": 2 * WIDTH * 48 + 48 + WIDTH,  # in one of two layers
        "adapter_houlsby": 2 * DEPTH * bottleneck,
        "adapter_pfeiffer": DEPTH * bottleneck,
        "craft": n * (DEPTH**2 + min(100, d_out) ** 2 + WIDTH**2),
        "dora": layers * (8 * pair + d_out),
        "fourierft": layers * 1000,
        "head": 0,
        "lora": layers * 8 * pair,
        "lora_xs": (layers + 2 * DEPTH) * 25**2,
        "lotr": 32 * pair + layers * 32**2,
        "pissa": layers * 8 * pair,
        "superlora": n * (DEPTH * 2 + 8 * pair + 2 * 8 * 8),
        "tinylora": layers * 64,
        "unilora": 23040,
        "vblora": 90 * 64 + layers * 4 * pair // 64 * 90,
        "vera": layers * (d_out + method_of("vera").peft["r"]),
    }


def expected(name, kind, model):
    backbone = getattr(model, model.base_model_prefix)
    if name == "full":
        return sum(p.numel() for p in backbone.parameters())
    if name == "bitfit":
        return sum(p.numel() for n, p in backbone.named_parameters() if n.endswith(".bias"))
    return (counts(1, 3 * WIDTH) if kind in FUSED else counts(2, WIDTH))[name]


REFUSED = {  # by methods that have no place in ModernBERT: it norms before, and has no biases
    "adapter_drop": "pfeiffer has no place in modernbert.*: give placement=houlsby$",
    "adapter_pfeiffer": "pfeiffer has no place in modernbert.*: give placement=houlsby$",
    "bitfit": "",
}


@every_kind
@pytest.mark.parametrize("name", METHODS)
def test_a_method_attaches_counts_and_trains_nothing_else(name, kind):
    model, method = encoder(kind), method_of(name)
    if kind == "ModernBert" and name in REFUSED:
        with pytest.raises(InputError, match=f"^method {method.label}: .*{REFUSED[name]}"):
            attach(model, method, seed=1)
        return
    number = expected(name, kind, model)
    attached = attach(model, method, seed=1)
    adapter, head = trained(attached)
    assert sum(p.numel() for p in adapter.values()) == number
    assert sum(p.numel() for p in head.values()) == HEAD
    own = {id(p): n for n, p in attached.named_parameters() if p.requires_grad}
    assert own.keys() == {id(p) for p in (*adapter.values(), *head.values())}
    trains, heads = {*own.values()}, {own[id(p)] for p in head.values()}

    def state():
        return {**dict(attached.named_parameters()), **dict(attached.named_buffers())}

    before = {n: t.detach().clone() for n, t in state().items()}
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad], lr=0.01)
    batch = padded(attached.get_base_model())
    F.cross_entropy(attached(**batch.inputs).logits, batch.labels).backward()
    optimizer.step()
    changed = {n for n, t in state().items() if not torch.equal(t, before[n])}
    assert changed <= trains and heads <= changed
    assert name == "head" or changed - heads


@every_kind
def test_the_table_names_every_projection_once_a_layer(kind):
    model = encoder(kind)
    place = ENCODERS[model.config.model_type]
    within = {}  # path within the layer -> its modules
    for path, module in model.named_modules():
        found = re.fullmatch(r".*\.layers?\.\d+\.(.+)", path)
        if found:
            within.setdefault(found[1], []).append(module)
    for name in PROJECTIONS:
        modules = within[getattr(place, name)]
        assert len(modules) == DEPTH and all(type(module) is nn.Linear for module in modules)
    thrice = 3 if kind in FUSED else 1
    shapes = [tuple(within[getattr(place, name)][0].weight.shape) for name in PROJECTIONS]
    assert shapes[:4] == [(thrice * WIDTH, WIDTH)] * 3 + [(WIDTH, WIDTH)]
    assert shapes[4] in ((INNER, WIDTH), (2 * INNER, WIDTH)) and shapes[5] == (WIDTH, INNER)
    assert len([path for path in within if re.fullmatch(place.houlsby, path)]) == 2
    if place.pfeiffer is not None:
        (path,) = [path for path in within if re.fullmatch(place.pfeiffer, path)]
        assert "LayerNorm" in type(within[path][0]).__name__


@pytest.mark.parametrize(
    "kind, module, projections",
    [
        ("MPNet", ["attention.attn.q", "attention.attn.v"], [["query"], ["value"]]),
        ("ModernBert", ["attn.Wqkv"], [["query", "key", "value"]]),
    ],
)
@pytest.mark.parametrize("name", ["lora", "craft"])
def test_a_record_says_what_was_adapted_and_what_is_fused(name, kind, module, projections):
    facts = adapted(attach(encoder(kind), method_of(name), seed=1))
    assert [fact["module"] for fact in facts] == module
    assert [fact["projections"] for fact in facts] == projections
    rows = WIDTH * len(projections[0])
    assert all(fact["shape"] == [rows, WIDTH] and fact["count"] == DEPTH for fact in facts)


def test_a_method_without_adapter_adapts_nothing():
    assert adapted(attach(encoder("MPNet"), method_of("full"), seed=1)) == []


@every_kind
def test_full_fine_tuning_is_loaded_as_it_was_saved(kind, tmp_path):
    attached = attach(encoder(kind), method_of("full"), seed=1)
    with torch.no_grad():
        for parameter in attached.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    attached.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(encoder(kind), tmp_path).eval()
    inputs = padded(attached.get_base_model()).inputs
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, attached.eval()(**inputs).logits)
        with attached.disable_adapter():
            plain = encoder(kind)(**inputs).logits
            assert torch.equal(attached(**inputs).logits, plain)


@pytest.mark.parametrize("kind", ["MPNet", "ModernBert"])
def test_houlsby_adapts_what_a_block_adds(kind):
    """x + h + A(h) of both blocks of the first layer, normed after it (MPNet) or not."""
    method = method_of("adapter_houlsby")
    method = replace(method, peft={**method.peft, "init": "normal", "init_std": 0.3})
    attached = attach(encoder(kind), method, seed=1).eval()
    base, plain = attached.get_base_model(), encoder(kind)
    inputs = {"input_ids": padded(base).inputs["input_ids"][-1:]}
    weights = [m for m in base.modules() if type(m).__name__ == "BottleneckLayer"][:2]

    def adapt(number, h):
        down, up = (
            getattr(weights[number], f"bottleneck_{end}")["default"] for end in ("down", "up")
        )
        return h + up(F.silu(down(h)))

    with torch.no_grad():
        x, y = attached(**inputs, output_hidden_states=True).hidden_states[:2]
        if kind == "MPNet":
            layer = plain.mpnet.encoder.layer[0]
            bias = plain.mpnet.encoder.compute_position_bias(x)
            h = layer.attention.attn(x, position_bias=bias)[0]
            middle = layer.attention.LayerNorm(x + adapt(0, h))
            f = layer.output.dense(layer.intermediate(middle))
            wanted = layer.output.LayerNorm(middle + adapt(1, f))
        else:
            layer = plain.model.layers[0]
            rotation = plain.model.rotary_emb(x, torch.arange(x.shape[1])[None], "full_attention")
            h = layer.attn(layer.attn_norm(x), position_embeddings=rotation)[0]
            middle = x + adapt(0, h)
            wanted = middle + adapt(1, layer.mlp(layer.mlp_norm(middle)))
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "craft", "lora_xs", "vblora", "tinylora"])
def test_an_encoder_of_no_table_is_refused_with_what_to_write(name):
    config = transformers.RoFormerConfig(**BERT)
    model, method = transformers.RoFormerForSequenceClassification(config), method_of(name)
    message = (
        r"which modules to adapt in a roformer is not known: give "
        r"\+method.peft.target_modules=\[NAME,NAME\], some of its Linear modules .*query, value"
    )
    with pytest.raises(InputError, match=message):
        attach(model, method, seed=1)
    named = replace(method, peft={**method.peft, "target_modules": ["query", "value"]})
    facts = adapted(attach(model, named, seed=1))
    assert [fact["count"] for fact in facts] == [DEPTH, DEPTH]


def test_bitfit_of_named_modules_trains_their_biases():
    method = method_of("bitfit")
    method = replace(method, peft={**method.peft, "target_modules": ["q"]})
    adapter, _ = trained(attach(encoder("MPNet"), method, seed=1))
    assert sum(p.numel() for p in adapter.values()) == DEPTH * WIDTH


@pytest.mark.filterwarnings("default:.* exceed the shape")
def test_ranks_that_are_clipped_are_said_in_one_line():
    with pytest.warns(UserWarning) as said:
        attach(encoder("MPNet"), method_of("craft"), seed=1)
    assert [str(one.message) for one in said] == [
        "ranks (24, 100, 100) exceed the shape (2, 64, 64) of q, v; using (2, 64, 64)"
    ]


@every_kind
def test_a_head_that_the_folder_holds_is_drawn_anew_as_its_class_draws_it(kind, tmp_path):
    held = encoder(kind)
    held.save_pretrained(tmp_path)
    folder = Model(path=tmp_path)
    drawn, loaded = (
        build(locate(replace(folder, random=random)), task_of("rte"), head_seed=3)
        for random in (True, False)
    )
    for name in heads(held):
        for (path, weight), (_, other) in zip(
            drawn.get_submodule(name).named_parameters(),
            loaded.get_submodule(name).named_parameters(),
            strict=True,
        ):
            assert torch.equal(weight, other), (name, path)
    last = getattr(loaded.classifier, "out_proj", loaded.classifier).weight.detach()
    # ModernBERT's N(0, 1/d) is cut at 3 deviations; others' N(0, 0.02^2)
    deviation = WIDTH**-0.5 if kind == "ModernBert" else 0.02
    assert last.std().item() == pytest.approx(deviation, rel=0.2)
