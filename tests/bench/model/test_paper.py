"""Whether weights are those of the paper's encoders: by digest, by revision, or by architecture."""

import json
import shutil
import warnings

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file
from tiny_bench import CONFIGS, SHAPE
from transformers import AutoTokenizer

from craft.bench.model import paper
from craft.bench.model.locate import locate, weights_digest
from craft.bench.settings.declared import read
from craft.bench.settings.resolve import flatten
from craft.bench.settings.sections import Model
from craft.errors import InputError

REPOSITORY = "FacebookAI/roberta-base"
SECTION = {"name": "roberta_base", "licence": "mit", "repository": REPOSITORY, "revision": "r" * 40}


@pytest.fixture
def published(tiny_roberta, tmp_path, monkeypatch):
    """A copy of the tiny encoder, which is published as RoBERTa-base here."""
    folder = shutil.copytree(tiny_roberta, tmp_path / "somewhere")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tiny = {**paper.CONFIG, **SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 66}
    tiny["layer_norm_eps"] = json.loads((folder / "config.json").read_text())["layer_norm_eps"]
    monkeypatch.setitem(paper.PUBLISHED, REPOSITORY, paper.Published("roberta_base", tiny))
    monkeypatch.setattr(paper, "PROBE", ("a film", tokenizer("a film")["input_ids"]))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return folder


def located(folder, **more):
    return locate(read(Model, {**SECTION, "path": None if folder is None else str(folder), **more}))


def refused(folder, reason, called, **more):
    with pytest.warns(UserWarning, match=f"is not {REPOSITORY} .*{reason}"):
        found = located(folder, **more)
    assert (found.name, found.repository, found.revision) == (called, None, None)
    assert found.verified is None and found.licence is None


def test_any_folder_is_not_the_papers_model(tiny_roberta):
    refused(tiny_roberta, "vocab_size is 8192 instead of 50265", tiny_roberta.name)


def test_published_sizes_are_those_of_the_configs():
    from omegaconf import OmegaConf

    for repository, one in paper.PUBLISHED.items():
        section = dict(flatten(OmegaConf.load(CONFIGS / "model" / f"{one.name}.yaml")))
        assert (section["name"], section["repository"]) == (one.name, repository)


def test_architecture_is_held_against_where_no_digest_is_known(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = located(published)
    assert (found.verified, found.name, found.licence) == ("architecture", "roberta_base", "mit")
    assert (found.repository, found.revision) == (REPOSITORY, "r" * 40)


def test_what_differs_in_config_shapes_or_tokenizer_is_called_what_it_is(published, tmp_path):
    config = published / "config.json"
    kept, weights = config.read_text(), published / "model.safetensors"
    config.write_text(kept.replace('"gelu"', '"relu"'))
    refused(published, "hidden_act is relu instead of gelu", "somewhere")
    config.write_text(kept)
    tensors = load_file(weights)
    name = next(key for key in tensors if key.endswith("layer.1.attention.self.query.weight"))
    save_file({**tensors, name: tensors[name][:4].clone()}, weights)
    refused(published, r"query.weight is \(4, 32\) instead of \(32, 32\)", "somewhere")
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    refused(published, "query.weight is missing", "somewhere")
    save_file(tensors, weights)
    (published / "tokenizer.json").rename(tmp_path / "aside.json")
    refused(published, "its tokenizer", "somewhere")
    (tmp_path / "aside.json").rename(published / "tokenizer.json")
    named = shutil.copytree(published, tmp_path / "roberta_base")
    config = named / "config.json"
    config.write_text(kept.replace('"gelu"', '"relu"'))
    digest = weights_digest(named)
    refused(named, "hidden_act", f"roberta_base-{digest[:8]}")
    refused(named, "hidden_act", "mine", name="mine")


def test_known_digest_decides_alone(published, tmp_path, monkeypatch):
    digest = weights_digest(published)
    assert located(published, digest=digest).verified == "digest"
    reason = f"the digest of its weights is {digest[:12]} instead of bbbbbbbbbbbb"
    refused(published, reason, "somewhere", digest="b" * 64)
    cached = shutil.copytree(published, tmp_path / "snapshot")
    found = str(cached / "config.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: found)
    assert located(published).verified == "digest"
    with (published / "config.json").open("a") as file:
        file.write("\n")
    refused(published, f"instead of {digest[:12]}", "somewhere")


def test_first_download_is_the_revision_and_later_ones_are_held_against_its_digest(
    published, monkeypatch
):
    monkeypatch.setattr("craft.bench.model.locate._download", lambda *_: published)
    found = located(None)
    assert (found.verified, found.revision) == ("revision", "r" * 40)
    assert located(None, digest=found.digest).verified == "digest"
    with pytest.raises(InputError, match="gives weights with the digest .*, not bbbbbbbbbbbb"):
        located(None, digest="b" * 64)
