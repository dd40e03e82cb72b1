"""The PEFT tuners that this project adds to peft; importing this package registers them."""

from craft.tuners.craft import CraftConfig, CraftModel

__all__ = ["CraftConfig", "CraftModel"]
