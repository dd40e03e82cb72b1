"""A folder with a pre-trained encoder: found, named, hashed, and told from others."""

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoTokenizer,
)

from craft.bench import hub
from craft.bench.glue.tokens import Tokens
from craft.bench.model import paper
from craft.bench.model.readme import NAME, as_name, read_card
from craft.bench.settings.declared import plain
from craft.bench.settings.sections import Model
from craft.errors import InputError, first_line
from craft.files import sha256

FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "tokenizer*"]


# without one of these transformers makes up a tokenizer
VOCABULARY = ("tokenizer.json", "vocab.*", "*.model")


TOKENIZER = (*VOCABULARY, "merges.txt", "bpe.codes", "tokenizer_config.json")


TOKENIZER += ("special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Backbone:
    """A folder with a pre-trained encoder and its tokenizer, what it is called, a digest of its
    weights and config and one of the tokenizer's files, and what is made of it: random weights, or
    layers as increments of others.

    `parameters` counts what the weights' files hold, `licence` is None where nothing says it.
    `verified` says how the weights were found to be those of the repository
    (`craft.bench.model.paper`), None where they were not; it, too, is then None."""

    folder: Path
    name: str
    licence: str | None
    model_type: str
    parameters: int
    digest: str
    tokenizer: str
    repository: str | None = None
    revision: str | None = None
    verified: str | None = None
    random: bool = False
    vertical: Mapping[str, Any] | None = None  # the arguments of craft.vertical.make_vertical

    def facts(self) -> dict[str, Any]:
        """What a record says of it."""
        names = ("name", "repository", "revision", "verified", "licence", "model_type")
        names += ("parameters", "digest", "tokenizer")
        return {name: getattr(self, name) for name in names}


def locate(model: Model) -> Backbone:
    """Find the files of a `model` section: the folder `path`, or a pinned revision on the hub or in
    its cache.

    Its name is the section's `name`, or that of the card in the folder, or the folder's own.
    InputError where there is no such folder, no sound safetensors weights in it, neither network
    nor cache, and where the name cannot stand in a file's."""
    name = model.name
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InputError(
            f"model.name {name!r} must start with a letter or digit and hold these, '.', '_' and "
            "'-' alone"
        )
    if model.path is not None:
        folder = model.path
        if not (folder / "config.json").is_file():
            raise InputError(f"model.path: there is no config.json in {folder}")
    else:
        folder = _download(str(model.repository), str(model.revision))
    digest, config, found = weights_digest(folder), _config_of(folder), shapes(folder)
    repository, revision = model.repository, model.revision
    verified = None
    if (published := paper.PUBLISHED.get(repository or "")) is not None:
        verified, differs = _verified(model, published, folder, digest, config, found)
        if verified is None:
            name = None if name == published.name else name
    if model.path is not None and verified is None:
        repository = revision = None
    card = read_card(folder)
    name = name or card.name or as_name(folder.resolve().name) or "unnamed"
    if published is not None and verified is None:
        if name == published.name:  # by its folder or card alone
            name = f"{name}-{digest[:8]}"
        warnings.warn(
            f"model.path: {folder} is not {model.repository} ({differs}): its runs are "
            f"those of {name}",
            stacklevel=2,
        )
    return Backbone(
        folder,
        name=name,
        licence=(model.licence if verified or not published else None) or card.licence,
        model_type=config.get("model_type", "unknown"),
        parameters=sum(math.prod(shape) for shape in found.values()),
        digest=digest,
        tokenizer=tokenizer_digest(folder),
        repository=repository,
        revision=revision,
        verified=verified,
        random=model.random,
        vertical=None if model.vertical.rank is None else plain(model.vertical),
    )


def weights_digest(folder: Path) -> str:
    """A digest of a folder's config and weights, names and contents; InputError where it has no
    weights."""
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise InputError(f"model.path: {folder} holds no weights (model.safetensors)")
    content = {file.name: sha256(file.read_bytes()) for file in [folder / "config.json", *weights]}
    return sha256(repr(sorted(content.items())).encode())


def _verified(
    model: Model,
    published: paper.Published,
    folder: Path,
    digest: str,
    config: Mapping[str, Any],
    found: Mapping[str, tuple[int, ...]],
) -> tuple[str | None, str]:
    """How the weights in a folder were found to be a published model's, or None and what differs.

    InputError where the hub gives other weights than the pinned ones."""
    pinned = model.digest
    if model.path is None:
        if pinned not in (None, digest):
            raise InputError(
                f"model.digest: {model.repository} gives weights with the digest "
                f"{digest[:12]}, not {pinned[:12]}"
            )
        return (paper.REVISION if pinned is None else paper.DIGEST), ""
    if pinned is None:
        pinned = _cached_digest(str(model.repository), str(model.revision))
    if pinned is not None:
        differs = f"the digest of its weights is {digest[:12]} instead of {pinned[:12]}"
        return (paper.DIGEST, "") if digest == pinned else (None, differs)
    differs = paper.difference(published, folder, config, found)
    return (paper.ARCHITECTURE, "") if differs is None else (None, differs)


def _cached_digest(repository: str, revision: str) -> str | None:
    """The digest of a pinned revision that the hub has been asked for before; None where its
    weights are not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    folder = Path(cached).parent if isinstance(cached, str) else None
    there = folder is not None and any(folder.glob("model*.safetensors"))
    return weights_digest(folder) if there and folder is not None else None


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise InputError(f"{folder}: config.json is not JSON ({first_line(error)})") from error


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every floating-point tensor in a folder's weights; InputError where a file
    is damaged."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    if part.get_dtype().startswith(("F", "BF")):
                        found[key] = tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {first_line(error)}") from error
    return found


def _download(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with hub.one_error():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the hub's client raises errors of many kinds
        raise InputError(
            f"{repository} is neither reachable nor cached ({first_line(error)}); "
            "give a local copy: model.path=FOLDER"
        ) from error


def tokenizer_of(backbone: Backbone) -> Any:
    """InputError where the folder holds no tokenizer."""
    if not any(file for pattern in VOCABULARY for file in backbone.folder.glob(pattern)):
        raise InputError(f"{backbone.folder} holds no tokenizer (tokenizer.json or a vocabulary)")
    try:
        return AutoTokenizer.from_pretrained(backbone.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{backbone.folder}: the tokenizer: {first_line(error)}") from error


def check_vocabulary(model: nn.Module, tokens: Iterable[Tokens]) -> None:
    """InputError where the tokenizer gives ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    largest = max(int(split.ids.max()) for split in tokens)
    if largest >= rows:
        raise InputError(
            f"the tokenizer gives ids up to {largest}, but the model has {rows} embeddings: "
            "they do not belong together"
        )


def tokenizer_digest(folder: Path) -> str:
    """A digest of the tokenizer's own files beside the weights, names and contents."""
    files = {file for pattern in TOKENIZER for file in folder.glob(pattern)}
    return sha256(repr([(f.name, sha256(f.read_bytes())) for f in sorted(files)]).encode())
