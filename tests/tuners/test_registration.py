"""The member spliced into peft's enum behaves like one of peft's own."""

import copy
import importlib
import pickle

import pytest
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tiny_models import attach, outputs, roberta

import craft.tuners.registration
from craft import CraftConfig, CraftModel


def test_craft_is_a_member_of_peft_type():
    member = PeftType("CRAFT")
    assert member is PeftType.CRAFT is PeftType["CRAFT"]
    assert member == "CRAFT" and hash(member) == hash("CRAFT")
    assert (member.name, member.value) == ("CRAFT", "CRAFT")
    assert isinstance(member, PeftType) and member in PeftType and member in list(PeftType)
    assert [m for m in PeftType if m == "LORA"] == [PeftType.LORA]


def test_the_member_survives_pickle_and_copies():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(PeftType.CRAFT, protocol)) is PeftType.CRAFT
    assert copy.deepcopy(PeftType.CRAFT) is PeftType.CRAFT
    config = CraftConfig(ranks=(2, 3, 4))
    assert pickle.loads(pickle.dumps(config)) == config


def test_the_config_carries_the_member_as_peft_s_own_do():
    assert CraftConfig().peft_type is PeftType.CRAFT


def test_registering_again_changes_nothing():
    members, config = list(PeftType), PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.CRAFT]
    craft.tuners.registration.register("craft", CraftConfig, CraftModel)
    module = importlib.reload(craft.tuners.registration)
    module.register("craft", CraftConfig, CraftModel)
    assert list(PeftType) == members
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.CRAFT] is config
    assert outputs(attach(roberta())).shape == (4, 2)


def test_a_config_read_from_disk_is_equal(tmp_path):
    config = CraftConfig(ranks=(2, 3, 4), target_modules=["value", "query"], init="paper", eps=0.5)
    config.save_pretrained(tmp_path)
    read = PeftConfig.from_pretrained(tmp_path)
    assert type(read) is CraftConfig and read.ranks == (2, 3, 4)
    assert read.target_modules == {"query", "value"}
    assert (read.init, read.eps, read.peft_type) == ("paper", 0.5, PeftType.CRAFT)


def test_a_name_that_peft_ships_itself_is_left_to_peft():
    lora = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA]
    craft.tuners.registration.register("lora", CraftConfig, CraftModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA] is lora


@pytest.mark.parametrize("field", ["ranks", "init", "decomposition", "save_factors"])
def test_every_field_of_the_config_has_a_help_text(field):
    assert CraftConfig.__dataclass_fields__[field].metadata["help"]
