"""Every tuner, attached to a tiny model and given an update that shows."""

from collections.abc import Callable

import torch
from peft import PeftModel, get_peft_model
from tiny_models import RANKS, parameters_as_saved

from craft import BitFitConfig, BottleneckConfig, CraftConfig, LoraXsConfig, LotrConfig
from craft.tuners import SuperLoraConfig

RELATIVES: dict[str, Callable] = {
    "lotr": lambda **f: LotrConfig(**{"r": 3, "alpha": 2.0, "task_type": "SEQ_CLS", **f}),
    "lotr_projection": lambda **f: CONFIGS["lotr"](share="projection", **f),
    "lora_xs": lambda **f: LoraXsConfig(
        **{"r": 3, "task_type": "SEQ_CLS", "target_modules": ["query", "value"], **f}
    ),
    "lora_xs_four": lambda **f: CONFIGS["lora_xs"](target_modules=None, **f),
    "superlora": lambda r=3, **f: SuperLoraConfig(
        **{"ranks": (2, r, 4), "alpha": 2.0, "task_type": "SEQ_CLS", **f}
    ),
    "superlora_lora": lambda **f: SuperLoraConfig(
        **{"r": 3, "form": "lora", "task_type": "SEQ_CLS", **f}
    ),
    "houlsby": lambda **f: BottleneckConfig(**{"bottleneck": 5, "task_type": "SEQ_CLS", **f}),
    "pfeiffer": lambda **f: CONFIGS["houlsby"](placement="pfeiffer", activation="relu", **f),
    "drop": lambda **f: CONFIGS["pfeiffer"](skip_layers=2, **f),
    "bitfit": lambda **f: BitFitConfig(**{"task_type": "SEQ_CLS", **f}),
}
CONFIGS = RELATIVES | {
    "craft": lambda **f: CraftConfig(**{"ranks": RANKS, "task_type": "SEQ_CLS", **f}),
}


def attach(model, name, adapter="default", **fields) -> PeftModel:
    torch.manual_seed(2)
    return get_peft_model(model, CONFIGS[name](**fields), adapter)


def adapter_parameters(model, adapter="default"):
    """Parameters of an adapter outside the head, by name."""
    return {
        name: parameter
        for name, parameter in parameters_as_saved(model).items()
        if f".{adapter}" in name and "modules_to_save" not in name
    }


@torch.no_grad()
def excite(model, adapter="default", scale=0.3):
    """Give an adapter an update that shows, as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(model, adapter).values():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(scale * noise.to(parameter.dtype))
    return model
