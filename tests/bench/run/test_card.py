"""What `train.save_adapter` leaves: a peft folder with a card that says what the record says."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from tiny_bench import ROOT, Bench

from craft.bench.glue import sources
from craft.bench.run.finished.card import card, share
from craft.bench.run.folder import RunFolder
from craft.bench.run.record import Record
from craft.errors import InputError
from craft.files import read_tensors

SAVE = "train.save_adapter=true"

# A user's own script: nothing of the bench, one text pair after the other.
SCRIPT = """
import json, sys
import craft, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

backbone, folder, texts = sys.argv[1], sys.argv[2], json.load(sys.stdin)
model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
model = PeftModel.from_pretrained(model, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(backbone)
encoded = [tokenizer(*pair, truncation=True, max_length=32, return_tensors="pt") for pair in texts]
with torch.no_grad():
    print(json.dumps([model(**pair).logits[0].tolist() for pair in encoded]))
"""


@pytest.fixture(scope="module")
def shared(tiny_roberta, tiny_glue, tmp_path_factory):
    """The bench and the record of a run that saved its adapter."""
    bench = Bench(tiny_roberta, tiny_glue, tmp_path_factory.mktemp("shared") / "outputs")
    return bench, bench.run("train.epochs=3", SAVE)


def test_shared_folder_gives_the_best_logits_in_a_fresh_process(shared):
    bench, _ = shared
    config, folder = bench.config(), bench.folder() / "adapter"
    dev = sources.load(config.task, config.data, ["validation"]).splits["validation"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bench.model), str(folder)],
        input=json.dumps(list(zip(*dev.texts, strict=True))),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recorded, _ = read_tensors(bench.folder() / "predictions.safetensors")
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found, recorded["best.validation"].numpy(), atol=1e-5)


def test_folder_holds_the_best_weights_and_no_path_of_the_machine(shared):
    bench, _ = shared
    found = {path.name: path.read_bytes() for path in (bench.folder() / "adapter").iterdir()}
    assert set(found) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    for place in (bench.model, bench.glue, bench.outputs):
        assert not [name for name, content in found.items() if str(place).encode() in content]
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == bench.model.name
    best = bench.folder() / "best" / "adapter_model.safetensors"
    assert found["adapter_model.safetensors"] == best.read_bytes()


def test_backbone_of_the_hub_is_named_with_its_revision(shared, tmp_path):
    bench, made = shared
    of_hub = copy.deepcopy(made)
    of_hub["provenance"]["model"] |= {"repository": "FacebookAI/roberta-base", "revision": "abc"}
    shutil.copytree(bench.folder() / "best", tmp_path / "best")
    folder = Path(share(RunFolder(tmp_path), Record.of(of_hub)))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "FacebookAI/roberta-base"
    assert config["revision"] == "abc"
    text = (folder / "README.md").read_text()
    assert 'backbone, labels = "FacebookAI/roberta-base", 2' in text
    assert 'backbone, revision="abc", num_labels=labels' in text and "not on the hub" not in text


@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_card_says_what_the_record_says(task, bench):
    made = bench.run(SAVE, task=task, method="lora")
    found = ModelCard.load(bench.folder() / "adapter" / "README.md")
    data, score = found.data, made["result"]["score"]
    assert (data.library_name, data.base_model, data.datasets) == (
        "peft",
        bench.model.name,
        ["glue"],
    )
    assert data.tags == ["glue", task, "lora"]
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values == {f"{metric}, best epoch": value for metric, value in score["best"].items()}
    assert {result.dataset_name for result in data.eval_results} == {
        f"GLUE {made['provenance']['config']['task']['folder']}, from local files"
    }
    if task == "mnli":
        splits = {r.metric_name: r.dataset_split for r in data.eval_results}
        assert splits["accuracy_matched, best epoch"] == "validation_matched"
        assert splits["accuracy, best epoch"] == "validation_matched, validation_mismatched"
        assert "Classes: 0 entailment, 1 neutral, 2 contradiction." in found.content
        assert "import craft" not in found.content  # peft knows LoRA by itself
    else:
        assert "The output is a score from 0 to 5." in found.content
        assert data.metrics == ["pearsonr", "spearmanr"]
        assert f'"{bench.model.name}", 1' in found.content
    for metric, value in score["best"].items():
        assert f"| {metric} | {value:.4f} | {score['last'][metric]:.4f} |" in found.content
    assert f"best epoch ({score['best_epoch']} of 2)" in found.content
    assert f"{made['result']['parameters']['adapter']:,} trained parameters" in found.content
    assert "| `train.lr` | 0.01 |" in found.content and made["id"] in found.content


def test_card_warns_of_what_is_no_glue_no_start_and_no_plain_backbone(shared):
    made = copy.deepcopy(shared[1])
    assert "synthetic" not in card(Record.of(made)) and "as it stands" not in card(Record.of(made))
    provenance = made["provenance"]
    provenance["data"]["source"] = {"source": "mini", "seed": 0}
    provenance["config"]["model"] |= {"random": True, "vertical": {"rank": None}}
    provenance["start_from"] = {"run": "mnli-craft-local-s0-0123456789"}
    provenance["environment"]["dirty"] = True
    made["result"]["score"]["collapsed"] = True
    text = card(Record.of(made))
    assert "mini-GLUE RTE (synthetic, not GLUE)" in text and "- mini-glue" in text
    assert "not the pre-trained one as it stands (model.random=True" in text
    assert '| `start_from` | "mnli-craft-local-s0-0123456789" |' in text
    assert "one class or one value alone" in text and ", with changes." in text


def test_finished_run_is_shared_later_without_training_again(bench, monkeypatch):
    made = bench.run()
    assert not (bench.folder() / "adapter").exists()
    monkeypatch.setattr("craft.bench.run.execute.fit", None)
    said = []
    assert bench.run(SAVE, said=said) == made
    assert said[1].endswith(f"adapter and model card in {bench.folder() / 'adapter'}")
    before = (bench.folder() / "adapter" / "README.md").read_bytes()
    assert bench.run(SAVE) == made
    assert (bench.folder() / "adapter" / "README.md").read_bytes() == before
    (bench.folder() / "best" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="best holds no adapter_model.safetensors any more"):
        bench.run(SAVE)


def test_setting_must_be_a_truth_value(bench):
    with pytest.raises(InputError, match="train.save_adapter must be true or false, not 'maybe'"):
        bench.config("train.save_adapter=maybe")


def test_diverged_run_shares_nothing(bench):
    made = bench.run(SAVE, "train.lr=1e30", "train.head_lr=1e30", "train.warmup=0")
    assert made["status"] == "diverged" and not (bench.folder() / "adapter").exists()
