"""Start a run from the adapter and head of another finished run (`start_from=mnli`)."""

import warnings
from dataclasses import dataclass
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from craft.bench.glue.splits import data_of
from craft.bench.model.locate import Backbone
from craft.bench.run import record
from craft.bench.run.folder import RunFolder
from craft.bench.run.identity import identity
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError


@dataclass(frozen=True)
class Start:
    """A finished run to start from: its id and where it lies."""

    id: str
    folder: RunFolder


def finished_run(config: RunConfig, backbone: Backbone) -> Start:
    """The run of a config; InputError where its ok record is not there."""
    data = data_of(config)
    kept = identity(config, backbone.digest, data.digest, backbone.tokenizer)
    run_id = record.digest(kept)
    folder = RunFolder.of(config, run_id, backbone.name)
    done = folder.read()
    if done is None or done["status"] != "ok":
        raise InputError(
            f"start_from={config.task.name} needs the finished run {folder.path.name}: "
            f"run the same command with task={config.task.name} and start_from=null first, without "
            f"task.* and those of train.* that the recipe has for {config.task.name}"
        )
    return Start(run_id, folder)


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
