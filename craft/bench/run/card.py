"""A finished run's best adapter as a folder to share: peft's files, and a model card made from the
record."""

import json
import shutil
from collections.abc import Mapping
from typing import Any

from craft.bench.run.folder import RunFolder
from craft.bench.run.record import Record
from craft.bench.settings.declared import Effect
from craft.bench.settings.sections import declaration
from craft.errors import InputError
from craft.files import folder_atomically, write_json, write_text

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
    sections = [_summary(made), _use(provenance), _scores(made), _training(made), _origin(made)]
    header = _header(made).to_yaml()
    return "\n\n".join([f"---\n{header}\n---", f"# {provenance['name']}", *sections]) + "\n"


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


def _summary(made: Record) -> str:
    provenance, parameters = made.provenance, made.result["parameters"]
    labels = provenance["config"]["task"]["labels"]
    classes = ", ".join(f"{n} {label}" for n, label in enumerate(labels))
    return (
        f"A {provenance['config']['method']['label']} adapter and a classification head for "
        f"`{_base(provenance['model'])}`, trained on {_data_name(provenance)}. The adapter has "
        f"{parameters['adapter']:,} trained parameters, the head {parameters['head']:,}. "
        + (f"Classes: {classes}." if labels else "The output is a score from 0 to 5.")
    )


def _use(provenance: Mapping[str, Any]) -> str:
    model, config = provenance["model"], provenance["config"]
    ours = config["method"]["peft"]["_target_"].startswith("craft.")
    made_of = {k: config["model"].get(k) for k in ("random", "vertical")}
    revision = f', revision="{model["revision"]}"' if model["revision"] else ""
    lines = ["## Use", "", "```python"]
    lines += ["import craft  # pip install craft-peft; tells peft of this method"] if ours else []
    lines += [
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification",
        "",
        f'backbone, labels = "{_base(model)}", {len(config["task"]["labels"]) or 1}',
        "model = AutoModelForSequenceClassification.from_pretrained(",
        f"    backbone{revision}, num_labels=labels",
        ")",
        'model = PeftModel.from_pretrained(model, "THIS FOLDER")',
        "```",
    ]
    if not model["repository"]:
        lines += [
            "",
            f"`{model['name']}` is not on the hub: give the folder of the weights that it was "
            f"trained on (digest {model['digest'][:16]}).",
        ]
    if made_of["random"] or (made_of["vertical"] or {}).get("rank"):
        shown = ", ".join(f"model.{key}={value}" for key, value in made_of.items())
        lines += [
            "",
            f"The backbone is not the pre-trained one as it stands ({shown}): "
            "`craft.bench.model.build.build` makes it.",
        ]
    return "\n".join(lines)


def _scores(made: Record) -> str:
    score, history = made.result["score"], made.result["history"]
    examples, task = made.provenance["data"]["examples"], made.provenance["config"]["task"]
    rows = [
        f"| {metric} | {value:.4f} | {score['last'][metric]:.4f} |"
        for metric, value in score["best"].items()
    ]
    n = sum(examples[split] for split in task["dev"])
    # of the weights that are shared, those of the best epoch
    collapsed = " The predictions are one class or one value alone." if score["collapsed"] else ""
    return "\n".join(
        [
            "## Scores",
            "",
            f"On the {n:,} examples of {' and '.join(task['dev'])}, one seed. The weights are "
            f"those of the best epoch, chosen on the same examples.{collapsed}",
            "",
            f"| metric | best epoch ({score['best_epoch']} of {len(history)}) | last epoch |",
            "|---|---|---|",
            *rows,
        ]
    )


def _training(made: Record) -> str:
    provenance, config = made.provenance, made.provenance["config"]
    start = provenance["start_from"]
    peft = {f"method.{k}": v for k, v in config["method"]["peft"].items()}
    train = {f"train.{k}": v for k, v in config["train"].items()}
    train = {k: v for k, v in train.items() if declaration(k).effect is not Effect.NOTHING}
    settings = {"seed": config["seed"], "start_from": start["run"] if start else None}
    settings |= {**peft, **train}
    rows = [f"| `{key}` | {json.dumps(value)} |" for key, value in settings.items()]
    cost, hardware = provenance["cost"], provenance["environment"]["hardware"]
    return "\n".join(
        [
            "## Training",
            "",
            f"{provenance['data']['examples']['train']:,} examples; {made.result['steps']:,} "
            f"steps in {cost['train_seconds']:,.0f} s on {hardware['gpu'] or hardware['cpu']}. "
            f"Hyperparameters: {provenance['recipe']}.",
            "",
            "| setting | value |",
            "|---|---|",
            *rows,
        ]
    )


def _origin(made: Record) -> str:
    environment = made.provenance["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if v)
    changed = {True: ", with changes", False: "", None: ", changes unknown"}[environment["dirty"]]
    return "\n".join(
        [
            "## Origin",
            "",
            f"Made from the record of run `{made.id}` (schema {made.schema}, protocol "
            f"{made.protocol}), commit {environment['commit'] or 'unknown'}{changed}. "
            f"{versions}. Weights {made.result['config']['model.digest'][:16]}, data "
            f"{made.result['config']['data.digest'][:16]}.",
        ]
    )
