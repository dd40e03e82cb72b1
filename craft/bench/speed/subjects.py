"""What is measured: encoders of a given shape with random weights, and texts of a GLUE task."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from craft.bench.glue import sources
from craft.bench.glue.sources import Split
from craft.bench.settings.resolve import check
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError

# hidden size, layers, heads, feed-forward
SHAPES = {
    "tiny": (32, 2, 2, 48),
    "mini": (192, 12, 3, 768),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}
RANKS = (24, 100, 100)


@dataclass(frozen=True)
class Setup:
    """Where texts and tokenizer lie, and how much is measured."""

    configs: Path
    folder: Path  # for backbones and outputs; temporary
    tokenizer: Path
    glue_dir: str | None  # None: the generated mini-GLUE
    shape: str
    tasks: tuple[str, ...]
    rows: int
    dev_rows: int
    rounds: int
    threads: int
    device: str
    llama: bool  # whether the Llama-8B shape is decomposed, which takes minutes

    def backbone(self, shape: str) -> Path:
        """A folder with random weights of RoBERTa's kind; made once."""
        if shape not in SHAPES:
            raise InputError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
        folder = self.folder / shape
        if not folder.exists():
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
            hidden, layers, heads, inner = SHAPES[shape]
            torch.manual_seed(0)
            config = RobertaConfig(
                vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1,
                layer_norm_eps=1e-5, hidden_size=hidden, num_hidden_layers=layers,
                num_attention_heads=heads, intermediate_size=inner,
            )  # fmt: skip
            RobertaForMaskedLM(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    @property
    def data(self) -> list[str]:
        """Overrides that say where the texts come from."""
        if self.glue_dir is None:
            return ["data=mini"]
        return ["data=local", f"data.dir={self.glue_dir}"]

    def config(self, task: str, method: str, *more: str, shape: str | None = None) -> RunConfig:
        """The checked config of one run of an epoch, as `scripts/train.py` composes it."""
        hidden, layers, _, _ = SHAPES[shape or self.shape]
        given = [
            "model=local", f"model.path={self.backbone(shape or self.shape)}", *self.data,
            f"task={task}", f"method={method}", "logger=none", f"outputs={self.folder / 'outputs'}",
            "train.lr=1e-4", "train.head_lr=1e-4", "train.epochs=1", "train.batch_size=32",
            "train.max_length=128", f"train.threads={self.threads}", f"train.device={self.device}",
        ]  # fmt: skip
        if method == "lora":
            given += ["method.peft.r=8"]
        if method == "craft":  # clipped here, to do without the warning
            clipped = map(min, RANKS, (layers, hidden, hidden))
            given += [f"method.peft.ranks=[{','.join(map(str, clipped))}]"]
        with initialize_config_dir(str(self.configs), version_base="1.3"):
            return check(compose("train", [*given, *more]))

    def texts(self, config: RunConfig) -> dict[str, Split]:
        """`rows` training rows drawn at random, and `dev_rows` of the first dev split."""
        dev = config.task.dev[0]
        found = sources.load(config.task, config.data, ("train", dev)).splits
        wanted = {"train": ("train", self.rows), "dev": (dev, self.dev_rows)}
        return {name: _drawn(found[split], rows) for name, (split, rows) in wanted.items()}


def _drawn(split: Split, rows: int) -> Split:
    chosen = np.random.default_rng(0).permutation(len(split))[:rows].tolist()
    assert split.labels is not None
    return Split(
        split.name,
        tuple([column[row] for row in chosen] for column in split.texts),
        [split.labels[row] for row in chosen],  # type: ignore[arg-type]
        chosen,
    )


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for backbones, removed at the end."""
    with TemporaryDirectory(prefix="craft-bench-") as name:
        yield Path(name)
