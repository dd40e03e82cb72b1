"""How many numbers a method trains besides the head: attached to a model's shapes, and counted."""

import warnings

import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from craft.bench.model.build import attach, trained
from craft.bench.settings.sections import Method
from craft.tuners.sandwich.backbone import shapes_alone

_counted: dict[str, int] = {}


def expected_parameters(method: Method, model_config: PretrainedConfig) -> int:
    """What a method of `configs/method` trains besides the head in a model of this architecture.

    The method is attached to the model on the meta device, so that no weight is made or
    decomposed: a fraction of a second, once a process. InputError where the method cannot be
    attached, and where its ranks are energies, which the weights alone can tell; what they came to
    is in a run's record.

    The formula in a method's `facts.parameters` is text: it is of the method as its file has it,
    with any whole numbers in the fields that it names. The tests hold it and the count together."""
    key = f"{method.peft} {method.train_backbone} {model_config.to_json_string()}"
    if key not in _counted:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(model_config)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), shapes_alone():
            warnings.simplefilter("ignore", UserWarning)  # that ranks are clipped is in the count
            adapter, _ = trained(attach(model, method, seed=0))
        _counted[key] = sum(parameter.numel() for parameter in adapter.values())
    return _counted[key]
