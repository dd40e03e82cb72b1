"""Packed batches equal padded ones, and every epoch sees every row once."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_bench import CONFIGS, Bench, task_of
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from craft.bench.glue import sources
from craft.bench.glue.sources import Split
from craft.bench.glue.tokens import encode
from craft.bench.model import packing
from craft.bench.model.locate import locate
from craft.bench.run.execute import prepare
from craft.bench.settings.sections import BATCHINGS, Data
from craft.bench.training.batches import Layout, batches, layout_of, order
from craft.bench.training.loop import Seeds, fit, loss_of, predict
from craft.errors import InputError

CPU = torch.device("cpu")
KINDS = ("roberta", "bert")


@pytest.fixture(params=KINDS)
def kind(request, tiny_glue, tmp_path):
    """A bench on the encoder of each kind."""
    return Bench(request.getfixturevalue(f"tiny_{request.param}"), tiny_glue, tmp_path / "outputs")


def texts(*sentences):
    return Split("train", (list(sentences),), [0] * len(sentences), list(range(len(sentences))))


def tokens_of(bench, task="rte", split=None, max_length=32):
    if split is None:
        source = Data("local", dir=bench.glue)
        split = sources.load(task_of(task), source, ["train"]).splits["train"]
    return encode(split, task_of(task), tokenizer_of(bench), max_length)


def tokenizer_of(bench):
    return _tokenizer(bench.model)


@functools.cache
def _tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


WITHIN_THE_TINY_SHAPE = {
    "superlora": ["method.peft.ranks=[2,8,8]"],
    "vblora": ["method.peft.vector_length=8"],
}
METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))


def prepared(bench, *more, **choices):
    """The model of a run, dropout off, moved away from its start so that the adapter shows."""
    config = bench.config(*more, **choices)
    model = prepare(config, locate(config.model), Seeds.of(0)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@functools.cache
def layout(folder, batching):
    """How the encoder in a folder is given its batches; grouped ones are cut as often as pays where
    a forward costs as much as one token of so small a model."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(config)
    made = layout_of(model, config.pad_token_id, batching, "cpu")
    return dataclasses.replace(made, price=1.0)


def batches_of(bench, tokens, batching, rows=None, size=7, skip=0):
    rows = np.arange(len(tokens)) if rows is None else rows
    return list(batches(tokens, rows, size, layout(bench.model, batching), CPU, skip))


def logits_and_gradients(model, made, size=7):
    logits = []
    for batch in made:
        found = model(**batch.inputs).logits
        loss_of(found, batch.labels, False, size).backward()
        logits.append(found.detach())
    return torch.cat(logits), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("batching", ["packed", "grouped"])
@pytest.mark.parametrize("method", METHODS)
def test_batching_equals_padded_in_logits_and_gradients(kind, method, batching):
    tokens, found = tokens_of(kind), {}
    for name in (batching, "padded"):
        more = [f"train.batching={name}", *WITHIN_THE_TINY_SHAPE.get(method, [])]
        model = prepared(kind, *more, method=method)
        found[name] = logits_and_gradients(model, batches_of(kind, tokens, name))
    (logits, ours), (padded, theirs) = found[batching], found["padded"]
    assert logits.std() > 0.01
    torch.testing.assert_close(logits, padded, atol=1e-5, rtol=0)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        if ".key." in name and gradient.ndim == 1:  # moves all scores of a query alike: rounding
            assert max(ours[name].norm(), gradient.norm()) < 1e-6, name
        else:
            assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_are_in_the_order_of_the_rows_whatever_the_batches(kind, precision):
    tokens, found = tokens_of(kind), []
    for batching, size in (("packed", 64), ("packed", 3), ("grouped", 64), ("padded", 5)):
        more = [f"train.batching={batching}", f"train.eval_batch_size={size}"]
        config, how = (
            kind.config(*more, f"train.precision={precision}"),
            layout(kind.model, batching),
        )
        found.append(predict(prepared(kind, *more), tokens, config.train, how))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5 if precision == "fp32" else 0.1)
    model = prepared(kind, "train.batching=padded")
    for row in (0, 7):
        (batch,) = batches_of(kind, tokens, "padded", rows=np.array([row]))
        alone = model(**batch.inputs).logits[0].detach().numpy()
        np.testing.assert_allclose(found[0][row], alone, atol=1e-5 if precision == "fp32" else 0.1)


def test_stock_model_gives_the_same_logits_from_its_own_tokenizer(kind):
    """Positions, token types and padding are what tokenizer and model make by themselves."""
    pairs = [["so good", "the film"], ["one bad scene", "very"], ["a", "b"]]
    inputs = tokenizer_of(kind)(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    split = Split("train", tuple(map(list, zip(*pairs, strict=True))), [0, 0, 0], [0, 1, 2])
    stock = prepared(kind, "train.batching=padded")(**inputs).logits
    for batching in BATCHINGS:
        model = prepared(kind, f"train.batching={batching}")
        made = batches_of(kind, tokens_of(kind, split=split), batching, size=1)
        found = torch.cat([model(**batch.inputs).logits for batch in made])
        torch.testing.assert_close(found, stock, atol=1e-5, rtol=0)


def test_bert_gets_token_types_and_roberta_none(tiny_bert, tiny_roberta, tiny_glue, tmp_path):
    bert = tokens_of(Bench(tiny_bert, tiny_glue, tmp_path))
    assert set(bert.types) == {0, 1}
    assert len(bert.types) == len(bert.ids)
    first = bert.types[: bert.offsets[1]]
    assert (np.diff(first) >= 0).all() and first[0] == 0 and first[-1] == 1
    assert tokens_of(Bench(tiny_roberta, tiny_glue, tmp_path)).types is None


def test_packed_batch_holds_no_padding(kind):
    tokens = tokens_of(kind)
    rows = order(len(tokens), 1, 0)
    packed = batches_of(kind, tokens, "packed", rows)
    padded = batches_of(kind, tokens, "padded", rows)
    for ours, theirs in zip(packed, padded, strict=True):
        useful = int(tokens.lengths[ours.rows].sum())
        assert ours.tokens == ours.inputs["input_ids"].numel() == useful
        assert theirs.tokens == int(theirs.inputs["attention_mask"].sum()) == useful
        assert theirs.inputs["input_ids"].numel() > useful
        assert "attention_mask" not in ours.inputs
    ids = torch.cat([batch.inputs["input_ids"][0] for batch in packed])
    assert tokenizer_of(kind).pad_token_id not in ids


def test_packed_and_padded_batches_have_the_same_rows_tokens_and_labels(kind):
    tokens = tokens_of(kind)
    rows = order(len(tokens), 1, 0)
    packed = batches_of(kind, tokens, "packed", rows)
    padded = batches_of(kind, tokens, "padded", rows)
    for ours, theirs in zip(packed, padded, strict=True):
        assert (ours.rows == theirs.rows).all()
        assert torch.equal(ours.labels, theirs.labels)
        mask = theirs.inputs["attention_mask"].bool()
        for name in ours.inputs.keys() - {"packing"}:
            assert torch.equal(ours.inputs[name][0], theirs.inputs[name][mask]), name


def test_batch_holds_its_rows_and_their_labels(kind):
    tokens = tokens_of(kind)
    for batch in batches_of(kind, tokens, "packed", order(len(tokens), 1, 0)):
        assert (batch.labels.numpy() == tokens.labels[batch.rows]).all()
        parts = batch.inputs["input_ids"][0].split(tokens.lengths[batch.rows].tolist())
        for row, part in zip(batch.rows, parts, strict=True):
            own = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
            assert (part.numpy() == own).all()


def test_grouped_parts_are_a_micro_batch_cut_by_length(kind):
    """Together they hold a padded batch's rows and tokens, with less padding."""
    tokens = tokens_of(kind)
    rows = order(len(tokens), 1, 0)
    padded, parts = (
        batches_of(kind, tokens, "padded", rows),
        batches_of(kind, tokens, "grouped", rows),
    )
    ends = [n for n, part in enumerate(parts, start=1) if part.last]
    micro = [parts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert max(map(len, micro)) > 1
    for ours, theirs in zip(micro, padded, strict=True):
        assert [part.first for part in ours] == [True] + [False] * (len(ours) - 1)
        assert (np.concatenate([part.rows for part in ours]) == theirs.rows).all()
        assert torch.equal(torch.cat([part.labels for part in ours]), theirs.labels)
        computed = sum(part.inputs["input_ids"].numel() for part in ours)
        assert theirs.tokens == sum(part.tokens for part in ours) <= computed
        assert computed <= theirs.inputs["input_ids"].numel()
        for part in ours:
            rectangle = (len(part.rows), int(tokens.lengths[part.rows].max()))
            assert part.inputs["input_ids"].shape == rectangle
            assert int(part.inputs["attention_mask"].sum()) == part.tokens


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.floats(0, 200))
def test_cut_of_a_grouped_batch_costs_the_least_of_all(lengths, price):
    lengths, how = np.sort(lengths), Layout("grouped", 0, 0, width=64, price=price)

    def cost(counts):
        ends = np.cumsum(counts)
        return sum(
            price + count * lengths[end - 1] * (1 + lengths[end - 1] / 64)
            for count, end in zip(counts, ends, strict=True)
        )

    def cuts(n):
        return [[]] if n == 0 else [[k, *rest] for k in range(1, n + 1) for rest in cuts(n - k)]

    assert cost(how.cut(lengths)) == pytest.approx(min(map(cost, cuts(len(lengths)))))


def test_forward_costs_more_tokens_of_a_small_model_and_on_a_card():
    narrow, wide = (Layout.of("grouped", 0, 0, width).price for width in (384, 768))
    assert narrow > wide > 18
    assert Layout.of("grouped", 0, 0, 768, "cuda").price > wide


@pytest.mark.parametrize(("rows", "size"), [(20, 7), (21, 7), (5, 8), (1, 1)])
def test_epoch_sees_every_row_once_and_no_batch_is_dropped(rows, size, kind):
    tokens = tokens_of(
        kind, split=texts(*(f"good {'so ' * (n % 5)}" for n in range(rows))), task="sst2"
    )
    made = batches_of(kind, tokens, "packed", order(rows, 3, 0), size)
    assert [len(batch.rows) for batch in made] == [
        min(size, rows - start) for start in range(0, rows, size)
    ]
    assert sorted(np.concatenate([batch.rows for batch in made])) == list(range(rows))


def test_batches_are_random_not_sorted_by_length(kind):
    """A batch is consecutive rows of the epoch's order; length decides only their place in it."""
    tokens = tokens_of(kind)
    rows = order(len(tokens), 3, 1)
    for n, batch in enumerate(batches_of(kind, tokens, "packed", rows)):
        assert set(batch.rows) == set(rows[7 * n : 7 * n + 7])
        assert (np.diff(tokens.lengths[batch.rows]) >= 0).all()


def test_order_differs_between_epochs_and_seeds_and_is_a_permutation():
    orders = [
        order(50, seed, epoch)
        for seed in (Seeds.of(0).order, Seeds.of(1).order)
        for epoch in (0, 1)
    ]
    assert all(sorted(found) == list(range(50)) for found in orders)
    assert len({tuple(found) for found in orders}) == 4
    assert (order(50, Seeds.of(0).order, 1) == orders[1]).all()


def test_order_is_the_same_for_every_method_and_batching(bench, monkeypatch):
    seen = []

    def recorded(model, loop):
        seen.append([list(order(len(loop.train), loop.seeds.order, epoch)) for epoch in range(2)])
        return fit(model, loop)

    monkeypatch.setattr("craft.bench.run.execute.fit", recorded)
    for number, (method, batching) in enumerate([("craft", "packed"), ("lora", "padded")]):
        bench.elsewhere(f"o{number}").run(f"train.batching={batching}", method=method)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_skip_goes_on_at_the_right_batch(batching, kind):
    tokens = tokens_of(kind)
    rows = order(len(tokens), 1, 0)
    whole = batches_of(kind, tokens, batching, rows, size=6)
    ends = [0, *(n for n, batch in enumerate(whole, start=1) if batch.last)]
    assert len(ends) == 1 + -(-len(tokens) // 6)
    for skip, done in enumerate(ends):
        rest = batches_of(kind, tokens, batching, rows, size=6, skip=skip)
        for ours, theirs in zip(rest, whole[done:], strict=True):
            assert (ours.rows == theirs.rows).all()
            assert torch.equal(ours.labels, theirs.labels)
            for name in ours.inputs.keys() - {"packing"}:
                assert torch.equal(ours.inputs[name], theirs.inputs[name])


def test_texts_are_cut_at_the_maximum_length_and_counted(kind):
    split = texts("good", "good " * 20, "so " * 9, "a " * 40)
    whole = tokens_of(kind, task="sst2", split=split, max_length=60)
    assert whole.cut == 0
    longest = sorted(whole.lengths)
    cut = tokens_of(kind, task="sst2", split=split, max_length=int(longest[1]))
    assert cut.cut == 2
    assert sorted(cut.lengths) == [longest[0], *[longest[1]] * 3]
    end = tokenizer_of(kind).sep_token_id
    assert all(cut.ids[stop - 1] == end for stop in cut.offsets[1:])


def test_longer_text_of_a_pair_is_cut_first(kind):
    split = Split("train", (["so"], ["good " * 30]), [0], [0])
    tokens = tokens_of(kind, split=split, max_length=10)
    assert tokens.lengths.tolist() == [10] and tokens.cut == 1
    (so,) = tokenizer_of(kind)("so", add_special_tokens=False)["input_ids"][:1]
    assert so in tokens.ids


def test_labels_are_whole_numbers_or_scores(kind):
    assert tokens_of(kind, task="rte").labels.dtype == np.int64
    scores = tokens_of(kind, task="stsb").labels
    assert scores.dtype == np.float32 and scores.max() == pytest.approx(4.5)


def classifier(architecture):
    """A tiny classifier of an architecture of transformers, as it comes."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields = {
        "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
        "Electra": {**small, "embedding_size": 32},
        "XLMRoberta": {**small, "pad_token_id": 0},
        "MobileBert": {**small, "embedding_size": 16, "intra_bottleneck_size": 16},
        "MPNet": small,
        "DebertaV2": small,
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    }[architecture]
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=60, max_position_embeddings=64, initializer_range=0.2, **fields
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{architecture}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("architecture", ["DistilBert", "Electra", "XLMRoberta"])
def test_packed_equals_padded_for_other_encoders(architecture, tiny_bert, tiny_glue, tmp_path):
    model = classifier(architecture)
    tokens = tokens_of(Bench(tiny_bert, tiny_glue, tmp_path))
    tokens = dataclasses.replace(tokens, types=None)
    rows = np.arange(len(tokens))
    (padded,) = batches(tokens, rows, 20, layout_of(model, 0, "padded", "cpu"), CPU)
    expected = model(**padded.inputs).logits
    packing.enable(model)
    (packed,) = batches(tokens, rows, 20, layout_of(model, 0, "packed", "cpu"), CPU)
    torch.testing.assert_close(model(**packed.inputs).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["MobileBert", "MPNet", "DebertaV2", "GPT2"])
def test_architecture_that_cannot_be_packed_is_sent_to_grouped_batches(architecture):
    with pytest.raises(InputError, match=f"{architecture}.* cannot .*; use train.batching=grouped"):
        packing.enable(classifier(architecture))


def test_model_that_loses_the_packing_on_its_way_says_so(kind):
    model = prepared(kind)
    (batch, *_) = batches_of(kind, tokens_of(kind), "packed")
    del batch.inputs["packing"]
    with pytest.raises(InputError, match="without `packing`"):
        model(**batch.inputs)


@pytest.mark.parametrize(("task", "column"), [("sst2", 1), ("rte", 2)])
def test_length_that_leaves_no_token_of_a_text_is_refused(task, column, kind):
    special = tokenizer_of(kind).num_special_tokens_to_add(pair=column == 2)
    least = special + column
    split = Split("train", (["the film"],) * column, [0], [0])
    message = f"train.max_length {least - 1} leaves no room .* {special} special .* {least}$"
    with pytest.raises(InputError, match=message):
        tokens_of(kind, task=task, split=split, max_length=least - 1)
    assert tokens_of(kind, task=task, split=split, max_length=least).lengths.tolist() == [least]
