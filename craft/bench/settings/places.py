"""Where what the bench ships with lies: in the package where it is installed, in the checkout's own
folders otherwise. Nothing is there twice: the build maps the one to the other."""

from pathlib import Path

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE.parents[1]  # of the checkout, or of a copy of the sources


def _place(packaged: str, folder: str) -> Path:
    inside = _PACKAGE / packaged
    return inside if inside.is_dir() else ROOT / folder


CONFIGS = _place("configs", "configs")
MINI_MODEL = _place("roberta_mini", "results/models/roberta-mini")
PUBLISHED = _place("published", "results/published")  # scores that papers report


def let_configs_name_them() -> None:
    """Let `${shipped:mini_model}` in a config be where the mini model lies."""
    found = {"mini_model": str(MINI_MODEL)}
    OmegaConf.register_new_resolver("shipped", found.__getitem__, replace=True)
