"""peft's own test matrix with our tuners in it, as a pytest plugin of `make test-peft`.

The tests are those of peft's source distribution, as they are. Their cases are replaced by one list
for the six tuners, and for LoRA and VeRA beside them; what the hub would give is made from configs.
Failures that are expected stand in expected_failures.json with their reasons, and must fail.
"""

import importlib
import importlib.machinery
import json
import os
import sys
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftConfig, VeraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner

from craft import tuners

EXPECTED = Path(__file__).with_name("expected_failures.json")


# ---- the methods


def with_start(kind: type[PeftConfig], tuner: type[BaseTuner]) -> type[PeftConfig]:
    """The config with peft's `init_weights`: False moves what trains away from where it starts."""
    field = ("init_weights", bool, True)
    moved = make_dataclass(kind.__name__, [field], bases=(kind,))
    moved.__module__ = __name__
    inject = tuner.inject_adapter

    def inject_adapter(self: Any, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        inject(self, model, adapter_name, *args, **kwargs)
        if not getattr(self.peft_config[adapter_name], "init_weights", True):
            for name, parameter in self.named_parameters():
                own = self.prefix in name and adapter_name in name.split(".")
                if own and not parameter.is_meta:
                    parameter.data.add_(0.1 * torch.randn(parameter.shape).to(parameter))

    tuner.inject_adapter = inject_adapter
    return moved


def ours(name: str) -> type[PeftConfig]:
    model = getattr(tuners, f"{name}Model")
    config = with_start(getattr(tuners, f"{name}Config"), model)
    [kind] = [k for k, known in PEFT_TYPE_TO_TUNER_MAPPING.items() if known is model]
    PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config
    globals()[config.__name__] = config  # for pickle
    return config


@dataclass(frozen=True)
class Method:
    """A config, what it needs to be small, and the modules it adapts where None is no answer."""

    config: type[PeftConfig]
    fields: dict[str, Any]
    targets: str | None = None


LINEAR = [
    Method(ours("Craft"), {"ranks": (2, 4, 4)}),
    Method(ours("Lotr"), {"r": 4, "share": "projection"}),
    Method(ours("LoraXs"), {"r": 4, "init_std": 0.0}),
    Method(ours("SuperLora"), {"ranks": (2, 4, 4)}),
    Method(ours("BitFit"), {}),
    Method(LoraConfig, {}),
    Method(VeraConfig, {}),
]
BOTTLENECK = Method(
    ours("Bottleneck"),
    {"bottleneck": 4},
    r".*\.(layers|h|layer|block)\.\d+\.(.*\.)?(fc2|mlp|dense|wo)",
)
METHODS = [*LINEAR, BOTTLENECK]


# ---- their cases, in the forms of peft's own lists

CUSTOM = {
    "MLP, a pattern": ("MLP", {"target_modules": "lin0"}),
    "MLP, both": ("MLP", {"target_modules": ["lin0", "lin1"]}),
    "MLP, a head": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    "Conv1D": ("EmbConv1D", {"target_modules": ["conv1d"]}),
}
PAIRS = {"same": ("lin0", "lin0"), "different": ("lin0", "lin1")}


def custom_cases() -> list[tuple]:
    return [
        (f"{method.config.__name__} {name}", model, method.config, {**method.fields, **targets})
        for method in METHODS
        for name, (model, targets) in CUSTOM.items()
    ]


def pairs() -> list[tuple]:
    found = []
    for method in METHODS:
        start = "init_lora_weights" if method.config is LoraConfig else "init_weights"
        for name, targets in PAIRS.items():
            both = [{**method.fields, "target_modules": [t], start: False} for t in targets]
            label = method.config.__name__
            found.append((f"{label} {name}", label, method.config, *both))
    return found


def of_task(task: str | None) -> list[tuple]:
    return [
        (m.config, {"task_type": task, "target_modules": m.targets, **m.fields}) for m in METHODS
    ]


LISTS = {
    "test_custom_models": {
        "TEST_CASES": custom_cases,
        "ALL_PEFT_CONFIG_CLASSES": lambda: [method.config for method in METHODS],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": pairs,
    },
    "test_decoder_models": {"ALL_CONFIGS": lambda: of_task("CAUSAL_LM")},
    "test_encoder_decoder_models": {"ALL_CONFIGS": lambda: of_task("SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": lambda: of_task("FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": lambda: of_task("SEQ_CLS")},
}
NO_BIASES = ("Llama", "Gemma3", "T5")  # nothing for BitFit


# ---- their models, which peft has on the hub

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 100}
NARROW = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 5}
TEXT = {**NARROW, **TOKENS, "intermediate_size": 24, "max_position_embeddings": 64}
GPT = {**TOKENS, "n_embd": 32, "n_head": 4, "n_layer": 5, "n_positions": 64}
DEBERTA = {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
BART = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"layers": 3, "attention_heads": 4, "ffn_dim": 24}.items()
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
MODELS = {
    "OPTForCausalLM": {**TEXT, "ffn_dim": 24, "word_embed_proj_dim": 32},
    "GPT2LMHeadModel": GPT,
    "GPTJForCausalLM": {**GPT, "rotary_dim": 4},
    "LlamaForCausalLM": TEXT,  # a LoRA of rank 20 must fit
    "Qwen2ForCausalLM": GROUPED,
    "Gemma3ForCausalLM": {**GROUPED, "head_dim": 8},
    "T5ForConditionalGeneration": {
        **TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "BartForConditionalGeneration": {
        **TOKENS, **BART, "d_model": 32, "max_position_embeddings": 64, "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "BertModel": TEXT,
    "RobertaModel": TEXT,
    "DebertaModel": DEBERTA,
    "DebertaV2Model": DEBERTA,
    "BertForSequenceClassification": TEXT,
    "RobertaForSequenceClassification": TEXT,
    "LlamaForSequenceClassification": GROUPED,
}  # fmt: skip
NAMES = {"tiny-dummy-qwen2": "Qwen2ForCausalLM"}


def architecture(model_id: str) -> str:
    """The class of a model of peft's lists, by its name on the hub."""
    name = model_id.rpartition("/")[2]
    if name in NAMES:
        return NAMES[name]
    [found] = [known for known in MODELS if known in name.split("-")]
    return found


def models_of(module: types.ModuleType) -> list[str]:
    return [
        name
        for key, value in vars(module).items()
        if key.startswith("PEFT_") and key.endswith("_MODELS_TO_TEST")
        for name in value
    ]


def build(model_id: str, folder: Path) -> None:
    """A model of random weights where the working directory holds it under its name on the hub."""
    name = architecture(model_id)
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    kind(kind.config_class(**MODELS[name])).save_pretrained(folder / model_id)


# ---- the plugin


class Fetched(Counter):
    """peft asks the hub once for each model; here every model counts as asked for."""

    def __contains__(self, key: object) -> bool:
        return True


def pytest_configure(config: pytest.Config) -> None:
    """peft's tests import diffusers, which no case of ours uses."""
    stub = types.ModuleType("diffusers")
    stub.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
    stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
    sys.modules.setdefault("diffusers", stub)
    sys.path.insert(0, str(config.rootpath))
    importlib.import_module("tests.testing_utils")._HUB_MODEL_ACCESSES = Fetched()
    for name, lists in LISTS.items():
        module = importlib.import_module(f"tests.{name}")
        for attribute, cases in lists.items():
            getattr(module, attribute)[:] = cases()  # the decorators hold this very list


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of single methods of peft."""
    return True if collection_path.suffix == ".py" and collection_path.stem not in LISTS else None


@pytest.fixture(scope="session", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The models, under their names in the working directory."""
    folder, before = tmp_path_factory.mktemp("hub"), Path.cwd()
    for name in LISTS:
        for model_id in models_of(sys.modules[f"tests.{name}"]):
            build(model_id, folder)
    os.chdir(folder)
    yield
    os.chdir(before)


def config_of(item: pytest.Item) -> type[PeftConfig] | None:
    """The config of a test, where it is one of these cases and the case has something to adapt."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    config, model = parameters.get("config_cls"), str(parameters.get("model_id", ""))
    if config not in [method.config for method in METHODS]:
        return None
    nothing = config.__name__ == "BitFitConfig" and any(name in model for name in NO_BIASES)
    return None if nothing else config


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases of these lists, and mark those that are expected to fail, with the reason."""
    kept = [item for item in items if config_of(item)]
    config.hook.pytest_deselected(items=[item for item in items if not config_of(item)])
    items[:] = kept
    whole = {item.path.stem for item in kept} == set(LISTS)
    for expected in json.loads(EXPECTED.read_text(encoding="utf-8")):
        mark = pytest.mark.xfail(reason=expected["reason"], strict=True)
        for test in expected["tests"]:
            found = [x for x in kept if x.originalname == test and expects(expected, x)]
            if whole and not found:
                raise pytest.UsageError(f"{EXPECTED.name}: {test} has no such case: {expected}")
            for item in found:
                item.add_marker(mark)


def expects(expected: dict[str, Any], item: pytest.Item) -> bool:
    """Whether an entry means a test: by the name of its config, and of one of its cases."""
    config = config_of(item)
    named = config is not None and config.__name__ in expected["configs"]
    return named and any(case in item.nodeid for case in expected.get("cases", [""]))
