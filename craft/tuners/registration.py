"""Make peft know a tuner that lives outside it, without patching its files.

peft looks methods up by `PeftType`, a closed enum. The one non-public step is to splice a member
into it; the rest is peft's own `register_peft_method`. A process that loads an adapter of such a
tuner must import `craft` first.
"""

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def _add_member(name: str) -> None:
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def register(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Register a method with peft; does nothing where peft has one of that name already."""
    member = name.upper()
    if member not in PeftType._member_map_:
        _add_member(member)
    if PeftType(member) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=model, prefix=model.prefix)
