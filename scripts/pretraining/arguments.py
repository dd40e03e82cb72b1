"""The options of scripts/pretrain_mini.py, checked before anything loads."""

import argparse
import math
import os
from pathlib import Path

import torch

from pretraining.checkpoint import CHECKPOINT, read_progress
from pretraining.encoder import LAYERS


def arguments(description: str | None) -> argparse.Namespace:
    """The options given, checked; a mistake ends in argparse's one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
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
        help="sequences of 128 tokens a step, all processes together; the checkpoint's, else 32, "
        "on a GPU 256",
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
    parser.add_argument(
        "--pairs",
        type=float,
        default=0.5,
        help="share of sequences framed as a pair, <s> A </s></s> B </s>",
    )
    parser.add_argument(
        "--restated",
        type=float,
        default=0.4,
        help="share of pairs whose B restates A; <s> learns how much of B is from where",
    )
    parser.add_argument(
        "--foreign", type=float, default=0.3, help="share of pairs whose B is from elsewhere"
    )
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="torch.compile the encoder; on a GPU unless --no-compile",
    )
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
    for name in ("pairs", "restated", "foreign"):
        if not 0 <= (share := getattr(given, name)) <= 1:
            parser.error(f"--{name} {share} must be a share, from 0 to 1")
    if given.restated + given.foreign > 1:
        parser.error(
            f"--restated {given.restated} and --foreign {given.foreign} must sum to 1 at most"
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    checkpoint = given.work / CHECKPOINT
    if given.sequences is None and checkpoint.exists():
        given.sequences = read_progress(checkpoint).sequences
    elif given.sequences is None:
        usual = 256 if torch.cuda.is_available() else 32
        given.sequences = max(1, usual // processes) * processes
    if given.sequences < 1 or given.sequences % processes:
        parser.error(
            f"--sequences {given.sequences} must be a multiple of the {processes} processes"
        )
    if not given.corpus.exists():
        parser.error(
            f"--corpus {given.corpus} does not exist; give a text file, "
            "an .xz file or a folder of them"
        )
    return given
