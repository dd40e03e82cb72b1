"""Text to masked batches: files, tokenizer, one flat array of tokens, sequences, masks."""

import builtins
import json
import lzma
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four have RoBERTa's ids
LENGTH = 128
# share of positions to predict: 80 % become <mask>, 10 % a random token (Devlin et al. 2019)
MASKING = 0.2
SOURCES = ("restated", "following", "foreign")  # of a second text: see Sequences
SPLIT = 0.5  # share of second texts in two parts
NOISY = 0.5  # share of second texts with tokens dropped
DROPPED = 0.4  # of a noisy one's tokens, at most
SENTENCE_ENDS = [".", "?", "!", '."', ".)", "Ċ"]  # as byte-level tokens; the last is a line break


def corpus_files(corpus: Path) -> list[Path]:
    files = (
        sorted([*corpus.glob("*.txt"), *corpus.glob("*.txt.xz")]) if corpus.is_dir() else [corpus]
    )
    if not files:
        sys.exit(f"pretrain_mini: no .txt or .txt.xz file in {corpus}")
    return files


def paragraphs(file: Path) -> Iterator[str]:
    with (lzma if file.suffix == ".xz" else builtins).open(file, "rt", encoding="utf-8") as lines:
        yield from (line.rstrip("\n") for line in lines)


def train_tokenizer(
    files: list[Path], vocab_size: int, out: Path, sample_megabytes: int = 24
) -> None:
    """Train the byte-level BPE on the first `sample_megabytes` of every file and save it as a
    RoBERTa tokenizer."""

    def sample() -> Iterator[str]:
        for file in files:
            size = 0
            for paragraph in paragraphs(file):
                size += len(paragraph)
                if size > sample_megabytes * 1_000_000:
                    break
                yield paragraph

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        sample(), vocab_size, min_frequency=2, show_progress=False, special_tokens=SPECIAL_TOKENS
    )
    state = json.loads(bpe.to_str())
    merges = [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split(" "))
        for pair in state["model"]["merges"]
    ]
    tokenizer = RobertaTokenizerFast(
        vocab=state["model"]["vocab"], merges=merges, model_max_length=LENGTH
    )
    tokenizer.save_pretrained(out)


def encode(files: list[Path], tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write the corpus as one flat array of uint16 tokens, articles ended by `</s>`."""
    temporary = path.with_suffix(".tmp")
    written = 0
    with temporary.open("wb") as stream:

        def flush(block: list[str]) -> int:
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(block, add_special_tokens=False)
            end = [tokenizer.eos_token_id]
            tokens = [
                t for text, e in zip(block, encoded, strict=True) for t in (e.ids if text else end)
            ]
            np.asarray(tokens, dtype=np.uint16).tofile(stream)
            return len(tokens)

        for file in files:
            block: list[str] = []
            for paragraph in paragraphs(file):
                # a blank line ends an article; within an article a line break is one token of its
                # own
                block.append(paragraph + "\n" if paragraph else "")
                if len(block) == 20_000:
                    written += flush(block)
                    block = []
            written += flush(block)
            print(f"encoded {file.name}: {written / 1e6:.1f}M tokens so far", flush=True)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def sentence_ends(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The ids of the tokens after which a sequence may be cut in two."""
    known = tokenizer.get_vocab()
    return np.array([known[token] for token in SENTENCE_ENDS if token in known])


class Sequences:
    """Sequences of 128 tokens, `<s>` + 126 tokens of running text + `</s>`; the last 1,024 are held
    out. A share `pairs` of those trained on is framed as a pair, `<s> A </s></s> B </s>`.

    B restates A, comes from elsewhere in the corpus or follows A: drawn by the shares `restated`,
    `foreign` and the rest. `<s>` learns how much of B is from where; a small model that first meets
    pairs in fine-tuning has too few examples there to learn what it can take from both texts. Where
    some restate, half of all second texts are of parts with a source each, and half have tokens
    dropped: neither gives a restatement away. Where none does, this is BERT's next sentence."""

    HELD_OUT = 1024

    def __init__(
        self,
        path: Path,
        seed: int,
        pairs: float = 0.0,
        restated: float = 0.0,
        foreign: float = 0.0,
        ends: np.ndarray | None = None,
    ) -> None:
        self.pairs = pairs
        self.sources = np.array([restated, 1 - restated - foreign, foreign])
        self.is_end = np.zeros(2**16, dtype=bool)  # a token's id to whether a text may end there
        if ends is not None:
            self.is_end[ends] = True
        content = LENGTH - 2
        flat = np.memmap(path, dtype=np.uint16, mode="r").view(np.ndarray)
        self.rows = flat[: len(flat) // content * content].reshape(-1, content)
        if len(self.rows) < 2 * self.HELD_OUT:
            sys.exit(
                f"pretrain_mini: the corpus has {len(flat)} tokens; at least "
                f"{2 * self.HELD_OUT * content} are needed"
            )
        self.trained = len(self.rows) - self.HELD_OUT
        self.seed = seed
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def framed(self, index: np.ndarray) -> torch.Tensor:
        rows = np.empty((len(index), LENGTH), dtype=np.int64)
        rows[:, 0], rows[:, -1] = 0, 2  # <s>, </s>
        rows[:, 1:-1] = self.rows[index]
        return torch.from_numpy(rows)

    def batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The sequences of one step, a fresh permutation every epoch, the same on every process;
        and of each the share of B's tokens by source, (size, 3), zeros where it is one text."""
        positions = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(positions // self.trained):
            chosen = positions // self.trained == epoch
            if epoch != self.epoch:  # it takes longer than a card's step
                generator = np.random.default_rng((self.seed, int(epoch)))
                self.epoch, self.order = int(epoch), generator.permutation(self.trained)
            rows[chosen] = self.order[positions[chosen] % self.trained]
        tokens, shares = self.framed(rows), torch.zeros(size, len(SOURCES))
        generator = np.random.default_rng((self.seed, step))
        for place in np.flatnonzero(generator.random(size) < self.pairs):
            self.frame_pair(tokens[place].numpy(), shares[place].numpy(), generator)
        return tokens, shares

    def frame_pair(
        self, row: np.ndarray, shares: np.ndarray, generator: np.random.Generator
    ) -> None:
        """Frame one sequence in place as RoBERTa frames the two texts of a task, A cut after an end
        of a sentence, and fill in B's shares; no change where its middle has no end."""
        index = int(generator.integers(self.trained - 1))
        elsewhere = self.rows[index : index + 2].reshape(-1)  # one running text
        start = self.cut(elsewhere[: LENGTH - 2], generator)
        second = self.cut(row, generator)
        if start is None or second is None:
            return
        first, following = row[1:second].copy(), row[second:-1].copy()
        turn = int(generator.integers(len(first)))
        around = np.concatenate((first[-turn:], first[:-turn]))  # from any of its tokens on
        texts = around, following, elsewhere[start : start + LENGTH - 2]
        row[second : second + 2] = 2  # </s>
        place, end = second + 2, LENGTH - 1
        part, dropped = end, 0.0
        if self.sources[0]:
            if generator.random() < NOISY:
                dropped = DROPPED * generator.random()
            if generator.random() < SPLIT:
                part = int(generator.integers(1, end - place))
        # a weighted order without replacement; any two of the three texts fill B
        order = np.argsort(generator.exponential(size=3) / np.maximum(self.sources, 1e-9))
        for source in order:
            if place == end:
                break
            size = min(part, end - place, len(texts[source]))
            row[place : place + size] = excerpt(texts[source], size, dropped, generator)
            shares[source] = size / (end - second - 2)
            place, part = place + size, end

    def cut(self, row: np.ndarray, generator: np.random.Generator) -> int | None:
        """A place after an end of a sentence in the middle three quarters, drawn; None where there
        is none."""
        eighth = LENGTH // 8
        places = eighth + 1 + np.flatnonzero(self.is_end[row[eighth : LENGTH - eighth]])
        return int(generator.choice(places)) if len(places) else None

    def held_out(self) -> torch.Tensor:
        return self.framed(np.arange(self.trained, len(self.rows)))


def excerpt(
    text: np.ndarray, size: int, dropped: float, generator: np.random.Generator
) -> np.ndarray:
    """`size` tokens of a text's beginning in their order, between which a share `dropped` falls
    out, as far as the text has more."""
    width = min(len(text), round(size / (1 - dropped)))
    return text[np.sort(generator.choice(width, size, replace=False))]


def mask(
    tokens: torch.Tensor, vocab_size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the positions to predict and hide them; returns the hidden input and the flat chosen
    positions.

    Every batch has the same number of positions to predict, so that shapes never change."""
    count = round(MASKING * tokens.numel())
    score = torch.rand(tokens.shape, generator=generator).masked_fill(
        tokens < len(SPECIAL_TOKENS), 2.0
    )
    chosen = score.flatten().argsort()[:count]
    kind = torch.rand(count, generator=generator)
    original = tokens.flatten()[chosen]
    random = torch.randint(len(SPECIAL_TOKENS), vocab_size, (count,), generator=generator)
    hidden = torch.where(kind < 0.8, 4, torch.where(kind < 0.9, random, original))  # 4 = <mask>
    inputs = tokens.flatten().scatter(0, chosen, hidden).view_as(tokens)
    return inputs, chosen
