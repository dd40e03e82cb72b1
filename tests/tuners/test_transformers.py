"""Any Transformer: with defaults it starts exact, trains, loads, merges and counts right."""

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from tiny_models import IDS, VOCABULARY, Stack, excite, gpt2, llama, loss, roberta, t5, trained
from transformers import Trainer, TrainingArguments

from craft import CraftConfig
from craft.tuners.targets import TARGET_MODULES

pytestmark = pytest.mark.filterwarnings(
    "ignore:Could not find a config file",
    "ignore:`gradient_checkpointing.*` is deprecated",
    "ignore:`torch.jit.script` is deprecated",  # in DeBERTa of transformers 4
)
RANKS = (2, 5, 4)
NON_REENTRANT = {"use_reentrant": False}
NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8}
TEXT = {**NARROW, "vocab_size": VOCABULARY, "max_position_embeddings": 20, "num_hidden_layers": 3}
GROUPED = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SQUARE = [(3, 16, 16), (3, 16, 16)]


def of(name, head="ForSequenceClassification", **fields):
    """A model of an architecture, of random weights."""

    def build(seed=0):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{name}Config")(**fields)
        return getattr(transformers, f"{name}{head}")(config).eval()

    return build


DISTILBERT = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 8, "vocab_size": VOCABULARY}
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
}
V3 = {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4, **DEBERTA}
IMAGE = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 3, **NARROW}
# architecture -> how to build it, the shapes of its groups (N, d_out, d_in) with the defaults
ARCHITECTURES = {
    "bert": (of("Bert", **TEXT), SQUARE),
    "distilbert": (of("DistilBert", max_position_embeddings=20, **DISTILBERT), SQUARE),
    "electra": (of("Electra", embedding_size=16, **TEXT), SQUARE),
    "deberta-v2": (of("DebertaV2", **DEBERTA, **TEXT), SQUARE),
    "deberta-v3": (of("DebertaV2", **V3, **TEXT), SQUARE),
    "xlm-roberta": (of("XLMRoberta", **TOKENS, **TEXT), SQUARE),
    "roberta": (roberta, SQUARE),
    "camembert": (of("Camembert", **TOKENS, **TEXT), SQUARE),
    "mpnet": (of("MPNet", **TOKENS, **TEXT), SQUARE),
    "gpt2": (gpt2, [(3, 48, 16)]),  # c_attn, fused and a Conv1D
    "llama": (llama, [(3, 16, 16), (3, 8, 16)]),
    "mistral": (of("Mistral", "ForCausalLM", **TOKENS, **GROUPED), [(3, 16, 16), (3, 8, 16)]),
    "qwen2": (of("Qwen2", "ForCausalLM", **TOKENS, **GROUPED), [(3, 16, 16), (3, 8, 16)]),
    "t5": (t5, [(2, 8, 16)] * 6),  # encoder, decoder and cross attention
    "vit": (of("ViT", "ForImageClassification", **IMAGE), SQUARE),
}


def batch(model):
    kind, name = type(model).__name__, model.config.model_type
    if name == "vit":
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(4, 3, 8, 8, generator=generator),
            "labels": torch.tensor([0, 1, 1, 0]),
        }
    return {
        "input_ids": IDS,
        "labels": torch.tensor([0, 1, 1, 0]) if "Classification" in kind else IDS,
    }


def logits(model, base):
    with torch.no_grad():
        return model(**batch(base)).logits


@pytest.mark.filterwarnings("ignore:ranks .* exceed the shape")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attaches_with_defaults_starts_exact_trains_loads_merges_and_counts(name, tmp_path):
    build, shapes = ARCHITECTURES[name]
    base = build()
    before = logits(base, base)
    model = get_peft_model(build(), CraftConfig(ranks=RANKS))
    assert [g.shape for g in model.base_model.groups["default"]] == shapes
    assert torch.equal(logits(model, base), before)
    clipped = [[min(r, n) for r, n in zip(RANKS, shape, strict=True)] for shape in shapes]
    count = sum(r**2 for ranks in clipped for r in ranks)
    assert model.get_nb_trainable_parameters()[0] == count

    optimizer = torch.optim.Adam(trained(model).values(), lr=0.05)
    model(**batch(base)).loss.backward()
    assert all(p.grad.isfinite().all() for p in trained(model).values())
    assert all(p.grad.abs().max() > 0 for p in trained(model).values())
    optimizer.step()
    adapted = logits(model, base)
    assert not torch.equal(adapted, before)

    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(build(), tmp_path)
    assert torch.equal(logits(loaded, base), adapted)
    merged = logits(loaded.merge_and_unload(), base)
    assert (merged - adapted).norm() <= 1e-5 * adapted.norm()


def test_the_defaults_are_peft_s_where_it_has_one():
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_PEFT

    assert OF_PEFT.items() <= TARGET_MODULES.items()
    assert TARGET_MODULES["distilbert"] == ["q_lin", "v_lin"]


def test_an_unknown_type_asks_for_target_modules():
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(Stack(2, 4, 4), CraftConfig(ranks=RANKS))


# ---- a causal language model


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_causal_language_model_fine_tunes_and_generates(checkpointing, tmp_path):
    model = get_peft_model(llama(), CraftConfig(ranks=RANKS, task_type="CAUSAL_LM"))
    data = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=20, per_device_train_batch_size=4, learning_rate=0.02,
        gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs=NON_REENTRANT,
        use_cpu=True, dataloader_pin_memory=False, report_to="none", disable_tqdm=True,
        save_strategy="no", seed=0,
    )  # fmt: skip
    before = loss(model, labels=IDS).item()
    Trainer(model, arguments, train_dataset=data).train()
    assert loss(model.eval(), labels=IDS).item() < before
    assert all(p.abs().max() > 0 for p in trained(model).values())

    settings = {"input_ids": IDS, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    fields = {"attention_mask": torch.ones_like(IDS), **settings}
    cached, full = (model.generate(use_cache=cache, **fields) for cache in (True, False))
    assert torch.equal(cached, full)
    assert torch.equal(model.merge_and_unload().generate(**fields), cached)


def test_checkpointing_does_not_change_what_is_learnt():
    plain, saving = (get_peft_model(llama(), CraftConfig(ranks=RANKS)) for _ in range(2))
    saving.gradient_checkpointing_enable(NON_REENTRANT)
    for model in (plain, saving):
        excite(model).train()
        model(input_ids=IDS, labels=IDS).loss.backward()
    for name, parameter in trained(plain).items():
        torch.testing.assert_close(trained(saving)[name].grad, parameter.grad, rtol=1e-5, atol=1e-7)
