"""What an encoder is called: by the command line, by its card, or by its folder."""

import shutil

import pytest
from safetensors.torch import load_file
from tiny_bench import Bench

from craft.bench.model.locate import locate
from craft.bench.model.readme import Card, read_card
from craft.bench.settings.declared import read
from craft.bench.settings.sections import Model
from craft.errors import InputError

CARDS = {
    "---\nlanguage: en\nlicense: apache-2.0\n---\n\n\n# all-MiniLM-L6-v2\nThis": (
        "all-MiniLM-L6-v2", "apache-2.0",
    ),
    "---\nmodel_name: mine\nlicense: [mit, other]\n---\n# Theirs": ("mine", "mit, other"),
    "---\nmodel-index:\n- name: listed\n---\n# Heading": ("listed", None),
    "---\nmodel-index: []\n---\n# Heading": ("Heading", None),
    "---\nmodel-index:\n- odd\n---\n# Heading": ("Heading", None),
    "# RoBERTa base model ##\n\n## Use": ("RoBERTa-base-model", None),
    "# Model Card for `org/some` 🤗\n": ("org-some", None),
    "# Model card\n\ntext": (None, None),
    "## Only below\n\n```\n# a comment\n```\n<!--\n# hidden\n-->": (None, None),
    "# [linked](https://x.y) <img src=a>": ("linked", None),
    "---\n: [broken\n---\n# Fine": ("Fine", None),
    "# " + "a sentence that goes on " * 4: (None, None),
    "": (None, None),
}  # fmt: skip


@pytest.mark.parametrize("text", CARDS)
def test_card_says_name_and_licence(text, tmp_path):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert read_card(tmp_path) == Card(*CARDS[text])


def test_encoder_is_called_by_command_line_card_or_folder(tiny_bert, tmp_path):
    folder = tmp_path / "some encoder"
    shutil.copytree(tiny_bert, folder)
    assert locate(read(Model, {"path": str(folder)})).name == "some-encoder"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# carded", encoding="utf-8")
    carded = locate(read(Model, {"path": str(folder), "name": None, "licence": None}))
    assert (carded.name, carded.licence, carded.model_type) == ("carded", "mit", "bert")
    weights = load_file(folder / "model.safetensors")
    assert carded.parameters == sum(t.numel() for t in weights.values() if t.is_floating_point())
    given = locate(read(Model, {"path": str(folder), "name": "given", "licence": "other"}))
    assert (given.name, given.licence, given.digest) == ("given", "other", carded.digest)
    for name in ("a/b", "", ".hidden", 3):
        with pytest.raises(InputError, match=f"model.name {name!r} must start with a letter"):
            locate(read(Model, {"path": str(folder), "name": name}))


def test_run_is_named_by_its_encoder(bench, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(bench.model, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny one", encoding="utf-8")
    other = Bench(folder, bench.glue, bench.outputs)
    made = other.run("train.epochs=1")
    assert other.folder().name == f"rte-craft-tiny-one-s0-{made['id'][:10]}"
    said = made["provenance"]["model"]
    assert (said["name"], said["licence"], said["model_type"]) == ("tiny-one", "mit", "roberta")
