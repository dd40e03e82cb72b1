"""CRAFT: cross-layer rank adaptation via frozen Tucker (arXiv 2602.17510), for Hugging Face peft.

    from craft import CraftConfig
    model = get_peft_model(model, CraftConfig(ranks=(24, 100, 100)))

Importing this package registers its tuners with peft, which is needed before one of their adapters
is loaded.
"""

from craft.export import save_as_lora
from craft.tucker import use_cache
from craft.tuners import (
    BitFitConfig,
    BitFitModel,
    BottleneckConfig,
    BottleneckModel,
    CraftConfig,
    CraftModel,
    LoraXsConfig,
    LoraXsModel,
    LotrConfig,
    LotrModel,
    SuperLoraConfig,
    SuperLoraModel,
)

__all__ = [
    "BitFitConfig",
    "BitFitModel",
    "BottleneckConfig",
    "BottleneckModel",
    "CraftConfig",
    "CraftModel",
    "LoraXsConfig",
    "LoraXsModel",
    "LotrConfig",
    "LotrModel",
    "SuperLoraConfig",
    "SuperLoraModel",
    "save_as_lora",
    "use_cache",
]
