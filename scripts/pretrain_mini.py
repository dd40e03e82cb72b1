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
import builtins
import hashlib
import json
import lzma
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizerFast,
)

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four have RoBERTa's ids
LAYERS = 12
LENGTH = 128
# share of positions to predict: 80 % become <mask>, 10 % a random token (Devlin et al. 2019)
MASKING = 0.2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="text file, .xz file or folder of them"
    )
    parser.add_argument("--out", type=Path, default=Path("results/models/roberta-mini"))
    parser.add_argument("--work", type=Path, default=Path("outputs/pretrain_mini"))
    parser.add_argument("--tokens", type=float, default=math.inf, help="budget in tokens")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="budget in minutes of training"
    )
    parser.add_argument(
        "--sequences",
        type=int,
        default=32,
        help="sequences of 128 tokens a step, all processes together",
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[12],
        help="progressive stacking: depths one after the other, each twice the last, e.g. 3 6 12",
    )
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0], help="share of the budget at each depth"
    )
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoder")
    parser.add_argument(
        "--peak-tflops", type=float, help="the device's bf16 peak, for model-FLOPs utilisation"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if math.isinf(given.tokens) and math.isinf(given.minutes):
        parser.error("give a budget: --tokens or --minutes")
    doubled = all(
        deep == 2 * shallow for shallow, deep in zip(given.depths, given.depths[1:], strict=False)
    )
    if not doubled or given.depths[-1] != LAYERS:
        parser.error(f"--depths {given.depths}: each must be twice the last, and the last {LAYERS}")
    if len(given.shares) != len(given.depths) or abs(sum(given.shares) - 1) > 1e-6:
        parser.error(f"--shares {given.shares} must be one for each depth and sum to 1")
    if not given.corpus.exists():
        parser.error(
            f"--corpus {given.corpus} does not exist; give a text file, "
            "an .xz file or a folder of them"
        )
    return given


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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


# ---- tokenizer and tokens ------------------------------------------------------------------------


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


# ---- batches -------------------------------------------------------------------------------------


class Sequences:
    """Sequences of 128 tokens, `<s>` + 126 tokens of running text + `</s>`; the last 1,024 are held
    out."""

    HELD_OUT = 1024

    def __init__(self, path: Path, seed: int) -> None:
        content = LENGTH - 2
        flat = np.memmap(path, dtype=np.uint16, mode="r")
        self.rows = flat[: len(flat) // content * content].reshape(-1, content)
        if len(self.rows) < 2 * self.HELD_OUT:
            sys.exit(
                f"pretrain_mini: the corpus has {len(flat)} tokens; at least "
                f"{2 * self.HELD_OUT * content} are needed"
            )
        self.trained = len(self.rows) - self.HELD_OUT
        self.seed = seed

    def framed(self, index: np.ndarray) -> torch.Tensor:
        rows = np.empty((len(index), LENGTH), dtype=np.int64)
        rows[:, 0], rows[:, -1] = 0, 2  # <s>, </s>
        rows[:, 1:-1] = self.rows[index]
        return torch.from_numpy(rows)

    def batch(self, step: int, size: int) -> torch.Tensor:
        """The rows of one step: a fresh permutation every epoch, the same on every process."""
        positions = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(positions // self.trained):
            chosen = positions // self.trained == epoch
            order = np.random.default_rng((self.seed, int(epoch))).permutation(self.trained)
            rows[chosen] = order[positions[chosen] % self.trained]
        return self.framed(rows)

    def held_out(self) -> torch.Tensor:
        return self.framed(np.arange(self.trained, len(self.rows)))


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


# ---- model ---------------------------------------------------------------------------------------


def mini_config(vocab_size: int, dropout: float, layers: int = LAYERS) -> RobertaConfig:
    """RoBERTa-base's depth at a quarter of its width; `dropout` is 0 in pre-training and 0.1 in the
    saved config."""
    return RobertaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=768,
        max_position_embeddings=LENGTH + 2,  # RoBERTa's positions start at 2
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        # about 1/sqrt(192): at 0.02 attention starts too flat and learns late
        initializer_range=0.05,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


@torch.no_grad()
def start_local(model: RobertaForMaskedLM) -> None:
    """Start attention near: sinusoidal position embeddings, still trained, and keys equal to
    queries.

    From random positions a small post-norm encoder spends tens of millions of tokens at the unigram
    loss before it finds neighbouring words; equal projections make similar positions attend to each
    other (Trockman and Kolter 2023)."""
    embedding = model.roberta.embeddings.position_embeddings.weight  # (130, 192)
    position = torch.arange(len(embedding), dtype=torch.float32)[:, None]
    frequency = torch.exp(
        torch.arange(0, embedding.shape[1], 2) * (-math.log(1000.0) / embedding.shape[1])
    )
    scale = (
        2**0.5 * model.config.initializer_range
    )  # the standard deviation of the other embeddings
    embedding[:, 0::2] = scale * torch.sin(position * frequency)
    embedding[:, 1::2] = scale * torch.cos(position * frequency)
    for layer in model.roberta.encoder.layer:
        attention: Any = layer.attention.self
        attention.key.weight.copy_(attention.query.weight)


def masked_loss(
    model: RobertaForMaskedLM, tokens: torch.Tensor, inputs: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the chosen positions; logits are computed for these alone."""
    hidden = model.roberta(inputs).last_hidden_state.flatten(0, 1)[chosen]  # (count, 192)
    return torch.nn.functional.cross_entropy(
        model.lm_head(hidden).float(), tokens.flatten()[chosen]
    )


@torch.no_grad()
def held_out_loss(model: RobertaForMaskedLM, rows: torch.Tensor, device: torch.device) -> float:
    model.eval()
    generator = torch.Generator().manual_seed(1)
    losses = []
    for tokens in rows.split(64):
        inputs, chosen = mask(tokens, model.config.vocab_size, generator)
        with torch.autocast(device.type, torch.bfloat16):
            losses.append(
                masked_loss(model, tokens.to(device), inputs.to(device), chosen.to(device))
            )
    model.train()
    return float(torch.stack(losses).mean())


def train_flops_per_token(config: RobertaConfig) -> float:
    """6 per weight that a token meets, plus attention's two products; the head sees the masked
    share of tokens."""
    d, layers = config.hidden_size, config.num_hidden_layers
    encoder = layers * (4 * d * d + 2 * d * config.intermediate_size)
    head = MASKING * (d * d + d * config.vocab_size)
    return 6 * (encoder + head) + 12 * layers * LENGTH * d


# ---- optimizer state on disk ---------------------------------------------------------------------


def save_checkpoint(
    path: Path, model: RobertaForMaskedLM, optimizer: torch.optim.AdamW, progress: dict
) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().cpu()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu()
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_progress(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["progress"])


def load_checkpoint(path: Path, model: RobertaForMaskedLM, optimizer: torch.optim.AdamW) -> None:
    tensors, progress = load_file(path), read_progress(path)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"weight.{name}"])
        optimizer.state[parameter] = {
            "step": torch.tensor(float(progress["step"]), device=parameter.device),
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
        }


# ---- training ------------------------------------------------------------------------------------


def learning_rate(peak: float, done: float) -> float:
    """Warm-up over 5 % of the budget, constant, then linear decay to zero over the last 40 %;
    `done` in [0, 1]."""
    return peak * min(done / 0.05, 1.0, (1.0 - done) / 0.4) if done < 1 else 0.0


def depth_at(given: argparse.Namespace, done: float) -> int:
    """The depth to train at a share of the budget."""
    ends = np.cumsum(given.shares)
    return given.depths[min(int(np.searchsorted(ends, done, side="right")), len(given.depths) - 1)]


def make_optimizer(model: RobertaForMaskedLM, lr: float) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


@torch.no_grad()
def stack(
    shallow: RobertaForMaskedLM,
    optimizer: torch.optim.AdamW,
    deep: RobertaForMaskedLM,
    its_optimizer: torch.optim.AdamW,
) -> None:
    """Fill a model of twice the depth: layer l takes weights and moments of layer l mod depth (Gong
    et al. 2019)."""
    depth = shallow.config.num_hidden_layers
    source = dict(shallow.named_parameters())
    for name, parameter in deep.named_parameters():
        parts = name.split(".")
        if "layer" in parts:
            place = parts.index("layer") + 1
            parts[place] = str(int(parts[place]) % depth)
        origin = source[".".join(parts)]
        parameter.copy_(origin)
        its_optimizer.state[parameter] = {
            key: value.clone() for key, value in optimizer.state[origin].items()
        }


def hardware(device: torch.device, processes: int, threads: int) -> str:
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return f"CPU ({cpu}), {processes} processes of {threads} threads"


def train(given: argparse.Namespace, vocab_size: int, tokens_file: Path) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if cuda
        else torch.device("cpu")
    )
    if processes > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)

    attention = "sdpa" if cuda else "eager"  # CPU bf16: sdpa's backward is the slow one

    def make(depth: int) -> tuple[RobertaForMaskedLM, torch.optim.AdamW]:
        config = mini_config(vocab_size, dropout=0.0, layers=depth)
        config._attn_implementation = attention
        model = RobertaForMaskedLM(config)
        start_local(model)
        model.to(device)
        return model, make_optimizer(model, given.lr)

    checkpoint = given.work / "checkpoint.safetensors"
    progress = {"step": 0, "seconds": 0.0, "sequences": given.sequences, "depth": given.depths[0]}
    progress["hardware"] = []
    if checkpoint.exists():
        progress = read_progress(checkpoint)
    here = hardware(device, processes, given.threads)
    stretches = list(dict.fromkeys([*progress["hardware"], here]))
    model, optimizer = make(progress["depth"])
    if checkpoint.exists():
        load_checkpoint(checkpoint, model, optimizer)
        if progress["sequences"] != given.sequences:
            sys.exit(
                f"pretrain_mini: {checkpoint} was made with --sequences "
                f"{progress['sequences']}, not {given.sequences}"
            )
    loss_of = torch.compile(masked_loss) if given.compile else masked_loss

    sequences = Sequences(tokens_file, given.seed)
    share = given.sequences // processes
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopped.append(received))

    def report(
        step: int, seconds: float, since: float, steps: int, loss: float, done: float
    ) -> None:
        rate = steps * given.sequences * LENGTH / since
        flops = train_flops_per_token(model.config)
        utilisation = (
            f", {rate * flops / processes / given.peak_tflops / 1e10:.1f} % MFU"
            if given.peak_tflops
            else ""
        )
        left = seconds / 60 * (1 - done) / max(done, 1e-9)
        print(
            f"step {step}  {model.config.num_hidden_layers} layers  "
            f"{step * given.sequences * LENGTH / 1e6:.1f}M tokens  loss {loss:.3f}  "
            f"{rate / 1e3:.1f}k tokens/s"
            f"{utilisation}  {100 * done:.1f} % done, {left:.0f} min left",
            flush=True,
        )

    start = clock = saved = time.perf_counter()
    before = progress["seconds"]
    step = reported = progress["step"]
    recent = torch.zeros((), device=device)
    while True:
        seconds = before + time.perf_counter() - start
        state = torch.tensor([seconds, float(bool(stopped))], dtype=torch.float64)
        if processes > 1:  # all processes must agree on the schedule and on the end
            state = state.to(device)
            dist.all_reduce(state, dist.ReduceOp.MAX)
        seconds, stop = state.tolist()
        done = min(
            1.0, max(step * given.sequences * LENGTH / given.tokens, seconds / 60 / given.minutes)
        )
        if (
            rank == 0
            and (time.perf_counter() - saved > 60 * given.checkpoint_minutes or stop or done >= 1)
            and step > 0
        ):
            facts = {"step": step, "seconds": seconds, "sequences": given.sequences}
            facts |= {"depth": model.config.num_hidden_layers, "hardware": stretches}
            save_checkpoint(checkpoint, model, optimizer, facts)
            saved = time.perf_counter()
        if stop:
            sys.exit(f"pretrain_mini: stopped at step {step}; start again to go on")
        if done >= 1:
            break
        if model.config.num_hidden_layers < depth_at(given, done):
            deeper, its_optimizer = make(depth_at(given, done))
            stack(model, optimizer, deeper, its_optimizer)
            model, optimizer = deeper, its_optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(given.lr, done)
        parameters = list(model.parameters())
        tokens = sequences.batch(step, given.sequences)[rank * share : (rank + 1) * share]
        generator = torch.Generator().manual_seed(hash((given.seed, step, rank)) % 2**63)
        inputs, chosen = mask(tokens, vocab_size, generator)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model, tokens.to(device), inputs.to(device), chosen.to(device))
        loss.backward()
        if processes > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient)).div_(processes)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        recent += loss.detach()
        if rank == 0 and time.perf_counter() - clock > 20:
            since, clock = time.perf_counter() - clock, time.perf_counter()
            report(step, seconds, since, step - reported, float(recent) / (step - reported), done)
            reported = step
            recent.zero_()

    if rank == 0:
        finish(given, model, sequences, device, step, seconds, processes, stretches)
    if processes > 1:
        dist.destroy_process_group()


def finish(
    given: argparse.Namespace,
    model: RobertaForMaskedLM,
    sequences: Sequences,
    device: torch.device,
    step: int,
    seconds: float,
    processes: int,
    stretches: list[str],
) -> None:
    """Write the model as fp16 safetensors and what is known of its training; the loss is that of
    the written weights."""
    config = mini_config(model.config.vocab_size, dropout=0.1)
    written = RobertaForMaskedLM(config)
    written.load_state_dict(model.state_dict())
    written.half().save_pretrained(given.out)
    loss = held_out_loss(model.half().float(), sequences.held_out(), device)
    digest = hashlib.sha256()
    for file in corpus_files(given.corpus):
        digest.update(file.read_bytes())
    tokens = step * given.sequences * LENGTH
    facts = {
        "corpus": [file.name for file in corpus_files(given.corpus)],
        "corpus_sha256": digest.hexdigest(),
        "corpus_tokens": int(sequences.rows.size),
        "tokens": tokens,
        "steps": step,
        "sequences_per_step": given.sequences,
        "sequence_length": LENGTH,
        "masking": MASKING,
        "depths": given.depths,
        "budget_shares": given.shares,
        "learning_rate": given.lr,
        "schedule": "warm-up 5 %, constant, linear decay over the last 40 % of the budget",
        "optimizer": "AdamW, betas 0.9 and 0.98, eps 1e-6, weight decay 0.01 on matrices, "
        "gradient norm clipped at 1",
        "precision": "bf16 autocast, float32 weights; saved in fp16",
        "seed": given.seed,
        "hardware": ", then ".join(stretches),
        "torch": torch.__version__.split("+")[0],
        "training_seconds": round(seconds),
        "tokens_per_second": round(tokens / seconds),
        "held_out_sequences": Sequences.HELD_OUT,
        "held_out_loss": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 2),
    }
    if given.peak_tflops:
        rate = tokens / seconds * train_flops_per_token(config) / processes
        facts["model_flops_utilisation"] = round(rate / given.peak_tflops / 1e12, 4)
    write_atomically(given.out / "pretraining.json", json.dumps(facts, indent=2) + "\n")
    print(
        f"held-out loss {loss:.4f}, perplexity {math.exp(loss):.2f}; written to {given.out}",
        flush=True,
    )


def main() -> None:
    given = arguments()
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
    tokenizer = RobertaTokenizerFast.from_pretrained(given.out)
    train(given, len(tokenizer), tokens_file)


if __name__ == "__main__":
    main()
