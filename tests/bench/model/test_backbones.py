"""What a run can make of its backbone: random weights as a baseline, a vertical one."""

import json
import shutil

import pytest
import torch
from tiny_bench import OTHERS, Bench, save_other
from transformers import RobertaConfig, RobertaForMaskedLM

from craft.bench.model.build import build
from craft.bench.model.locate import locate, tokenizer_of
from craft.bench.run.finished.predict import evaluate
from craft.errors import InputError
from craft.vertical import make_vertical

VERTICAL = ("model.vertical.rank=3", "model.vertical.compound=2")


def built(config, head_seed=0):
    return build(locate(config.model), config.task, head_seed)


def test_random_weights_come_from_the_seed_and_only_the_head_is_shared(bench):
    trained = built(bench.config(), 5)
    drawn, again, other = (built(bench.config("model.random=true"), seed) for seed in (5, 5, 6))
    for name, weight in drawn.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        shared = name.startswith("classifier") or not weight.is_floating_point()
        if weight.is_floating_point() and weight.std() > 0:
            assert torch.equal(weight, trained.state_dict()[name]) == shared
            assert not torch.equal(weight, other.state_dict()[name])


def test_random_run_is_another_run(bench):
    plain, made = bench.run(), bench.elsewhere("random").run("model.random=true")
    assert plain["id"] != made["id"] and "model.random" not in plain["result"]["config"]
    assert made["result"]["config"]["model.random"] is True
    assert made["result"]["history"][0]["loss"] != plain["result"]["history"][0]["loss"]


def test_vertical_run_trains_an_adapter_on_increments_and_says_what_they_cost(bench):
    made = bench.run(*VERTICAL)
    facts = made["provenance"]["vertical"]
    query, value = made["provenance"]["adapted"]
    assert query == {
        "module": "attention.self.query", "shape": [32, 32], "count": 2, "projections": ["query"],
    }  # fmt: skip
    assert value["projections"] == ["value"]
    assert made["status"] == "ok" and made["result"]["config"]["model.vertical.rank"] == 3
    twin = make_vertical(built(bench.config()), 3, "previous", 2)
    assert facts["errors"] == twin.errors and len(facts["errors"]) == 6
    assert facts["parameters_before"] - facts["parameters_after"] == sum(
        m.weight.numel() - 3 * sum(m.weight.shape)
        for m in (twin.model.get_submodule(name) for name in twin.errors)
    )
    json.dumps(facts, allow_nan=False)
    assert bench.elsewhere("plain").run()["provenance"]["vertical"] is None


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.random=1.5", "model.random must be true or false, not 1.5"),
        ("model.vertical.rank=0", "model.vertical.rank must be a whole number of at least 1"),
        ("model.vertical.compound=1", "model.vertical.compound must be a whole number of at least"),
        ("model.vertical.reference=next", "'next' is not one of previous, first"),
    ],
)
def test_impossible_settings_are_refused(override, message, bench):
    with pytest.raises(InputError, match=message):
        bench.config("model.vertical.rank=2", override)


def test_a_vertical_backbone_is_not_trained_itself(bench):
    with pytest.raises(InputError, match="trains the backbone's own weights"):
        bench.config(*VERTICAL, method="full")


class Shifted:
    """A tokenizer whose ids are not the model's."""

    def __init__(self, tokenizer):
        self.tokenizer, self.pad_token_id = tokenizer, tokenizer.pad_token_id
        self.num_special_tokens_to_add = tokenizer.num_special_tokens_to_add

    def __call__(self, *texts, **options):
        encoded = self.tokenizer(*texts, **options)
        return {"input_ids": [[100_000 + i for i in ids] for ids in encoded["input_ids"]]}


def test_a_tokenizer_of_another_model_is_refused(bench, tmp_path, monkeypatch):
    shutil.copytree(bench.model, tmp_path / "odd")
    config = RobertaConfig.from_pretrained(bench.model, vocab_size=50)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "odd")
    message = r"the tokenizer gives ids up to \d+, but the model has 50 embeddings"
    with pytest.raises(InputError, match=message):
        Bench(tmp_path / "odd", bench.glue, bench.outputs).run()
    assert not bench.files()
    bench.run()
    adapter, tokenizer = bench.folder() / "best", tokenizer_of
    monkeypatch.setattr(
        "craft.bench.run.finished.predict.tokenizer_of",
        lambda backbone: Shifted(tokenizer(backbone)),
    )
    with pytest.raises(InputError, match="embeddings"):
        evaluate(bench.config(f"adapter={adapter}", "mode=evaluate"))


@pytest.fixture(scope="module", params=OTHERS)
def other(request, tmp_path_factory):
    return save_other(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize("method", ["craft", "lotr"])
def test_a_run_on_another_encoder_ends_with_its_record(method, targets, other, tiny_glue, tmp_path):
    """Whatever the target modules are named, and however many shapes they have."""
    more = ["train.epochs=1", "train.batching=padded"]  # MPNet has an attention of its own
    if targets != "default":
        more += [f"+method.peft.target_modules={targets}"]
        more += ["method.peft.share=projection"] if method == "lotr" else []
    made = Bench(other, tiny_glue, tmp_path / "outputs").run(*more, method=method)
    projections = 2 if targets == "default" else 6
    numbers = 2 * 32 * 32 + 2 * 2 * 32**2  # LoTR: U and V in common, two cores a projection
    if method == "craft":
        numbers = projections * (2**2 + 8**2 + 8**2)
    elif targets != "default":
        numbers = 32 * (4 * 64 + 2 * (32 + 48)) + 6 * 2 * 32**2
    assert made["status"] == "ok"
    assert made["result"]["parameters"]["adapter"] == numbers
