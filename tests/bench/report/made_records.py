"""Run records as a run writes them, made up: no training, but predictions that score so."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from tiny_bench import compose

from craft.bench.run import record
from craft.bench.run.identity import PROTOCOL
from craft.bench.settings.places import let_configs_name_them
from craft.bench.settings.resolve import recipe_row
from craft.bench.settings.sections import DECLARED
from craft.files import sha256, write_tensors

let_configs_name_them()
CONFIGS = Path(__file__).parents[3] / "configs"
ADAPTER = {"craft": 41_152, "lora": 294_912, "head": 0, "full": 124_055_040}
METRICS = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "pearson": lambda y, x: pearsonr(y, x)[0],
    "spearman": lambda y, x: spearmanr(y, x)[0],
}


def config_of(task, method, model, source, seed, start_from, peft, train):
    """The resolved config, values of the recipe filled in."""
    composed = compose(f"method={method}", f"model={model}")
    row = {"lr": 1e-3, "head_lr": 1e-3, "epochs": 3, **recipe_row(composed.recipe, task)}
    encoder = OmegaConf.to_container(composed.model)
    whole = OmegaConf.create(
        {
            "task": OmegaConf.load(CONFIGS / "task" / f"{task}.yaml"),
            "recipe": {task: row},
            "train": OmegaConf.load(CONFIGS / "train" / "default.yaml"),
            "method": OmegaConf.load(CONFIGS / "method" / f"{method}.yaml"),
            "seed": seed,
            "start_from": start_from,
            "outputs": "~/outputs",
            "model": {k: v for k, v in encoder.items() if k not in ("random", "vertical")},
            "data": {"source": source, "dir": "/data/glue"}
            if source != "mini"
            else {"source": source, "seed": 0},
        }
    )
    whole.train.device = "cpu"
    if model == "local":
        whole.model.path = "/data/encoders/tiny"
    whole.method.peft = OmegaConf.merge(whole.method.peft, peft)
    whole.train = OmegaConf.merge(whole.train, train)
    config = OmegaConf.to_container(whole, resolve=True)
    config["recipe"] = {"source": row["source"]}
    return config


def differs_of(config, method, model, task, peft, train):
    """What a run says that it differs in: the fields given here, a part of train or a fold."""
    plain = config_of(task, method, model, "mini", 0, None, {}, {})
    found = {
        f"{section}.{key}": value
        for section, given, default in (
            ("method.peft", peft, plain["method"]["peft"]),
            ("train", train, plain["train"]),
        )
        for key, value in given.items()
        if default.get(key) != value
    }
    flat = {"selection": config.get("selection")}
    flat |= {f"fold.{key}": value for key, value in config["fold"].items()}
    return found | {k: v for k, v in flat.items() if v not in (None, DECLARED[k].neutral)}


def predictions_of(task, quality, seed, n, data_seed):
    """Labels and logits (n, outputs) by split: right so often, or so much signal in a score.

    A quality of 0 predicts the first class alone."""
    truth = np.random.default_rng(data_seed)
    noise = np.random.default_rng([seed, int(quality * 1e4)])
    tensors = {}
    for split in task["dev"]:
        if task["labels"]:
            labels = truth.integers(len(task["labels"]), size=n)
            right = noise.random(n) < quality
            other = (labels + 1) % len(task["labels"])
            chosen = np.where(right, labels, other) if quality else np.zeros(n, dtype=int)
            logits = np.eye(len(task["labels"]))[chosen]
        else:
            labels = np.round(truth.random(n) * 5, 1)
            logits = (labels * quality + noise.normal(size=n) * (1 - quality))[:, None] * bool(
                quality
            )
        dtype = torch.int64 if task["labels"] else torch.float32
        tensors[f"labels.{split}"] = torch.tensor(labels, dtype=dtype)
        tensors[f"idx.{split}"] = torch.arange(n)
        tensors[f"best.{split}"] = torch.tensor(logits, dtype=torch.float32)
        tensors[f"last.{split}"] = torch.tensor(logits, dtype=torch.float32)
    return tensors


def scores_of(task, tensors):
    pooled = {
        k: torch.cat([tensors[f"{k}.{s}"] for s in task["dev"]]).numpy() for k in ("labels", "best")
    }
    x = pooled["best"].argmax(-1) if task["labels"] else pooled["best"][:, 0]
    if np.ptp(x) == 0:
        constant = {"matthews": 0.0, "pearson": 0.0, "spearman": 0.0}
        return {
            m: constant.get(m, float(METRICS[m](pooled["labels"], x)) if m not in constant else 0)
            for m in task["metrics"]
        }, True
    return {m: float(METRICS[m](pooled["labels"], x)) for m in task["metrics"]}, False


def make_run(
    folder,
    task="rte",
    method="craft",
    seed=0,
    *,
    model="roberta_mini",
    source="mini",
    quality=0.8,
    status="ok",
    start_from=None,
    peft=None,
    train=None,
    n=60,
    epochs=3,
    best_epoch=2,
    last_drop=0.01,
    dirty=False,
    adapter=None,
    best=None,
    weights="a" * 64,
    ranks=(12, 100, 100),
    search=None,
    fold=None,
    verified="digest",
    constant_at_last=False,
    more=None,
):
    """Write one run below folder/ and return its record; `best` replaces the headline's value,
    `search` makes it one of a search and says what that is scored on, `fold` is (number, count,
    permutation), `constant_at_last` has the last epoch predict one class, `more` are scores besides
    the task's metrics. The record is one of before `collapsed_last`."""
    config = config_of(task, method, model, source, seed, start_from, peft or {}, train or {})
    config |= {"search": True, "selection": search} if search else {}
    chosen = dict(zip(("number", "count", "permutation"), fold or (None, 5, 0), strict=True))
    config |= {"fold": chosen} | ({"selection": "fold"} if fold else {})
    facts = config["task"]
    kept = {
        "protocol": PROTOCOL,
        "model.digest": weights,
        "data.digest": sha256(f"{source}{task}".encode()),
    }
    kept |= {"seed": seed, "task.name": task, "task.headline": facts["headline"]}
    kept |= {f"train.{k}": v for k, v in config["train"].items() if k != "checkpoint_minutes"}
    kept |= {"method.peft": config["method"]["peft"]}
    kept |= {"start_from": start_from, "start_from.id": f"donor{seed}"} if start_from else {}
    kept |= {"search": True} if search else {}
    if fold:
        kept |= {"selection": "fold", "data.digest": sha256(f"{source}{task} fold".encode())}
        kept |= {f"fold.{k}": v for k, v in chosen.items() if v != DECLARED[f"fold.{k}"].neutral}
    run_id = record.digest(kept)
    name = f"{task}-{method}-{model}-s{seed}-{run_id[:10]}"
    path = Path(folder) / name
    known = len(task) + 7
    tensors = predictions_of(facts, quality, seed, n, [known, *fold] if fold else known)
    score, collapsed = scores_of(facts, tensors)
    if constant_at_last:
        tensors |= {k: torch.ones_like(v) for k, v in tensors.items() if k.startswith("last.")}
    if best is not None:
        score[facts["headline"]] = best
    score |= more or {}
    last = {m: v - last_drop for m, v in score.items()}
    history = [
        {
            "epoch": e,
            "step": 10 * e,
            "loss": 1.0 / e,
            "lr": 1e-3 / e,
            **(score if e == best_epoch else last),
        }
        for e in range(1, epochs + 1)
    ]
    head = 592_130
    adapter = ADAPTER[method] if adapter is None else adapter
    result = {
        "config": kept,
        "score": {
            "headline": facts["headline"],
            "best": score,
            "last": last,
            "best_epoch": best_epoch,
            "collapsed": collapsed,
        },
        "history": history,
        "parameters": {
            "adapter": adapter,
            "head": head,
            "total": 124_055_040 + adapter + 2 * head,
            "effective_ranks": {"query": list(ranks), "value": list(ranks)}
            if method == "craft"
            else None,
        },
        "steps": 30,
        "tokens": 3000,
        "skipped_steps": 0,
        "predictions_sha256": write_tensors(
            path / "predictions.safetensors", tensors, {"task": task}
        ),
    }
    data = {"source": source} | ({"dir": "glue"} if source == "local" else {})
    provenance = {
        "name": name,
        "command": f"python scripts/train.py model={model} data=local data.dir=/data/glue "
        f"outputs=../elsewhere/out seed={seed}",
        "started": "2026-01-01T00:00:00+00:00",
        "config": config,
        "recipe": config["recipe"]["source"],
        "experiment": None,
        "row": None,
        "differs": differs_of(config, method, model, task, peft or {}, train or {}),
        "model": {"name": model, "repository": None, "revision": None, "digest": weights}
        | {"verified": verified if model in ("roberta_base", "roberta_large") else None},
        "data": {
            "source": data,
            "digest": kept["data.digest"],
            "examples": {"train": 100, **{s: n for s in facts["dev"]}},
            "skipped_rows": {},
        },
        "environment": {
            "commit": "c" * 40,
            "dirty": dirty,
            "versions": {},
            "hardware": {"cpu": "a CPU", "cores": 2, "gpu": None, "cuda": None},
        },
        "start_from": {"run": "donor", "id": f"donor{seed}", "loaded": [], "skipped": {}}
        if start_from
        else None,
        "tokens": {"max_length": 128},
        "cost": {
            "attach_seconds": 0.5 + seed,
            "train_seconds": 100.0 + seed,
            "eval_seconds": 5.0,
            "steps_per_second": 1.0,
            "tokens_per_second": 2000.0,
            "peak_megabytes": {"host": 1500.0, "gpu": None},
            "adapter_bytes": 165_000,
        },
        "attempts": [],
        "seconds": 107.0,
    }
    if status == "failed":
        made = record.make(run_id, status, None, provenance, "InputError: no")
    else:
        made = record.make(run_id, status, result, provenance)
    record.write(path / "record.json", made)
    return made


def make_folder(folder, tasks=("rte", "mrpc", "cola", "stsb"), seeds=3):
    """A small suite: CRAFT, LoRA and head-only on some tasks."""
    quality = {"craft": 0.86, "lora": 0.88, "head": 0.7}
    for task in tasks:
        for method, q in quality.items():
            for seed in range(seeds):
                make_run(folder, task, method, seed, quality=q - 0.01 * seed)
