"""A trained adapter out of the house: as an ordinary LoRA, which peft loads without this package.

The update of a sandwich tuner (CRAFT, LoTR, LoRA-XS, SuperLoRA) is dW_l = U M_l V^T with M_l of
shape (r_out, r_in): exactly a LoRA B_l A_l of rank min(r_out, r_in), which serves wherever LoRA
does.
"""

import copy
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.files import atomically
from craft.tuners.sandwich.layer import SandwichLayer
from craft.tuners.sandwich.model import SandwichModel

PREFIX = "base_model.model."  # of a module's name in an adapter file of peft


def as_lora(model: PeftModel, adapter: str = "default") -> tuple[LoraConfig, dict[str, Tensor]]:
    """The adapter as a LoRA of scaling 1: its config, and its tensors as peft names them in a file.

    Equal to the adapter up to the rounding of one product in float32. All modules have the largest
    rank, zeros in the others: llama.cpp divides one alpha by each module's own. Modules trained
    whole, such as a head, go along. InputError where there is no such adapter or it is not a
    low-rank update.
    """
    tuner, layers = _layers_of(model, adapter)
    pairs = {name: layer.lora_factors(adapter) for name, layer in layers.items()}
    rank = max(len(a) for a, _ in pairs.values())
    given = model.peft_config[adapter]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=[*layers],
        modules_to_save=copy.copy(given.modules_to_save),
        fan_in_fan_out=any(isinstance(x.get_base_layer(), Conv1D) for x in layers.values()),
        task_type=given.task_type,
        base_model_name_or_path=given.base_model_name_or_path,
        revision=given.revision,
    )
    saved = get_peft_model_state_dict(model, adapter_name=adapter)
    tensors = {k: v for k, v in saved.items() if not k.startswith(f"base_model.{tuner.prefix}")}
    for name, (a, b) in pairs.items():
        lacking = rank - len(a)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = pad(a, (0, 0, 0, lacking))
        tensors[f"{PREFIX}{name}.lora_B.weight"] = pad(b, (0, lacking))
    return config, tensors


def save_as_lora(model: PeftModel, folder: Path | str, adapter: str = "default") -> None:
    """Write the adapter as a LoRA adapter folder, for `PeftModel.from_pretrained` of plain peft."""
    folder = Path(folder)
    config, tensors = as_lora(model, adapter)
    config.inference_mode = True
    content = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with atomically(folder / "adapter_model.safetensors") as temporary:
        temporary.write_bytes(save(content, {"format": "pt"}))
    config.save_pretrained(str(folder))


def _layers_of(model: PeftModel, adapter: str) -> tuple[SandwichModel, dict[str, SandwichLayer]]:
    """The tuner, and the layers of one adapter by their names in the backbone."""
    known = getattr(model, "peft_config", {})
    if adapter not in known:
        raise InputError(f"the model has no adapter {adapter!r}; it has {', '.join(known) or None}")
    tuner = model.base_model
    if not isinstance(tuner, SandwichModel):
        kind = getattr(known[adapter].peft_type, "value", known[adapter].peft_type)
        raise InputError(f"adapter {adapter!r} is {kind}, whose update is not of this form")
    layers = {
        name: module
        for name, module in tuner.model.named_modules()
        if isinstance(module, SandwichLayer) and adapter in module.places
    }
    return tuner, layers
