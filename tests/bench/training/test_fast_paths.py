"""What is fast computes what its slow twin computes."""

import copy
import dataclasses
import itertools
import json
import multiprocessing
import re
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_batches import batches_of, layout, prepared, texts, tokenizer_of, tokens_of
from tiny_bench import task_of
from transformers import AttentionInterface

from craft.bench.glue import sources
from craft.bench.glue.sources import Split
from craft.bench.glue.tokens import TokenCache, Tokens
from craft.bench.model import packing
from craft.bench.model.compilation import compile_blocks
from craft.bench.model.locate import locate
from craft.bench.run import record
from craft.bench.run.execute import prepare
from craft.bench.run.identity import identity
from craft.bench.settings.declared import plain
from craft.bench.speed.methods import launches
from craft.bench.training.batches import batches
from craft.bench.training.loop import Seeds
from craft.bench.training.step import frozen_casts, loss_of
from craft.errors import InputError

METHODS = ("craft", "lora", "dora", "bitfit", "full", "adapter_pfeiffer")


# --- casts of frozen weights


def logits_and_gradients(model, batch):
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**batch.inputs).logits
    loss_of(logits, batch.labels, False, len(batch.rows)).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return logits.detach(), found


@pytest.mark.parametrize("method", METHODS)
def test_casts_made_once_change_no_bit(method, bench):
    """Dropout on, twice, so that the second step has the casts of the first."""
    model = prepared(bench, method=method).train()
    (batch, *_) = batches_of(bench, tokens_of(bench), "packed")
    logits, gradients = logits_and_gradients(model, batch)
    with frozen_casts(model):
        for _ in range(2):
            ours, found = logits_and_gradients(model, batch)
            assert torch.equal(ours, logits)
            assert found.keys() == gradients.keys()
            assert all(torch.equal(found[n], value) for n, value in gradients.items())


def casts_of_weights(model, batch):
    """The shapes that are cast in a forward and backward, of matrices that do not train."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in frozen:
                seen.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    frozen = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
    with Watch():
        logits_and_gradients(model, batch)
    return seen


def test_frozen_weights_are_cast_in_the_first_step_alone(bench):
    model = prepared(bench, method="lora").train()
    (batch, *_) = batches_of(bench, tokens_of(bench), "packed")
    every_step = casts_of_weights(model, batch)
    assert len(every_step) == 2 * 2 * 6  # layers, weight and bias, projections and feed-forward
    with frozen_casts(model):
        assert sorted(casts_of_weights(model, batch)) == sorted(every_step)
        assert casts_of_weights(model, batch) == []
    assert casts_of_weights(model, batch) == every_step


def test_casts_leave_weights_and_results_in_float32_alone(bench):
    model = prepared(bench)
    weights = copy.deepcopy(model.state_dict())
    (batch, *_) = batches_of(bench, tokens_of(bench), "packed")
    logits = model(**batch.inputs).logits
    with frozen_casts(model):
        assert torch.equal(model(**batch.inputs).logits, logits)
        logits_and_gradients(model, batch)
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert all("forward" not in vars(m) for m in model.modules() if type(m) is torch.nn.Linear)


def test_weight_that_changes_in_place_is_cast_again(bench):
    model = prepared(bench)
    (batch, *_) = batches_of(bench, tokens_of(bench), "packed")
    with frozen_casts(model):
        logits_and_gradients(model, batch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        changed, _ = logits_and_gradients(model, batch)
    expected, _ = logits_and_gradients(model, batch)
    assert torch.equal(changed, expected)


# --- small matrices


def small_matrix_launches(layers):
    from peft import get_peft_model
    from transformers import RobertaConfig, RobertaModel

    from craft import CraftConfig

    config = RobertaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(RobertaModel(config), CraftConfig(ranks=(layers, 8, 8)))
    found = [m for m in model.modules() if type(m).__name__ == "SandwichLayer"]
    assert len(found) == 2 * layers
    ones = torch.ones(8, 8, dtype=torch.bfloat16)

    def work():
        made = []
        for layer in found:
            tuner, group, index = layer.places["default"]
            at = (torch.device("cpu"), torch.bfloat16)
            made.append(tuner.small.of_layer(tuner, "default", group, index, *at))
        torch.autograd.backward(made, [ones] * len(made))
        model.zero_grad()

    return launches(work)


def test_small_matrices_take_as_many_launches_for_many_layers_as_for_few():
    assert small_matrix_launches(2) == small_matrix_launches(5) < 60


# --- tokens


LONG = texts("good", "good " * 20, "so " * 9, "a " * 40)


def same(ours: Tokens, theirs: Tokens) -> None:
    for field in dataclasses.fields(Tokens):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        assert type(mine) is type(other), field.name
        if isinstance(other, np.ndarray):
            assert mine.dtype == other.dtype and np.array_equal(mine, other), field.name
        else:
            assert mine == other, field.name


def encoded_twice(split, task, tokenizer, max_length):
    """Every row cut by the tokenizer itself, as `encode` does with those that are too long."""
    whole = tokenizer(*split.texts, truncation=False, verbose=False)["input_ids"]
    found = tokenizer(*split.texts, truncation=True, max_length=max_length)
    types = found.get("token_type_ids")
    return Tokens(
        ids=np.concatenate([np.asarray(ids, np.int32) for ids in found["input_ids"]]),
        types=None if types is None else np.concatenate([np.asarray(t, np.int32) for t in types]),
        offsets=np.cumsum([0, *map(len, found["input_ids"])]),
        labels=np.asarray(split.labels, np.float32 if task.regression else np.int64),
        cut=sum(len(ids) > max_length for ids in whole),
    )


@pytest.mark.parametrize("model", ["tiny_roberta", "tiny_bert"])
@pytest.mark.parametrize("length", [7, 12, 60])
def test_tokens_are_those_of_a_tokenizer_that_cuts_every_row(model, length, request, bench):
    bench.model = request.getfixturevalue(model)
    pairs = Split("train", (LONG.texts[0], ["the film is so good " * 3] * 4), [0] * 4, [*range(4)])
    for split, task in ((LONG, "sst2"), (pairs, "rte")):
        expected = encoded_twice(split, task_of(task), tokenizer_of(bench), length)
        same(tokens_of(bench, task, split, length), expected)


@pytest.mark.parametrize("model", ["tiny_roberta", "tiny_bert"])
@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_cached_tokens_are_the_tokenizers(model, task, request, bench, tmp_path, monkeypatch):
    bench.model = request.getfixturevalue(model)
    data = bench.config(task=task).data
    splits = sources.load(task_of(task), data, ("train", *task_of(task).test)).splits
    for split in splits.values():  # the test split has no labels
        expected = tokens_of(bench, task, split)
        for attempt in range(2):
            if attempt:  # nothing is tokenised the second time
                monkeypatch.setattr("craft.bench.glue.tokens.encode", None)
            cache = TokenCache(tmp_path, "data", "tokenizer")
            same(cache.encode(split, task_of(task), tokenizer_of(bench), 32), expected)
        monkeypatch.undo()


def test_token_cache_is_keyed_by_data_tokenizer_split_rows_and_length(bench, tmp_path):
    tokenizer, task = tokenizer_of(bench), task_of("sst2")
    other = dataclasses.replace(LONG, name="validation")
    rows = dataclasses.replace(LONG, idx=[n + 1 for n in LONG.idx])  # another fold of the same data
    made = [("d", "t", LONG, 10), ("e", "t", LONG, 10), ("d", "u", LONG, 10), ("d", "t", other, 10)]
    made += [("d", "t", rows, 10)]
    for number, (data, digest, split, length) in enumerate([*made, ("d", "t", LONG, 11)], 1):
        TokenCache(tmp_path, data, digest).encode(split, task, tokenizer, length)
        assert len(list(tmp_path.iterdir())) == number


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_damaged_tokens_are_made_again(damage, bench, tmp_path):
    cache, tokenizer = TokenCache(tmp_path, "d", "t"), tokenizer_of(bench)
    whole = cache.encode(LONG, task_of("sst2"), tokenizer, 10)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    path.write_bytes({"truncated": content[:-50], "flipped": content, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match="tokenising again"):
        same(cache.encode(LONG, task_of("sst2"), tokenizer, 10), whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.encode(LONG, task_of("sst2"), tokenizer, 10)


def _fill(folder, tokenizer, start):
    time.sleep(max(0.0, start - time.time()))
    for length in range(6, 14):
        TokenCache(folder, "d", "t").encode(LONG, task_of("sst2"), tokenizer, length)


def test_several_processes_fill_one_token_cache(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    context, tokenizer = multiprocessing.get_context("fork"), tokenizer_of(bench)
    given = (tmp_path, tokenizer, time.time() + 0.3)
    workers = [context.Process(target=_fill, args=given) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fill(tmp_path, tokenizer, 0)
    assert len(list(tmp_path.iterdir())) == 8


def test_run_tokenises_once(bench, monkeypatch):
    first = bench.run()
    monkeypatch.setattr("craft.bench.glue.tokens.encode", None)
    second = bench.run("seed=1")
    assert first["provenance"]["tokens"] == second["provenance"]["tokens"]


# --- attention in rectangles of sequences of like length


def by_sequence(query, key, value, scaling, packing):
    """In float64, but for the softmax of `packed_attention`, which is that of the models: in
    float32."""
    lengths = np.diff(packing.edges.numpy()).tolist()
    found = []
    for q, k, v in zip(*(t[0].split(lengths, 1) for t in (query, key, value)), strict=True):
        found.append((q * scaling @ k.transpose(-1, -2)).softmax(-1) @ v)
    return torch.cat(found, 1).transpose(0, 1).unsqueeze(0)


@pytest.mark.parametrize("price", [0, 100, 10**9])  # from one rectangle a length to one in all
@pytest.mark.parametrize("lengths", [[7], [3, 3, 3], [2, 5, 5, 9, 17, 30], [9, 2, 9, 30, 1]])
def test_rectangles_are_attention_sequence_by_sequence(lengths, price, monkeypatch):
    monkeypatch.setattr(packing, "RECTANGLE", {"cpu": price})
    packing._rectangles.cache_clear()
    (found,) = packing.Packing.of_batches([np.array(lengths)], torch.device("cpu"))
    shapes = packing._rectangles(found.runs, 3, torch.float64, torch.device("cpu"))[0]
    assert len(shapes) == {0: len(found.runs), 10**9: 1}.get(price, len(shapes))
    torch.manual_seed(0)
    query, key, value = torch.randn(
        3, 1, sum(lengths), 3, 4, dtype=torch.float64, requires_grad=True
    )
    inputs = [t.transpose(1, 2) for t in (query, key, value)]
    ours, _ = packing.packed_attention(torch.nn.Module(), *inputs, None, 0.4, packing=found)
    theirs = by_sequence(*inputs, 0.4, found)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    by = torch.randn_like(ours)
    gradients = [torch.autograd.grad(o, (query, key, value), by) for o in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    packing._rectangles.cache_clear()


def test_no_other_rectangles_cost_less():
    random = np.random.default_rng(0)
    for _ in range(50):
        runs = [tuple(map(int, random.integers(1, (90, 5)))) for _ in range(random.integers(1, 9))]
        heads, price = int(random.integers(1, 13)), packing.RECTANGLE["cpu"]

        def rectangle(count, longest, heads=heads, price=price):
            return price + heads * count * longest**2

        def cost(groups, rectangle=rectangle):
            shapes = ((sum(c for _, c in group), max(n for n, _ in group)) for group in groups)
            return sum(rectangle(*shape) for shape in shapes)

        found = packing.together(runs, rectangle)
        assert [run for group in found for run in group] == runs
        cuts = itertools.product([False, True], repeat=len(runs) - 1)
        every = [np.split(np.arange(len(runs)), np.flatnonzero(cut) + 1) for cut in cuts]
        least = min(cost([[runs[i] for i in group] for group in groups]) for groups in every)
        assert cost(found) == least


# --- CUDA's variable-length kernel


def varlen_reference(query, key, value, edges, keys, longest, longest_key):
    """What torch's kernel computes, by a mask of blocks; (T, heads, head dim)."""
    assert edges.dtype == torch.int32 and torch.equal(edges, keys)
    assert edges[0] == 0 and edges[-1] == len(query) == len(key)
    lengths = edges.diff()
    assert (lengths > 0).all() and longest == longest_key == int(lengths.max())
    of = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    q, k, v = (t.transpose(0, 1) for t in (query, key, value))
    scores = q @ k.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(of[:, None] != of[None], float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1)


def logits_and_fp32_gradients(model, batch):
    logits = model(**batch.inputs).logits
    loss_of(logits, batch.labels, False, len(batch.rows)).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return logits.detach(), found


@pytest.mark.parametrize("folder", ["tiny_roberta", "tiny_bert"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_kernel_path_is_attention_within_each_sequence(folder, scale, request, bench, monkeypatch):
    """Also of batches after the first, whose edges are views, and with another scaling."""
    bench.model = request.getfixturevalue(folder)
    model = prepared(bench)
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling *= scale
    for batch in batches_of(bench, tokens_of(bench), "packed"):
        logits, gradients = logits_and_fp32_gradients(model, batch)
        with monkeypatch.context() as patch:
            patch.setattr("craft.bench.model.packing.without_kernel", lambda *_: None)
            patch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_reference)
            ours, found = logits_and_fp32_gradients(model, batch)
        torch.testing.assert_close(ours, logits, atol=1e-5, rtol=0)
        for name, gradient in gradients.items():
            assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("method", ["vera", "craft"])
def test_kernel_is_given_one_dtype(method, bench, monkeypatch):
    """Under autocast some adapters hand on float32, which the kernel refuses beside bfloat16."""
    asked, seen = [], []

    def kernel(*arguments):
        seen.append([t.dtype for t in arguments[:3]])
        return varlen_reference(*arguments)

    monkeypatch.setattr(
        "craft.bench.model.packing.without_kernel", lambda _, dtype, *more: asked.append(dtype)
    )
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    model = prepared(bench, method=method)
    seen.clear(), asked.clear()  # of the check at the door
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**next(iter(batches_of(bench, tokens_of(bench), "packed"))).inputs)
    assert set(asked) == {BF16} and seen == [[BF16] * 3] * model.config.num_hidden_layers


CUDA, BF16 = torch.device("cuda"), torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "capability", "reason"),
    [
        ((CUDA, BF16, 0.0), (9, 0), None),
        ((CUDA, torch.float16, 0.0, 64), (8, 0), None),
        ((torch.device("cpu"), BF16, 0.0), (9, 0), "needs a CUDA device"),
        ((CUDA, torch.float32, 0.0), (9, 0), "precision=bf16 or fp16"),
        ((CUDA, BF16, 0.1), (9, 0), "this is 0.1: train.attention_dropout=0"),
        ((CUDA, BF16, 0.0), (7, 5), "capability 8.0"),
        ((CUDA, BF16, 0.0, 20), (9, 0), "multiples of 8 up to 256, not 20"),
    ],
)
def test_kernel_serves_where_it_can_and_says_why_not(asked, capability, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = packing.without_kernel(*asked)
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


@pytest.mark.gpu
def test_kernel_equals_attention_sequence_by_sequence(bench):
    model = prepared(bench, "train.attention_dropout=0").cuda()
    tokens, how = tokens_of(bench), layout(bench.model, "packed")
    for batch in batches(tokens, np.arange(len(tokens)), 7, how, CUDA):
        with torch.autocast("cuda", dtype=BF16):
            ours = model(**batch.inputs).logits
        theirs = model(**batch.inputs).logits
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0.05)


# --- attention dropout as a setting


@pytest.mark.parametrize("folder", ["tiny_roberta", "tiny_bert"])
def test_attention_dropout_is_the_models_own_or_the_one_given(folder, request, bench):
    bench.model = request.getfixturevalue(folder)

    def seen(*more):
        config = bench.config(*more)
        model = prepare(config, locate(config.model), Seeds.of(0)).train()
        found, attention = set(), packing.packed_attention

        def watched(*arguments, dropout, **named):
            found.add(dropout)
            return attention(*arguments, dropout=dropout, **named)

        AttentionInterface.register(packing.NAME, watched)
        (batch, *_) = batches_of(bench, tokens_of(bench), "packed")
        model(**batch.inputs)
        AttentionInterface.register(packing.NAME, attention)
        others = {m.p for n, m in model.named_modules() if n.endswith("output.dropout")}
        assert others == {0.1}
        return found

    assert seen() == {0.1}
    assert seen("train.attention_dropout=0") == {0.0}
    assert seen("train.attention_dropout=0.3") == {0.3}


def test_attention_dropout_is_part_of_the_identity_unless_it_is_the_models(bench):
    def kept(*more):
        return identity(plain(bench.config(*more)), "m", "d", "t")

    assert "train.attention_dropout" not in kept()
    assert kept("train.attention_dropout=0")["train.attention_dropout"] == 0.0
    one, other = (kept(f"train.attention_dropout={zero}") for zero in ("0", "0.0"))
    assert record.digest(one) == record.digest(other) != record.digest(kept())
    with pytest.raises(InputError, match="train.attention_dropout must be a number from 0 to 1"):
        bench.config("train.attention_dropout=1.5")


# --- torch.compile of what is neither attention nor adapted


COMPILED = [("craft", "tiny_bert"), *((m, "tiny_roberta") for m in ("craft", "lora", "full"))]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's tracer asks for it
@pytest.mark.parametrize(("method", "folder"), [*COMPILED, ("adapter_pfeiffer", "tiny_roberta")])
def test_compiled_blocks_compute_what_the_model_does(method, folder, request, bench):
    """Batches of many sizes, one graph for each kind of block."""
    bench.model = request.getfixturevalue(folder)
    compiled, model = prepared(bench, method=method), prepared(bench, method=method)
    torch._dynamo.reset()
    paths = compile_blocks(compiled, backend="aot_eager")
    kinds = {re.sub(r".*\.layer\.\d+\.", "", path) for path in paths}
    expected = {"attention.output", "intermediate", "output"}
    assert kinds == (expected - {"output"} if method == "adapter_pfeiffer" else expected)
    assert [n for n, _ in compiled.named_parameters()] == [n for n, _ in model.named_parameters()]
    counters = torch._dynamo.utils.counters
    counters.clear()
    for batch in batches_of(bench, tokens_of(bench), "packed"):
        logits, gradients = logits_and_fp32_gradients(model, batch)
        with frozen_casts(compiled):
            ours, found = logits_and_fp32_gradients(compiled, batch)
        torch.testing.assert_close(ours, logits, atol=1e-6, rtol=0)
        for name, gradient in gradients.items():
            assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 2 * len(kinds)


def test_nothing_to_compile_is_refused(bench):
    with pytest.raises(InputError, match=r"train.compile: .* has no part to compile"):
        prepared(bench, "train.compile=true", method="bitfit")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's tracer and compiler
def test_compiled_run_ends_where_the_plain_one_does(bench, tiny_roberta, tmp_path):
    """Without dropout, whose random stream is the compiler's own."""
    bench.model = Path(shutil.copytree(tiny_roberta, tmp_path / "still"))
    config = json.loads((bench.model / "config.json").read_text())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (bench.model / "config.json").write_text(json.dumps(config | still))
    torch._dynamo.reset()
    plain, compiled = (bench.run(f"train.compile={flag}") for flag in ("false", "true"))
    assert compiled["id"] != plain["id"]
    ours, theirs = ([e["loss"] for e in m["result"]["history"]] for m in (compiled, plain))
    assert theirs[0] != theirs[-1]
    assert ours == pytest.approx(theirs, rel=1e-4)
