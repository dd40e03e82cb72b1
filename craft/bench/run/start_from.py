"""Start a run from the adapter and head of another finished run (`start_from=mnli`)."""

import warnings
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from craft.bench.run.inputs import Start
from craft.errors import InputError


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
