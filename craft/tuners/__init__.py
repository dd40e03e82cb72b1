"""The PEFT tuners that this project adds to peft; importing this package registers them."""

from craft.tuners.bitfit import BitFitConfig, BitFitModel
from craft.tuners.bottleneck import BottleneckConfig, BottleneckModel
from craft.tuners.craft import CraftConfig, CraftModel
from craft.tuners.lora_xs import LoraXsConfig, LoraXsModel
from craft.tuners.lotr import LotrConfig, LotrModel
from craft.tuners.superlora import SuperLoraConfig, SuperLoraModel

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
]
