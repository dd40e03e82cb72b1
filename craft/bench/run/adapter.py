"""An adapter with its head on disk: saved, with what it was made on, loaded where it fits, and
taken up by another run (`start_from`)."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from craft.bench.model import packing
from craft.bench.model.build import build, heads, trained
from craft.bench.model.locate import Backbone
from craft.bench.model.trusted import refuse_targets
from craft.bench.run.inputs import Start
from craft.bench.settings.sections import RunConfig, Task
from craft.bench.training.loop import Fit, Seeds
from craft.errors import InputError
from craft.files import folder_atomically, read_json, write_json

ORIGIN = "made_on.json"  # beside an adapter: the run, the task and the backbone that it was made on


def origin_of(config: RunConfig, backbone: Backbone, drawn: bool) -> dict[str, Any]:
    """What an adapter belongs to: its task, and the backbone that it was made on.

    `drawn` says whether some of the backbone's weights come from the run's seed, which then counts
    unless the adapter holds them all."""
    seeded = drawn and not config.method.train_backbone
    return {
        "task": config.task.name,
        "model": {
            "name": backbone.name,
            "digest": backbone.digest,
            "tokenizer": backbone.tokenizer,
            "random": backbone.random,
            "vertical": None if backbone.vertical is None else dict(backbone.vertical),
            "seed": config.seed if seeded else None,
        },
    }


def save_adapters(model: PeftModel, fitted: Fit, folder: Path, origin: dict[str, Any]) -> int:
    """Save adapter and head of the last and of the best epoch as peft folders, and what they were
    made on; returns the bytes of one."""
    _save_adapter(model, folder / "last", origin)
    adapter, head = trained(model)
    with torch.no_grad():
        for name, parameter in {**adapter, **head}.items():
            if name in fitted.best:
                parameter.copy_(fitted.best[name])
    _save_adapter(model, folder / "best", origin)
    return (folder / "best" / "adapter_model.safetensors").stat().st_size


def _save_adapter(model: PeftModel, path: Path, origin: dict[str, Any]) -> None:
    with folder_atomically(path) as aside:
        model.save_pretrained(aside)
        write_json(aside / ORIGIN, origin)


def load_adapter(config: RunConfig, backbone: Backbone) -> torch.nn.Module:
    """The backbone with the adapter and head of `config.adapter`, ready to evaluate.

    InputError where they were made for another task, backbone or number of labels."""
    assert config.adapter is not None
    if not (config.adapter / "adapter_model.safetensors").is_file():
        raise InputError(f"adapter: {config.adapter} holds no adapter_model.safetensors")
    check_adapter(config.adapter)
    base = build(backbone, config.task, Seeds.of(config.seed).head)
    check_origin(config.adapter, origin_of(config, backbone, base.config.drawn))
    if config.train.batching == "packed":
        packing.enable(base)
    try:
        check_outputs(config.adapter, base, config.task)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, str(config.adapter))
    except InputError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, SafetensorError, UserWarning) as error:
        raise InputError(
            f"adapter: {config.adapter} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    return model.to(config.train.device).eval()


def check_adapter(folder: Path) -> None:
    """Refuse a folder from elsewhere whose config names code or other adapters to load."""
    path = folder / "adapter_config.json"
    try:
        found = json.loads(path.read_bytes())
        kind, code = found.get("peft_type"), found.get("auto_mapping")
    except (ValueError, AttributeError) as error:
        raise InputError(f"adapter: {path} is not a JSON object") from error
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING or kind == "XLORA":  # X-LoRA names adapters to fetch
        raise InputError(f"adapter: {path}: peft_type {kind!r} is not one that can be loaded")
    if code:
        raise InputError(f"adapter: {path}: auto_mapping {code} names code to import; remove it")
    refuse_targets(found)


def check_origin(folder: Path, here: dict[str, Any]) -> None:
    """Refuse an adapter whose `made_on.json`, where a run has left one, says another task or
    backbone than `here` (`origin_of`); what it does not say is not compared."""
    if not (folder / ORIGIN).is_file():
        return
    made = read_json(folder / ORIGIN)
    if made["task"] != here["task"]:
        raise InputError(
            f"adapter: {folder} was made on task={made['task']}, not on task={here['task']}"
        )
    there, ours = made["model"], here["model"]
    for key in ("digest", "tokenizer"):
        if there.get(key, ours[key]) != ours[key]:
            raise InputError(
                f"adapter: {folder} was made on {there['name']} with the "
                f"{key.replace('tokenizer', 'tokenizer digest')} {there[key][:12]}; "
                f"{ours['name']} has {ours[key][:12]}"
            )
    for key in ("random", "vertical"):
        if there.get(key, ours[key]) != ours[key]:
            raise InputError(
                f"adapter: {folder} was made on model.{key}={_plain(there[key])}, "
                f"not on model.{key}={_plain(ours[key])}"
            )
    if there.get("seed", ours["seed"]) != ours["seed"]:
        raise InputError(
            f"adapter: {folder} was made on weights drawn from seed={there['seed']}, "
            f"not from seed={ours['seed']}"
        )


def _plain(value: Any) -> str:
    """A value of the model section as it is given on the command line."""
    return json.dumps(value).replace('"', "").replace(" ", "")


def check_outputs(folder: Path, base: torch.nn.Module, task: Task) -> None:
    """Refuse an adapter whose head has another number of outputs than the task's."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())
        for name in heads(base):
            for key, own in base.get_submodule(name).state_dict().items():
                saved = f"base_model.model.{name}.{key}"
                if own.shape[:1] != (task.outputs,) or saved not in names:
                    continue
                outputs = file.get_slice(saved).get_shape()[0]
                if outputs != task.outputs:
                    raise InputError(
                        f"adapter: {folder} has a head of {outputs} outputs ({name}.{key}); "
                        f"task={task.name} has {task.outputs}"
                    )


def start_from(model: PeftModel, start: Start) -> dict[str, Any]:
    """Load the last epoch's adapter and head; what another number of labels makes unfit keeps its
    fresh start.

    Returns what the record says of it: the run, the tensors loaded, and the tensors skipped with
    both shapes."""
    state = load_file(start.folder.path / "last" / "adapter_model.safetensors")
    own = get_peft_model_state_dict(model)
    skipped = {
        name: f"{list(value.shape)} there, {list(own[name].shape)} here"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    }
    fitting = {name: value for name, value in state.items() if name not in skipped}
    if set(state) != set(own):
        odd = sorted(set(state) ^ set(own))
        raise InputError(
            f"{start.folder.path.name} does not hold this method's tensors, e.g. {odd[0]}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some weights of .* were not initialized")
        set_peft_model_state_dict(model, state, ignore_mismatched_sizes=True)
    return {
        "run": start.folder.path.name,
        "id": start.id,
        "loaded": sorted(fitting),
        "skipped": skipped,
    }
