"""A bench small enough for tests: tiny encoders and GLUE files and their runs."""

import copy
import functools
import json
import random
from pathlib import Path

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    CamembertConfig,
    DistilBertConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
)

from craft.bench.run.run import run
from craft.bench.settings.declared import read
from craft.bench.settings.resolve import check, differs
from craft.bench.settings.sections import RunConfig, Task

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
TASKS = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
WORDS = (
    "a the one this film plot actor scene story ending was seemed felt looks quite very so".split()
)
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
ROWS = {"train": 20, "dev": 12, "test": 5}
RANKS = {"craft": ["method.peft.ranks=[2,8,8]"]}  # within the tiny shape: nothing is clipped


def save_roberta(folder: Path) -> Path:
    """A random encoder of RoBERTa's kind: positions from 2 on, no token types."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "results" / "models" / "roberta-mini")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, type_vocab_size=1,
        initializer_range=0.2, **SHAPE,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_bert(folder: Path) -> Path:
    """A random encoder of BERT's kind: positions from 0 on, two token types, a pooler."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: n for n, word in enumerate([*special, *WORDS, "good", "bad", ".", "?"])}
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.2, **SHAPE
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


POSITIONS = {"max_position_embeddings": 66, "initializer_range": 0.2}
# encoders whose query and value peft has no names for, or names of another kind
OTHERS: dict[str, PretrainedConfig] = {
    "camembert": CamembertConfig(pad_token_id=1, **POSITIONS, **SHAPE),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=48, **POSITIONS),
    "mpnet": MPNetConfig(pad_token_id=1, **POSITIONS, **SHAPE),
}


def save_other(folder: Path, kind: str) -> Path:
    """A random encoder of another kind, with RoBERTa's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "results" / "models" / "roberta-mini")
    torch.manual_seed(2)
    config = copy.deepcopy(OTHERS[kind])
    config.vocab_size = len(tokenizer)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def task_of(name: str) -> Task:
    facts = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    return read(Task, facts, f"task {name}")  # type: ignore[arg-type]


def sentence(dice: random.Random, word: str) -> str:
    words = dice.choices(WORDS, k=dice.randint(2, 9))
    words.insert(dice.randrange(len(words)), word)
    return " ".join(words)


def examples(task: Task, rows: int, seed: str) -> list[dict[str, str]]:
    """Rows in the official files' terms; one word of the first text decides the label."""
    dice = random.Random(seed)
    found = []
    for row in range(rows):
        label = row % (len(task.labels) or 6)
        texts = [sentence(dice, ("bad", "good")[label % 2]), sentence(dice, "so")]
        found.append(dict(zip(task.columns, texts, strict=False)))
        named = task.name in ("mnli", "qnli", "rte")
        found[-1]["label"] = (
            (task.labels[label] if named else str(label)) if task.labels else f"{label * 0.9:.3f}"
        )
        found[-1]["idx"] = str(row)
    return found


def write_tsv(path: Path, columns: dict, rows: list[dict[str, str]], width: int | None) -> None:
    """Our columns at their places in an official file, among others."""
    headed = width is None
    names = ["other", *columns.values()] if headed else list(range(width))
    lines = ["\t".join(names)] if headed else []
    for row in rows:
        fields = {place: row[ours] for ours, place in columns.items()}
        lines.append("\t".join(fields.get(name, "-") for name in names))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_task(folder: Path, task: Task) -> None:
    for split, file in task.tsv.files.items():
        test = split in task.test
        kind = "test" if test else "train" if split == "train" else "dev"
        columns = task.tsv.test_columns if test else task.tsv.columns
        width = None if test else task.tsv.width
        rows = examples(task, ROWS[kind], f"{task.name} {split}")
        write_tsv(folder / task.folder / f"{file}.tsv", dict(columns), rows, width)


def write_glue(folder: Path) -> Path:
    for name in TASKS:
        write_task(folder, task_of(name))
    return folder


@functools.cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", list(choices))


def compose(*overrides: str) -> DictConfig:
    """What Hydra composes; the choice of files once, for it is half of a tiny run's time."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [o.input_line for o in parsed if (CONFIGS / o.key_or_group).is_dir()]
    cfg = copy.deepcopy(_composed(tuple(choices)))
    for override in parsed:
        if override.input_line not in choices:
            OmegaConf.update(
                cfg, override.key_or_group, override.value(), force_add=override.is_add()
            )
    return cfg


def checked(*overrides: str) -> RunConfig:
    given = ["model=local", "model.path=nowhere", "train.lr=1", "train.head_lr=1", "train.epochs=1"]
    return check(compose(*given, "train.device=cpu", *overrides))


class Bench:
    """Runs on the tiny encoders and files, in a folder of their own."""

    def __init__(self, model: Path, glue: Path, outputs: Path) -> None:
        self.model, self.glue, self.outputs = model, glue, outputs

    def overrides(self, *more: str, method: str = "craft", task: str = "rte") -> list[str]:
        """The command line of a run of some seconds; the later of two values of a key wins."""
        given = [
            "model=local", f"model.path={self.model}", "data=local", f"data.dir={self.glue}",
            "logger=none", f"outputs={self.outputs}", f"task={task}", f"method={method}",
            *RANKS.get(method, []), "train.lr=1e-2", "train.head_lr=1e-2", "train.epochs=2",
            "train.batch_size=8", "train.max_length=32", "train.device=cpu",
        ]  # fmt: skip
        keys = {line.split("=")[0]: line for line in (*given, *more)}
        return list(keys.values())

    def config(self, *more: str, **choices: str) -> RunConfig:
        return check(compose(*self.overrides(*more, **choices)))

    def run(self, *more: str, stop=lambda: False, said: list | None = None, **choices: str) -> dict:
        cfg = compose(*self.overrides(*more, **choices))
        say = (said if said is not None else []).append
        said = {"experiment": None, "differs": differs(cfg)}
        made = run(check(cfg), "a test", stop, say, said=said)
        return json.loads((self.outputs / "runs" / made.name / "record.json").read_text())

    def folder(self) -> Path:
        """The one run's folder."""
        (folder,) = (self.outputs / "runs").iterdir()
        return folder

    def files(self) -> list[Path]:
        """What lies in the outputs, caches apart."""
        found = [path for path in self.outputs.rglob("*") if path.is_file()]
        return [path for path in found if self.outputs / "cache" not in path.parents]

    def elsewhere(self, name: str) -> "Bench":
        return Bench(self.model, self.glue, self.outputs.with_name(name))


METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))


def method_of(name):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [f"method={name}", "model=roberta_mini", "data=mini", "train.device=cpu"]
        return check(hydra.compose("train", overrides=overrides)).method
