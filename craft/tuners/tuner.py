"""What peft asks of every tuner and of every config beyond its layers, said once for ours."""

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from craft.errors import InputError
from craft.files import write_text
from craft.tuners.sandwich.tensors import as_in_a_file


class Tuner(BaseTuner):
    """Base of our tuners; a subclass says which parameters of an adapter it made."""

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig | dict[str, PeftConfig],
        adapter_name: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        try:
            self._check_injection(peft_config)
            super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        except Exception:
            _forget(model, adapter_name, peft_config)
            raise

    def _check_injection(self, peft_config: PeftConfig | dict[str, PeftConfig]) -> None:
        """Refuse what the tuner cannot do without a PeftModel around it, as InputError."""

    def own_parameters(self, adapter: str) -> Iterable[tuple[nn.Parameter, torch.dtype]]:
        """What trains of an adapter, each with the dtype of the weights it belongs to."""
        raise NotImplementedError

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """To float32 or wider, or with autocast_adapter_dtype=False to the dtype of the layers."""
        for parameter, dtype in self.own_parameters(adapter_name):
            wanted = torch.promote_types(parameter.dtype, torch.float32)
            parameter.data = parameter.data.to(wanted if autocast_adapter_dtype else dtype)
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    @classmethod
    def _get_adapter_state_dict(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict:
        """What peft puts into an adapter's file."""
        state = super()._get_adapter_state_dict(model, *args, **kwargs)
        names = as_in_a_file(model)
        return {names.get(name, name): tensor for name, tensor in state.items()}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """What peft takes out of an adapter's file; peft goes by the names in the model."""
        leaves = {
            cls._remove_adapter_name_from_key(name, adapter_name)
            for name in as_in_a_file(model).values()
        }
        in_model = {f"{k}.weight" if k in leaves else k: v for k, v in state_dict.items()}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, in_model)

    def _enable_peft_forward_hooks(
        self, *_args: Any, adapter_names: Any = None, **_kwargs: Any
    ) -> AbstractContextManager[None]:
        """peft enters it around every forward; a mixed batch is refused here."""
        if adapter_names is not None:
            raise InputError(
                f"adapter_names: {type(self).__name__} runs the same adapters on a whole batch; "
                "choose them by set_adapter"
            )
        return nullcontext()

    def add_weighted_adapter(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise InputError(
            f"add_weighted_adapter: {type(self).__name__} cannot weigh adapters into a new one; "
            "base_model.set_adapter([...]) runs several together"
        )


def _forget(model: nn.Module, adapter: str, config: object) -> None:
    """Take back what transformers' `model.add_adapter` noted before the adapter was refused."""
    known = getattr(model, "peft_config", None) or {}
    if known.get(adapter) is config:
        del known[adapter]
    if getattr(model, "_hf_peft_config_loaded", False) and not known:
        model._hf_peft_config_loaded = False  # type: ignore[assignment]


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype that holds all of theirs."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))


def features(module: nn.Module) -> tuple[int | None, int | None]:
    """The widths of what goes in and of what comes out, as peft's own layers know them."""
    weight: Any = getattr(module, "weight", None)
    if weight is None:
        return None, None
    first, last = weight.shape[0], weight.shape[1] if weight.ndim > 1 else weight.shape[0]
    return (first, last) if isinstance(module, Conv1D) else (last, first)


# ---- a config


LOADING = """## Loading the adapter

It is a {kind} adapter of the package `craft`, which peft knows once `craft` is imported:

```python
import craft
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "<this folder>")
```
"""


@dataclass
class TunerConfig(PeftConfig):
    """Base of our configs: as a file holds them, and what a reader of the file must import."""

    card_note: ClassVar[str] = ""  # what else the reader should know

    def to_dict(self) -> dict[str, Any]:
        """As it is on disk, where a sequence is a list."""
        return {name: _listed(value) for name, value in super().to_dict().items()}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        of_a_model = "auto_mapping_dict" in kwargs  # peft saves an adapter, not a config alone
        super().save_pretrained(save_directory, **kwargs)
        if of_a_model:
            kind = getattr(self.peft_type, "value", self.peft_type)
            section = LOADING.format(kind=kind) + (
                f"\n{self.card_note}\n" if self.card_note else ""
            )
            _say_what_to_import(Path(save_directory) / "README.md", section)


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_listed(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return value


def _say_what_to_import(path: Path, section: str) -> None:
    """Put the section at the end of peft's card, which stands beside the first adapter alone."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if section.strip() not in text:
        write_text(path, f"{text.rstrip()}\n\n{section}".lstrip())
