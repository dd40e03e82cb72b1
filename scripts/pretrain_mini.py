"""Pre-train the embedded mini RoBERTa by masked language modelling on plain English text.

    python scripts/pretrain_mini.py --corpus CORPUS --minutes 18                      one process,
    GPU if there is one
    torchrun --nproc-per-node 2 scripts/pretrain_mini.py --corpus CORPUS --tokens 1e8  two processes
    (CPU threads or GPUs)

CORPUS is a text file, an .xz text file or a folder of them: one paragraph a line, a blank line
between articles. Started again with the same --work folder, training goes on from its last
checkpoint, also under a larger budget. The model, its tokenizer and `pretraining.json` (what was
done, and the held-out loss) end in --out."""

import argparse
import hashlib
import json
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from pretraining.arguments import arguments
from pretraining.checkpoint import (
    CHECKPOINT,
    PretrainingProgress,
    Stretch,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from pretraining.corpus import (
    LENGTH,
    MASKING,
    Sequences,
    corpus_files,
    encode,
    mask,
    sentence_ends,
    train_tokenizer,
)
from pretraining.encoder import (
    PairedMaskedLM,
    held_out_loss,
    losses,
    make_optimizer,
    mini_config,
    stack,
    start_local,
    train_flops_per_token,
)
from pretraining.processes import Processes
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizerFast,
)


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def learning_rate(peak: float, done: float) -> float:
    """Warm-up over 5 % of the budget, constant, then linear decay to zero over the last 40 %;
    `done` in [0, 1]."""
    return peak * min(done / 0.05, 1.0, (1.0 - done) / 0.4) if done < 1 else 0.0


def share_done(given: argparse.Namespace, step: int, seconds: float) -> float:
    """How much of the budget is spent, in tokens or in minutes, whichever is more; in [0, 1]."""
    tokens = step * given.sequences * LENGTH
    return min(1.0, max(tokens / given.tokens, seconds / 60 / given.minutes))


def depth_at(given: argparse.Namespace, done: float) -> int:
    """The depth to train at a share of the budget."""
    ends = np.cumsum(given.shares)
    return given.depths[min(int(np.searchsorted(ends, done, side="right")), len(given.depths) - 1)]


class PretrainingReport:
    """A line of progress at most every 20 seconds."""

    def __init__(self, given: argparse.Namespace, processes: Processes, step: int) -> None:
        self.given, self.processes = given, processes
        self.clock, self.step = time.perf_counter(), step
        self.losses = torch.zeros(2, device=processes.device)  # masked, pairs
        self.begin: tuple[float, float] | None = None  # seconds and share done when this call began

    def observe(
        self,
        step: int,
        seconds: float,
        done: float,
        losses: tuple[torch.Tensor, torch.Tensor],
        config: RobertaConfig,
    ) -> None:
        self.losses += torch.stack(losses).detach()
        self.begin = self.begin or (seconds, done)
        since = time.perf_counter() - self.clock
        if since <= 20:
            return
        steps, sequences = step - self.step, self.given.sequences
        rate = steps * sequences * LENGTH / since
        share = utilisation(self.given, self.processes, rate, config)
        spent, gained = seconds - self.begin[0], done - self.begin[1]
        left = spent / 60 * (1 - done) / max(gained, 1e-9)
        masked, pairs = (self.losses / steps).tolist()
        used = "" if share is None else f", {100 * share:.1f} % MFU"
        print(
            f"step {step}  {config.num_hidden_layers} layers  "
            f"{step * sequences * LENGTH / 1e6:.1f}M tokens  loss {masked:.3f}, pairs {pairs:.3f}  "
            f"{rate / 1e3:.1f}k tokens/s{used}  {100 * done:.1f} % done, {left:.0f} min left",
            flush=True,
        )
        self.clock, self.step = time.perf_counter(), step
        self.losses.zero_()


def utilisation(
    given: argparse.Namespace, processes: Processes, rate: float, config: RobertaConfig
) -> float | None:
    """Model-FLOPs utilisation of each device at `rate` tokens a second; None where the peak is not
    known."""
    if not given.peak_tflops:
        return None
    return rate * train_flops_per_token(config) / processes.count / given.peak_tflops / 1e12


def budget(given: argparse.Namespace) -> str:
    """The budget in words, as the model's card gives it."""
    parts = []
    if not math.isinf(given.tokens):
        parts.append(f"{given.tokens / 1e6:g}M tokens")
    if not math.isinf(given.minutes):
        parts.append(f"{given.minutes:g} minutes")
    return " or ".join(parts)


def train(given: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, tokens_file: Path) -> None:
    vocab_size = len(tokenizer)
    processes = Processes.join()
    device, lead = processes.device, processes.rank == 0
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)

    attention = "eager" if device.type == "cpu" else "sdpa"  # CPU bf16: sdpa's backward is slow

    def make(depth: int) -> tuple[PairedMaskedLM, torch.optim.AdamW]:
        config = mini_config(vocab_size, layers=depth)
        config._attn_implementation = attention
        model = PairedMaskedLM(config)
        start_local(model)
        model.to(device)
        return model, make_optimizer(model, given.lr)

    checkpoint = given.work / CHECKPOINT
    before = PretrainingProgress(0, 0.0, given.sequences, ())
    if checkpoint.exists():
        before = read_progress(checkpoint)
    if before.sequences != given.sequences:
        sys.exit(
            f"pretrain_mini: {checkpoint} was made with --sequences {before.sequences}, "
            f"not {given.sequences}"
        )
    depth = before.stretches[-1].depth if before.stretches else given.depths[0]
    model, optimizer = make(depth)
    if checkpoint.exists():
        load_checkpoint(checkpoint, model, optimizer)
    losses_of = torch.compile(losses) if given.compile else losses

    def stretch(step: int) -> Stretch:
        return Stretch(
            step, model.config.num_hidden_layers, given.pairs, given.restated, given.foreign,
            given.lr, budget(given), processes.hardware(given.threads),
        )  # fmt: skip

    sequences = Sequences(
        tokens_file,
        given.seed,
        given.pairs,
        given.restated,
        given.foreign,
        sentence_ends(tokenizer),
    )
    own = given.sequences // processes.count
    mine = slice(processes.rank * own, (processes.rank + 1) * own)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopped.append(received))

    def batch(step: int) -> tuple[torch.Tensor, ...]:
        tokens, shares = (part[mine] for part in sequences.batch(step, given.sequences))
        generator = torch.Generator().manual_seed(hash((given.seed, step, processes.rank)) % 2**63)
        return tokens, shares, *mask(tokens, vocab_size, generator)

    if given.compile:  # before the clock: it takes a good part of a budget of minutes
        with torch.autocast(device.type, torch.bfloat16):
            sum(losses_of(model, *(part.to(device) for part in batch(before.step)))).backward()
        optimizer.zero_grad()

    step, start, progress = before.step, time.perf_counter(), before.under(stretch(before.step))
    saved, report = start, PretrainingReport(given, processes, step)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(batch, step)
        while True:
            seconds, stop = processes.largest(
                before.seconds + time.perf_counter() - start, float(bool(stopped))
            )
            done = share_done(given, step, seconds)
            progress = replace(progress, step=step, seconds=seconds)
            due = time.perf_counter() - saved > 60 * given.checkpoint_minutes
            if lead and step > 0 and (due or stop or done >= 1):
                save_checkpoint(checkpoint, model, optimizer, progress)
                saved = time.perf_counter()
            if stop:
                sys.exit(f"pretrain_mini: stopped at step {step}; start again to go on")
            if done >= 1:
                break
            if model.config.num_hidden_layers < depth_at(given, done):
                deeper, its_optimizer = make(depth_at(given, done))
                stack(model, optimizer, deeper, its_optimizer)
                model, optimizer = deeper, its_optimizer
                progress = progress.under(stretch(step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(given.lr, done)
            parts = [part.to(device) for part in coming.result()]
            coming = ahead.submit(batch, step + 1)  # while the device computes
            with torch.autocast(device.type, torch.bfloat16):
                loss, pair_loss = losses_of(model, *parts)
            (loss + pair_loss).backward()
            parameters = list(model.parameters())
            processes.average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if lead:
                report.observe(step, seconds, done, (loss, pair_loss), model.config)

    if lead:
        finish(given, model, sequences, processes, progress)
    processes.leave()


def finish(
    given: argparse.Namespace,
    model: PairedMaskedLM,
    sequences: Sequences,
    processes: Processes,
    progress: PretrainingProgress,
) -> None:
    """Write the model as fp16 safetensors and what is known of its training; the loss is that of
    the written weights."""
    config = mini_config(model.config.vocab_size)
    model.without_pair_head().half().save_pretrained(given.out)
    loss = held_out_loss(model.half().float(), sequences.held_out(), processes.device)
    digest = hashlib.sha256()
    for file in corpus_files(given.corpus):
        digest.update(file.read_bytes())
    tokens = progress.step * given.sequences * LENGTH
    rate = tokens / progress.seconds
    # of a model that grew, no one depth's FLOPs are those of all tokens
    grown = len({stretch.depth for stretch in progress.stretches}) > 1
    share = None if grown else utilisation(given, processes, rate, config)
    facts = {
        "corpus": [file.name for file in corpus_files(given.corpus)],
        "corpus_sha256": digest.hexdigest(),
        "corpus_tokens": int(sequences.rows.size),
        "tokens": tokens,
        "steps": progress.step,
        "sequences_per_step": given.sequences,
        "sequence_length": LENGTH,
        "masking": MASKING,
        "stretches": [asdict(stretch) for stretch in progress.stretches],
        "schedule": "warm-up 5 %, constant, linear decay over the last 40 % of the budget",
        "optimizer": "AdamW, betas 0.9 and 0.98, eps 1e-6, weight decay 0.01 on matrices, "
        "gradient norm clipped at 1",
        "precision": "bf16 autocast, float32 weights; saved in fp16",
        "seed": given.seed,
        "torch": torch.__version__.split("+")[0],
        "training_seconds": round(progress.seconds),
        "tokens_per_second": round(rate),
        "held_out_sequences": Sequences.HELD_OUT,
        "held_out_loss": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 2),
    }
    if share is not None:
        facts["model_flops_utilisation"] = round(share, 4)
    write_atomically(given.out / "pretraining.json", json.dumps(facts, indent=2) + "\n")
    print(
        f"held-out loss {loss:.4f}, perplexity {math.exp(loss):.2f}; written to {given.out}",
        flush=True,
    )


def main() -> None:
    given = arguments(__doc__)
    given.work.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    tokens_file = given.work / "tokens.uint16"
    if int(os.environ.get("RANK", "0")) == 0:
        files = corpus_files(given.corpus)
        if not (given.out / "tokenizer.json").exists():
            print(f"training the tokenizer on {len(files)} files", flush=True)
            train_tokenizer(files, given.vocab_size, given.out)
        if not tokens_file.exists():
            encode(files, RobertaTokenizerFast.from_pretrained(given.out), tokens_file)
    while not tokens_file.exists():
        time.sleep(1)  # the first process encodes the corpus
    train(given, RobertaTokenizerFast.from_pretrained(given.out), tokens_file)


if __name__ == "__main__":
    main()
