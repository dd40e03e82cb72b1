"""Pre-training of the embedded model: its batches, its masks, its growth, and a run cut short."""

import importlib
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import RobertaForMaskedLM

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = str(ROOT / "scripts")
VOCABULARY = 300
BUDGET = 10 * 2 * 128  # tokens: ten steps of two sequences


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, SCRIPTS)
    yield
    sys.path.remove(SCRIPTS)


@pytest.fixture(scope="module")
def corpus():
    return importlib.import_module("pretraining.corpus")


@pytest.fixture(scope="module")
def encoder():
    return importlib.import_module("pretraining.encoder")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Forty articles of some paragraphs, in two files, one of them compressed."""
    import lzma

    folder = tmp_path_factory.mktemp("corpus")
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abdeimnorst", k=drawn.randint(2, 8))) for _ in range(200)]
    lines = []
    for _ in range(40):
        for _ in range(drawn.randint(1, 4)):
            lines.append(" ".join(drawn.choices(words, k=60)) + ".")
        lines.append("")
    half = lines.index("", len(lines) // 2) + 1
    (folder / "a.txt").write_text("\n".join(lines[:half]))
    with lzma.open(folder / "b.txt.xz", "wt") as file:
        file.write("\n".join(lines[half:]))
    return folder


@pytest.fixture
def pretrain(text, corpus, monkeypatch):
    """The script in this process, on the small corpus: `pretrain(folder, *options)`."""
    script = importlib.import_module("pretrain_mini")
    monkeypatch.setattr(corpus.Sequences, "HELD_OUT", 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # bits are those of a CPU
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(folder: Path, *options: str) -> None:
        given = [
            "--corpus",
            str(text),
            "--out",
            str(folder / "out"),
            "--work",
            str(folder / "work"),
        ]
        given += ["--vocab-size", str(VOCABULARY), "--sequences", "2", *options]
        monkeypatch.setattr(sys, "argv", ["pretrain_mini.py", *given])
        script.main()

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def sequences(corpus, tmp_path, rows=40):
    flat = np.random.default_rng(0).integers(5, VOCABULARY, rows * 126 + 17).astype(np.uint16)
    flat.tofile(tmp_path / "tokens.uint16")
    return corpus.Sequences(tmp_path / "tokens.uint16", seed=3), flat


def test_every_epoch_has_every_trained_row_once_and_never_a_held_out_one(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(corpus.Sequences, "HELD_OUT", 8)
    found, flat = sequences(corpus, tmp_path)
    rows = flat[: 40 * 126].reshape(40, 126)
    size, steps = 7, 20  # 140 rows: over four epochs of 32, with batches across their ends
    batches = torch.cat([found.batch(step, size)[0] for step in range(steps)])
    assert batches.shape == (size * steps, 128)
    assert (batches[:, 0] == 0).all() and (batches[:, -1] == 2).all()
    order = np.concatenate([np.random.default_rng((3, e)).permutation(32) for e in range(5)])
    np.testing.assert_array_equal(batches[:, 1:-1], rows[order[: size * steps]])
    np.testing.assert_array_equal(found.held_out()[:, 1:-1], rows[32:])
    torch.testing.assert_close(found.batch(4, size)[0], batches[4 * size : 5 * size])  # back again


def test_pairs_are_cut_at_an_end_and_their_second_text_follows_or_is_from_elsewhere(
    corpus, tmp_path, monkeypatch
):
    """Every token of the corpus but the ends is its own place, so that it says what comes next."""
    monkeypatch.setattr(corpus.Sequences, "HELD_OUT", 8)
    end, rows, cuttable = 7, 400, 300
    flat = np.arange(rows * 126) + 8
    flat[: cuttable * 126 : 25] = end  # the last hundred rows have none
    flat.astype(np.uint16).tofile(tmp_path / "tokens.uint16")
    plain, none = corpus.Sequences(tmp_path / "tokens.uint16", 3).batch(0, rows - 8)
    assert (none == 0).all()
    made = corpus.Sequences(tmp_path / "tokens.uint16", 3, 0.5, 0.0, 0.25, np.array([end]))
    tokens, shares = made.batch(0, rows - 8)

    single = shares.sum(1) == 0
    assert torch.equal(tokens[single], plain[single])
    with_ends = (plain == end).any(1)
    assert single[~with_ends].all()
    assert abs((~single[with_ends]).float().mean() - 0.5) < 0.15
    assert abs(shares[~single, 2].mean() - 0.25) < 0.15
    for row, before, share in zip(
        tokens[~single].numpy(), plain[~single].numpy(), shares[~single].tolist(), strict=True
    ):
        first, second, last = np.flatnonzero(row == 2)
        assert (second, last) == (first + 1, 127)
        assert 16 < first <= 112 and row[first - 1] == end
        np.testing.assert_array_equal(row[:first], before[:first])
        following = row[second + 1 : last]
        start = following[0] - 8  # its place in the corpus
        np.testing.assert_array_equal(following, flat[start : start + len(following)])
        assert flat[start - 1] == end and start + len(following) < (rows - 8) * 126
        assert share == ([0, 1, 0] if following[0] == before[first] else [0, 0, 1])


def test_second_texts_that_restate_are_of_the_first_and_the_shares_count_their_sources(
    corpus, tmp_path, monkeypatch
):
    """Every token of the corpus is its own place, so that it says where it is from."""
    monkeypatch.setattr(corpus.Sequences, "HELD_OUT", 8)
    rows = 500
    flat = (np.arange(rows * 126) + 8).astype(np.uint16)
    flat.tofile(tmp_path / "tokens.uint16")
    ends = flat[::9]
    plain, _ = corpus.Sequences(tmp_path / "tokens.uint16", 3).batch(0, rows - 8)
    made = corpus.Sequences(tmp_path / "tokens.uint16", 3, 1.0, 0.5, 0.2, ends)
    tokens, shares = made.batch(0, rows - 8)
    torch.testing.assert_close(shares.sum(1), torch.ones(rows - 8))
    whole = (shares == 1).any(1)
    assert abs(whole.float().mean() - 0.5) < 0.15  # of one source
    as_counted, turned, dropped = [], [], []
    for row, before, share in zip(tokens.numpy(), plain.numpy(), shares.numpy(), strict=True):
        first, second, last = np.flatnonzero(row == 2)
        assert (second, last) == (first + 1, 127)
        np.testing.assert_array_equal(row[:first], before[:first])
        text = row[second + 1 : last]
        restated = np.isin(text, before[1:first])
        following = np.isin(text, before[first:-1])
        counted = np.array([restated.sum(), following.sum(), (~restated & ~following).sum()])
        once = len(np.unique(text)) == len(text)
        as_counted.append(once and np.allclose(share, counted / len(text), atol=1e-6))
        places = text.astype(int)
        if share[0] == 1:  # A from any of its tokens on, then from its first: one step back at most
            assert (np.diff(places) < 0).sum() <= 1
            turned.append((np.diff(places) < 0).any())
        if share[1] == 1 and places[-1] - places[0] + 1 == len(text):
            assert text[0] in before[first : first + 3]  # two tokens fall out
        if share[2] == 1:
            span = int(text[-1]) - int(text[0]) + 1
            dropped.append(1 - len(text) / span)
            assert len(text) < span or text[0] - 1 in ends
    assert np.mean(as_counted) > 0.98  # elsewhere may by chance be here
    assert any(turned) and not all(turned)
    assert len(dropped) > 20 and 0.3 < (np.array(dropped) == 0).mean() < 0.75
    assert 0.2 < max(dropped) < corpus.DROPPED + 0.02


def test_the_ends_of_sentences_are_tokens_of_the_tokenizer(corpus):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "results" / "models" / "roberta-mini")
    ids = corpus.sentence_ends(tokenizer)
    assert sorted(tokenizer.decode([i]) for i in ids) == sorted([".", "?", "!", '."', ".)", "\n"])


def test_masking_hides_a_fifth_and_nothing_special(corpus):
    tokens = torch.randint(5, VOCABULARY, (64, 128), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, -1], tokens[5, 40] = 0, 2, 2
    inputs, chosen = corpus.mask(tokens, VOCABULARY, torch.Generator().manual_seed(1))
    count = round(0.2 * tokens.numel())
    assert len(chosen) == len(chosen.unique()) == count
    original, seen = tokens.flatten(), inputs.flatten()
    assert (original[chosen] >= 5).all()
    others = torch.ones(tokens.numel(), dtype=torch.bool)
    others[chosen] = False
    assert torch.equal(original[others], seen[others])
    masked = (seen[chosen] == 4).float().mean()
    kept = (seen[chosen] == original[chosen]).float().mean()
    assert abs(masked - 0.8) < 0.04 and abs(kept - 0.1) < 0.04
    assert seen[chosen].max() < VOCABULARY and (seen[chosen] >= 4).all()


def test_the_loss_of_the_chosen_positions_is_transformers_masked_loss(corpus, encoder):
    torch.manual_seed(0)
    model = RobertaForMaskedLM(encoder.mini_config(VOCABULARY, layers=3))
    tokens = torch.randint(5, VOCABULARY, (4, 128))
    inputs, chosen = corpus.mask(tokens, VOCABULARY, torch.Generator().manual_seed(1))
    labels = torch.full_like(tokens, -100).flatten()
    labels[chosen] = tokens.flatten()[chosen]
    whole = model(input_ids=inputs, labels=labels.view_as(tokens)).loss
    torch.testing.assert_close(encoder.masked_loss(model, tokens, inputs, chosen), whole)


def test_the_loss_of_pairs_is_that_of_the_pairs_alone_and_the_masked_loss_stays(corpus, encoder):
    torch.manual_seed(0)
    model = encoder.PairedMaskedLM(encoder.mini_config(VOCABULARY, layers=3))
    tokens = torch.randint(5, VOCABULARY, (4, 128))
    tokens[:, 0] = 0
    inputs, chosen = corpus.mask(tokens, VOCABULARY, torch.Generator().manual_seed(1))
    shares = torch.tensor([[0.25, 0.75, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]])
    masked, pairs = encoder.losses(model, tokens, shares, inputs, chosen)
    torch.testing.assert_close(masked, encoder.masked_loss(model, tokens, inputs, chosen))
    log = torch.log_softmax(model.pair_head(model.roberta(inputs).last_hidden_state[:, 0]), -1)
    expected = -(0.25 * log[0, 0] + 0.75 * log[0, 1] + log[2, 2] + log[3, 1]) / 3
    torch.testing.assert_close(pairs, expected)
    _, without = encoder.losses(model, tokens, torch.zeros(4, 3), inputs, chosen)
    assert without.item() == 0
    plain = model.without_pair_head()
    assert not any("pair_head" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(input_ids=inputs).logits, model(input_ids=inputs).logits)


def test_stacking_repeats_layers_with_their_moments(encoder):
    torch.manual_seed(0)
    shallow = RobertaForMaskedLM(encoder.mini_config(VOCABULARY, layers=3))
    optimizer = encoder.make_optimizer(shallow, 1e-3)
    shallow(input_ids=torch.randint(5, VOCABULARY, (1, 128))).logits.square().mean().backward()
    optimizer.step()
    deep = RobertaForMaskedLM(encoder.mini_config(VOCABULARY, layers=6))
    its_optimizer = encoder.make_optimizer(deep, 1e-3)
    encoder.stack(shallow, optimizer, deep, its_optimizer)
    for layer in range(6):
        own = deep.roberta.encoder.layer[layer].state_dict()
        for name, value in shallow.roberta.encoder.layer[layer % 3].state_dict().items():
            assert torch.equal(own[name], value), (layer, name)
    word = [m.roberta.embeddings.word_embeddings.weight for m in (deep, shallow)]
    assert torch.equal(*word)
    query = deep.roberta.encoder.layer[4].attention.self.query.weight
    origin = shallow.roberta.encoder.layer[1].attention.self.query.weight
    moment = its_optimizer.state[query]["exp_avg"]
    assert moment.abs().max() > 0
    assert torch.equal(moment, optimizer.state[origin]["exp_avg"])
    moment.zero_()  # a copy, not the other's own
    assert optimizer.state[origin]["exp_avg"].abs().max() > 0


def test_flops_of_a_token_are_counted_from_the_products(encoder):
    from torch.utils.flop_counter import FlopCounterMode

    config = encoder.mini_config(VOCABULARY)
    config._attn_implementation = "eager"
    model = RobertaForMaskedLM(config)
    tokens = torch.randint(5, VOCABULARY, (2, 128))
    chosen = torch.arange(round(0.2 * tokens.numel()))
    with FlopCounterMode(display=False) as counter:
        encoder.masked_loss(model, tokens, tokens, chosen).backward()
    counted = counter.get_total_flops() / tokens.numel()
    # both count the backward of the first layer's products in full
    assert encoder.train_flops_per_token(config) == pytest.approx(counted, rel=0.02)


def test_the_schedule_warms_up_holds_and_decays():
    script = importlib.import_module("pretrain_mini")
    rates = [script.learning_rate(2.0, done) for done in (0, 0.025, 0.05, 0.6, 0.8, 0.9999, 1)]
    assert rates == pytest.approx([0, 1, 2, 2, 1, 5e-4, 0], abs=1e-9)


def test_a_run_cut_short_ends_where_an_unbroken_one_does(pretrain, tmp_path, monkeypatch):
    """Over all three depths, cut at every one of them; its checkpoint is safetensors."""
    depths = ["--depths", "3", "6", "12", "--shares", "0.4", "0.3", "0.3"]
    budget = ["--tokens", str(BUDGET), *depths]
    pretrain(tmp_path / "whole", *budget)

    script = importlib.import_module("pretrain_mini")
    true, steps = script.losses, []

    def counted(*given):
        steps.append(len(steps))
        if len(steps) in (2, 6, 9):
            os.kill(os.getpid(), signal.SIGTERM)
        return true(*given)

    monkeypatch.setattr(script, "losses", counted)
    for ends in (2, 6, 9):
        with pytest.raises(SystemExit, match=f"stopped at step {ends}; start again to go on"):
            pretrain(tmp_path / "cut", *budget)
    pretrain(tmp_path / "cut", *budget)
    assert len(steps) == 10
    written = [tmp_path / name / "out" for name in ("whole", "cut")]
    whole, cut = ((folder / "model.safetensors").read_bytes() for folder in written)
    assert whole == cut
    facts, others = (json.loads((f / "pretraining.json").read_text()) for f in written)
    assert facts["tokens"] == BUDGET and facts["steps"] == 10
    ends = [(each["from_step"], each["depth"]) for each in facts["stretches"]]
    assert ends == [(0, 3), (4, 6), (7, 12)]
    timed = {"training_seconds", "tokens_per_second"}
    assert {k: v for k, v in facts.items() if k not in timed} == {
        k: v for k, v in others.items() if k not in timed
    }
    assert {file.name for file in (tmp_path / "cut" / "work").iterdir()} == {
        "checkpoint.safetensors",
        "tokens.uint16",
    }

    with pytest.raises(SystemExit, match="was made with --sequences 2, not 4"):
        pretrain(tmp_path / "cut", *budget, "--sequences", "4")
    pretrain(tmp_path / "cut", "--tokens", str(2 * BUDGET))  # a larger budget goes on
    assert len(steps) == 20
    again = json.loads((tmp_path / "cut" / "out" / "pretraining.json").read_text())
    assert again["sequences_per_step"] == 2  # the checkpoint's
    assert again["stretches"][:3] == facts["stretches"]  # and what it was made under
    assert [(e["from_step"], e["depth"]) for e in again["stretches"][3:]] == [(10, 12)]


def test_the_written_model_and_tokenizer_load_and_its_loss_is_the_files(
    pretrain, encoder, corpus, tmp_path
):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    pretrain(tmp_path, "--tokens", str(BUDGET))
    out = tmp_path / "out"
    tokenizer = AutoTokenizer.from_pretrained(out)
    sentence = "tan bard remains in store"
    assert tokenizer.decode(tokenizer(sentence).input_ids, skip_special_tokens=True) == sentence
    assert tokenizer(sentence).input_ids[0] == 0 and tokenizer(sentence).input_ids[-1] == 2
    model = AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float32)
    assert model.config.num_hidden_layers == 12 and model.config.vocab_size == len(tokenizer)
    rows = corpus.Sequences(tmp_path / "work" / "tokens.uint16", 0).held_out()
    facts = json.loads((out / "pretraining.json").read_text())
    loss = encoder.held_out_loss(model, rows, torch.device("cpu"))
    assert facts["held_out_loss"] == pytest.approx(loss, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give a budget"),
        (["--tokens", "1e6", "--depths", "4", "12"], "each must be twice the last"),
        (["--tokens", "1e6", "--depths", "6", "12"], "must be one for each depth"),
        (["--tokens", "1e6", "--corpus", "nowhere"], "--corpus nowhere does not exist"),
        (["--tokens", "1e6", "--pairs", "1.5"], "--pairs 1.5 must be a share, from 0 to 1"),
        (["--tokens", "1e6", "--foreign", "-1"], "--foreign -1.0 must be a share, from 0 to 1"),
        (
            ["--tokens", "1e6", "--restated", "0.8"],
            "--restated 0.8 and --foreign 0.3 must sum to 1",
        ),
        (["--tokens", "1e6", "--sequences", "7"], "--sequences 7 must be a multiple of the 2 proc"),
    ],
)
def test_wrong_arguments_end_at_the_door(
    pretrain, tmp_path, monkeypatch, capsys, options, complaint
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        pretrain(tmp_path, *options)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_version_is_refused(pretrain, tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "work").mkdir()
    path = tmp_path / "work" / "checkpoint.safetensors"
    save_file({"weight.x": torch.zeros(1)}, path, metadata={"progress": '{"step": 1, "depth": 12}'})
    with pytest.raises(SystemExit, match="was made by another version; move it away"):
        pretrain(tmp_path, "--tokens", "1e6")


def test_a_corpus_too_small_is_refused(corpus, tmp_path):
    np.zeros(1000, dtype=np.uint16).tofile(tmp_path / "tokens.uint16")
    with pytest.raises(SystemExit, match="the corpus has 1000 tokens; at least 258048 are needed"):
        corpus.Sequences(tmp_path / "tokens.uint16", seed=0)


def _one_of_two(rank: int, port: int) -> None:
    sys.path.insert(0, SCRIPTS)
    from pretraining.processes import Processes

    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    processes = Processes.join()
    weights = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    for weight in weights:
        weight.grad = torch.full_like(weight, float(rank + 1))
    processes.average_gradients(weights)
    for weight in weights:
        assert torch.equal(weight.grad, torch.full_like(weight, 1.5))
    assert processes.largest(float(rank), float(-rank)) == [1.0, 0.0]
    processes.leave()


def test_two_processes_average_their_gradients_and_agree(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of the children
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one_of_two, (port,), nprocs=2)
