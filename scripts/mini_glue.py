"""Make mini-GLUE: the nine tasks in GLUE's columns and splits, from a seeded generator of English.

python scripts/mini_glue.py [out=craft/bench/glue/mini] [seed=0]

Synthetic, not GLUE (docs/mini_glue.md). The sentences come from `english`; this module draws the
labels, keeps the splits apart and lays out the columns. The tables of seed 0 are frozen in
craft/bench/glue/mini, where the bench reads them; this is what made them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from english.acceptability import cola
from english.answers import qnli
from english.dice import Dice
from english.entailment import mnli
from english.lexicon import MATCHED, MISMATCHED
from english.paraphrase import mrpc, stsb
from english.passages import rte
from english.pronouns import wnli
from english.questions import qqp
from english.sentiment import sst2

from craft.bench.cli.parser import options
from craft.bench.cli.process import start

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class MiniTask:
    """A task: its text columns, its generator, and the share of each class, which are GLUE's own.

    The generator takes dice and a class and gives the texts, and after them the label where that is
    not the class (STS-B, whose class is the number of differences).
    """

    columns: tuple[str, ...]
    generate: Callable[..., tuple[Any, ...]]
    shares: tuple[float, ...]
    train: int = 2000
    validation: int = 400
    test: int = 200


TASKS = {
    "cola": MiniTask(("sentence",), cola, (0.3, 0.7)),
    "sst2": MiniTask(("sentence",), sst2, (0.45, 0.55)),
    "mrpc": MiniTask(("sentence1", "sentence2"), mrpc, (0.32, 0.68)),
    "stsb": MiniTask(("sentence1", "sentence2"), stsb, (0.2, 0.18, 0.16, 0.14, 0.12, 0.2)),
    "qqp": MiniTask(("question1", "question2"), qqp, (0.63, 0.37)),
    "mnli": MiniTask(("premise", "hypothesis"), mnli, (1 / 3,) * 3),
    "qnli": MiniTask(("question", "sentence"), qnli, (0.5, 0.5)),
    "rte": MiniTask(("sentence1", "sentence2"), rte, (0.5, 0.5), train=1500, validation=300),
    "wnli": MiniTask(
        ("sentence1", "sentence2"), wnli, (0.5, 0.5), train=600, validation=120, test=60
    ),
}
SPLITS = ("train", "validation", "test")
MNLI_SPLITS = {  # with the scenes that each is about
    "train": MATCHED,
    "validation_matched": MATCHED,
    "validation_mismatched": MISMATCHED,
    "test_matched": MATCHED,
    "test_mismatched": MISMATCHED,
}


def load(task: str, seed: int = 0) -> dict[str, dict[str, list]]:
    """Split -> column -> values, in the form of the hub's `nyu-mll/glue`; test labels are -1.

    No text occurs in two splits of a task, and no example twice.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    made, splits, used = TASKS[task], {}, set()
    for split in MNLI_SPLITS if task == "mnli" else SPLITS:
        dice = Dice(f"mini-GLUE {seed} {task} {split}")
        options = {"scenes": MNLI_SPLITS[split]} if task == "mnli" else {}
        rows: dict[tuple[str, ...], Any] = {}
        for label in classes(dice, made.shares, getattr(made, split.split("_")[0])):
            texts, score = example(dice, made, label, options)
            while texts in rows or not used.isdisjoint(texts):
                texts, score = example(dice, made, label, options)
            rows[texts] = score
        used.update(text for texts in rows for text in texts)
        labels = list(rows.values())
        if split.startswith("test"):
            labels = [type(label)(-1) for label in labels]
        columns = dict(zip(made.columns, map(list, zip(*rows, strict=True)), strict=True))
        splits[split] = {**columns, "label": labels, "idx": list(range(len(rows)))}
    return splits


def classes(dice: Dice, shares: tuple[float, ...], size: int) -> list[int]:
    """The class of each example: exactly these shares, in random order."""
    counts = [round(share * size) for share in shares[:-1]]
    counts.append(size - sum(counts))
    return dice.shuffled([label for label, count in enumerate(counts) for _ in range(count)])


def example(dice: Dice, made: MiniTask, label: int, options: dict) -> tuple[tuple[str, ...], Any]:
    """The texts of one example and its label; the two texts of a pair differ."""
    drawn = made.generate(dice, label, **options)
    texts, score = drawn[: len(made.columns)], (*drawn, label)[len(made.columns)]
    return (texts, score) if len(set(texts)) == len(texts) else example(dice, made, label, options)


def write(folder: Path, seed: int) -> None:
    """<folder>/<task>/<split>.parquet of all tasks, the layout that data=local reads."""
    import pyarrow
    from pyarrow import parquet

    from craft.files import atomically

    for task in TASKS:
        for split, columns in load(task, seed).items():
            table = pyarrow.table(columns)
            with atomically(folder / task / f"{split}.parquet") as temporary:
                parquet.write_table(table, temporary, compression="zstd", compression_level=19)


def main() -> None:
    from craft.errors import InputError

    given = options(sys.argv[1:], out=str(ROOT / "craft" / "bench" / "glue" / "mini"), seed="0")
    if not str(given["seed"]).isdecimal():
        raise InputError(f"seed must be a whole number, not {given['seed']!r}")
    write(Path(str(given["out"])), int(str(given["seed"])))
    print(f"{len(TASKS)} tasks in {given['out']}")


if __name__ == "__main__":
    start(main)
