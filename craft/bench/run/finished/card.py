"""A finished run's best adapter as a folder to share: peft's files, and a model card made from the
record."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from craft.bench.pages import render
from craft.bench.run.folder import RunFolder
from craft.bench.run.record import Record
from craft.bench.settings.declared import Effect
from craft.bench.settings.sections import declaration
from craft.errors import InputError
from craft.files import folder_atomically, write_json, write_text

TEMPLATE = Path(__file__).with_name("card.md.jinja")
METRICS = {  # the hub's names of ours
    "accuracy": "accuracy",
    "f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
DATASETS = {"local": "glue", "mini": "mini-glue"}  # where the data has no repository
ORIGINS = {
    "hub": "GLUE {task}",
    "local": "GLUE {task}, from local files",
    "mini": "mini-GLUE {task} (synthetic, not GLUE)",
}


def share(folder: RunFolder, made: Record) -> str:
    """Write <run>/adapter from <run>/best and the record of an ok run, whole or not at all; returns
    the folder's path.

    InputError where the run's adapter is not there any more."""
    source, target = folder.path / "best", folder.path / "adapter"
    if not (source / "adapter_model.safetensors").is_file():
        raise InputError(f"{source} holds no adapter_model.safetensors any more")
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    model = made.provenance["model"]
    # peft has the folder of this machine here
    config |= {"base_model_name_or_path": _base(model), "revision": model["revision"]}
    with folder_atomically(target) as aside:
        shutil.copyfile(source / "adapter_model.safetensors", aside / "adapter_model.safetensors")
        write_json(aside / "adapter_config.json", config)
        write_text(aside / "README.md", card(made))
    return str(target)


def card(made: Record) -> str:
    """The model card of an ok run: the hub's header, and what the record says for a reader."""
    provenance = made.provenance
    task, versions = provenance["config"]["task"], provenance["environment"]["versions"]
    return render(
        TEMPLATE,
        made=made,
        header=_header(made).to_yaml(),
        base=_base(provenance["model"]),
        data=_data_name(provenance),
        classes=", ".join(f"{n} {label}" for n, label in enumerate(task["labels"])),
        made_of=_made_of(provenance["config"]["model"]),
        dev_examples=sum(provenance["data"]["examples"][split] for split in task["dev"]),
        settings=_settings(provenance),
        versions=", ".join(f"{name} {version}" for name, version in versions.items() if version),
    )


def _header(made: Record) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    provenance, score = made.provenance, made.result["score"]
    task, source = provenance["config"]["task"], provenance["data"]["source"]
    dataset = source.get("repository") or DATASETS[source["source"]]
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset,
            dataset_name=_data_name(provenance),
            dataset_config=task["name"],
            dataset_split=_split_of(task, metric),
            dataset_revision=source.get("revision"),
            metric_type=METRICS[metric.split("_")[0]],
            metric_name=f"{metric}, best epoch",
            metric_value=value,
        )
        for metric, value in score["best"].items()
    ]
    return ModelCardData(
        base_model=_base(provenance["model"]),
        datasets=[dataset],
        eval_results=results,
        language="en",
        library_name="peft",
        metrics=list(dict.fromkeys(METRICS[m.split("_")[0]] for m in score["best"])),
        model_name=provenance["name"],
        pipeline_tag="text-classification",
        tags=["glue", task["name"], provenance["config"]["method"]["label"].lower()],
    )


def _base(model: Mapping[str, Any]) -> str:
    """The backbone's name on the hub; ours where it is not there."""
    return model["repository"] or model["name"]


def _data_name(provenance: Mapping[str, Any]) -> str:
    task = provenance["config"]["task"]["folder"]  # GLUE's own spelling
    return ORIGINS[provenance["data"]["source"]["source"]].format(task=task)


def _split_of(task: Mapping[str, Any], metric: str) -> str:
    """The dev split of `accuracy_matched`, or all of them."""
    own = [s for s in task["dev"] if metric.endswith(f"_{s.removeprefix('validation_')}")]
    return ", ".join(own or task["dev"])


def _made_of(model: Mapping[str, Any]) -> str | None:
    """How the backbone was made of the pre-trained one; None where it is that itself."""
    found = {key: model.get(key) for key in ("random", "vertical")}
    if not (found["random"] or (found["vertical"] or {}).get("rank")):
        return None
    return ", ".join(f"model.{key}={value}" for key, value in found.items())


def _settings(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What changed the run's results, by dotted key, as JSON."""
    config, start = provenance["config"], provenance["start_from"]
    settings = {"seed": config["seed"], "start_from": start["run"] if start else None}
    settings |= {f"method.{k}": v for k, v in config["method"]["peft"].items()}
    train = {f"train.{k}": v for k, v in config["train"].items()}
    settings |= {k: v for k, v in train.items() if declaration(k).effect is not Effect.NOTHING}
    return {key: json.dumps(value) for key, value in settings.items()}
