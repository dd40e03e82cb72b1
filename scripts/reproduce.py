"""`make reproduce-glue`: what is here, the suite, the plan, the runs, the tables and figures.

    python scripts/reproduce.py [suite=mini|small|paper] [methods=craft,lora] [tasks=rte,mrpc]
    [seeds=0,1] [workers=2]
                                [glue_dir=FOLDER] [model_dir=FOLDER] [outputs=FOLDER]
    python scripts/reproduce.py launcher=slurm [slurm="partition=gpu account=me"] [yes=1] ...

Runs that are done are skipped: after an interruption the same command goes on.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from entry import count, options, start, stopped
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from craft.errors import InputError, Interrupted
from craft.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
LAUNCHERS = ("local", "slurm")


@dataclass(frozen=True)
class Sweep:
    """A Hydra multirun: overrides that all its runs share, and the values of its grid."""

    fixed: list[str]
    grid: dict[str, list[str]]

    def runs(self) -> list[list[str]]:
        combinations = itertools.product(*self.grid.values())
        return [
            [*self.fixed, *(f"{k}={v}" for k, v in zip(self.grid, c, strict=True))]
            for c in combinations
        ]

    def command(self) -> list[str]:
        dimensions = [f"{name}={','.join(values)}" for name, values in self.grid.items()]
        return [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *self.fixed, *dimensions]


@dataclass(frozen=True)
class Planned:
    """One run of the plan: where it will lie and how many tokens it trains on."""

    folder: Any
    tokens: int

    def done(self) -> bool:
        record = self.folder.read()
        return record is not None and record["status"] == "ok"


def sweeps(suite: str, given: dict[str, Any], findings: Any) -> list[Sweep]:
    """What a suite runs. The mini suite's grid is that of experiment=mini; the paper suite's rows
    are CRAFT's, and those that methods= adds."""
    grid = OmegaConf.load(CONFIGS / "experiment" / "mini.yaml").hydra.sweeper.params

    def values(name: str, default: str) -> list[str]:
        return str(given[name] or default).split(",")

    seeds = values("seeds", str(grid.seed))
    if suite == "mini":
        fixed, tasks = ["experiment=mini"], values("tasks", grid.task)
        return [
            Sweep(fixed, {"method": values("methods", grid.method), "task": tasks, "seed": seeds})
        ]
    data = ["data=hub"] if findings.glue == "hub" else ["data=local", f"data.dir={findings.glue}"]
    if suite == "small":
        tasks = values("tasks", "rte,mrpc,stsb,cola")
        methods = values("methods", grid.method)
        return [
            Sweep(["model=roberta_mini", *data], {"method": methods, "task": tasks, "seed": seeds})
        ]
    found = []
    for name, place in findings.weights.items():
        if place is None:
            continue
        rows = [
            f"{name.removeprefix('roberta_')}_{m}"
            for m in ["craft", *(given["methods"] or "").split(",")]
            if m
        ]
        model = [] if place == "hub" else [f"model.path={place}"]
        tasks = values("tasks", "mnli,sst2,mrpc,cola,qnli,qqp,rte,stsb")
        found.append(Sweep([*data, *model], {"row": rows, "task": tasks, "seed": seeds}))
    return found


def plan(grids: list[Sweep]) -> list[Planned]:
    """Compose every run and find its identity, as the run itself will."""
    from craft.bench.glue import sources
    from craft.bench.glue.tokens import encode
    from craft.bench.model.locate import locate, tokenizer_of
    from craft.bench.run import record
    from craft.bench.run.folder import RunFolder
    from craft.bench.run.identity import identity
    from craft.bench.settings.resolve import check

    composed = []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = [check(compose("train", run)) for sweep in grids for run in sweep.runs()]
    backbones: dict[str, Any] = {}
    loaded: dict[tuple[str, str], Any] = {}
    planned = []
    for config in composed:
        backbone = backbones.setdefault(str(config.model), None) or locate(config.model)
        backbones[str(config.model)] = backbone
        key = (config.task.name, str(config.model))
        if key not in loaded:
            data = sources.load(config.task, config.data, ("train", *config.task.dev))
            tokenizer = tokenizer_of(backbone)
            length = config.train.max_length
            loaded[key] = (
                data.digest,
                len(encode(data.splits["train"], config.task, tokenizer, length).ids),
            )
        digest, tokens = loaded[key]
        kept = identity(config, backbone.digest, digest, backbone.tokenizer)
        run_id = record.digest(kept)
        folder = RunFolder.of(config, run_id, backbone.name)
        planned.append(Planned(folder, tokens * config.train.epochs))
    return planned


def calibrate(sweep: Sweep, outputs: Path) -> tuple[str, float]:
    """The faster precision of this machine and its tokens a second in one worker, on the first run
    of a sweep.

    The precision is part of a run's identity, so what was found faster at the first start stays."""
    from craft.bench.glue import sources
    from craft.bench.glue.tokens import encode
    from craft.bench.model.locate import locate, tokenizer_of
    from craft.bench.settings.resolve import check
    from craft.bench.sweep import suite

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = check(compose("train", sweep.runs()[0]))
    train = sources.load(config.task, config.data, ("train",)).splits["train"]
    tokens = encode(
        train,
        config.task,
        tokenizer_of(locate(config.model)),
        config.train.max_length,
    )
    path, device = outputs / "precision.json", config.train.device
    chosen = json.loads(path.read_text()) if path.is_file() else {}
    either = ("bf16",) if device == "cuda" else ("bf16", "fp32")
    rate = suite.calibrate(config, tokens, (chosen[device],) if device in chosen else either)
    write_json(path, chosen | {device: rate.precision})
    return rate.precision, rate.tokens_per_second


def carry_out(grids: list[Sweep], planned: list[Planned], workers: int, outputs: str) -> None:
    """Run the sweeps one after the other, with one progress display; their own output goes to
    reproduce.log."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    launcher = [] if workers == 1 else ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    log = Path(outputs) / "reproduce.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with log.open("a") as stream, Progress(*columns) as bar:
        shown = bar.add_task("runs", total=len(planned))
        for sweep in grids:
            # a session of its own: a Ctrl-C reaches this process alone, which hands it on to all
            # workers
            command = [*sweep.command(), *launcher]
            process = subprocess.Popen(
                command, stdout=stream, stderr=stream, start_new_session=True
            )
            told = False
            while process.poll() is None:
                bar.update(shown, completed=sum(run.done() for run in planned))
                if stopped() and not told:
                    os.killpg(process.pid, signal.SIGTERM)
                    told = True
                time.sleep(1)
            if told:
                done = sum(run.done() for run in planned)
                raise Interrupted(f"{done} of {len(planned)} runs are done; start again to go on")
        bar.update(shown, completed=sum(run.done() for run in planned))


def submit(grids: list[Sweep], given: dict[str, Any]) -> None:
    """Hand the sweeps to Slurm; each shows its plan, and asks where yes=1 is not given."""
    site = [f"++hydra.launcher.{field}" for field in (given["slurm"] or "").split()]
    ask = f"hydra.launcher.ask={str(given['yes'] != '1').lower()}"
    shared = ["train.precision=bf16", "logger=none", f"outputs={given['outputs']}"]
    for sweep in grids:
        whole = Sweep([*sweep.fixed, *shared], sweep.grid)
        done = subprocess.run([*whole.command(), "hydra/launcher=slurm", ask, *site])
        if done.returncode:
            sys.exit(done.returncode)
    report = f"python scripts/report.py records={given['outputs']}/runs"
    print(f"while the jobs run: make sweep-status; once they have ended: {report}")


def main() -> None:
    from craft.bench.sweep import suite

    given = options(
        sys.argv[1:], suite=None, methods=None, tasks=None, seeds=None, workers=None, glue_dir=None,
        model_dir=None, launcher="local", slurm=None, yes=None, outputs="outputs",
    )  # fmt: skip
    if given["launcher"] not in LAUNCHERS:
        raise InputError(f"LAUNCHER {given['launcher']!r} is not one of {', '.join(LAUNCHERS)}")
    asked = None if given["workers"] is None else count("WORKERS", given["workers"])
    on_slurm = given["launcher"] == "slurm"
    findings = suite.find(given["model_dir"], given["glue_dir"], suite.hub_answers())
    if on_slurm:  # what this machine has does not matter: the runs are on the nodes
        on_cpu = "gpus_per_node=0" in (given["slurm"] or "").split()
        findings = replace(findings, gpu=None if on_cpu else "on Slurm's nodes")
    print("\n".join(findings.lines()))
    chosen, reason = suite.choose(findings, given["suite"])
    print(f"{'suite':24}{chosen}: {reason}\n")

    grids = sweeps(chosen, given, findings)
    if on_slurm:
        submit(grids, given)
        return
    precision, rate = calibrate(grids[0], Path(str(given["outputs"])))
    shared = [f"train.precision={precision}", "logger=none", f"outputs={given['outputs']}"]
    grids = [Sweep([*sweep.fixed, *shared], sweep.grid) for sweep in grids]
    planned = plan(grids)
    workers = asked or (1 if findings.gpu else findings.cores)
    pending = [run for run in planned if not run.done()]
    minutes = sum(run.tokens for run in pending) / rate / workers / 60
    print(
        f"{len(planned)} runs, {len(planned) - len(pending)} of them done; {workers} at a time "
        f"in {precision}, "
        f"{rate:,.0f} tokens a second each: about {minutes:.0f} minutes\n"
    )
    if pending:
        carry_out(grids, planned, workers, given["outputs"])
    report = [sys.executable, str(ROOT / "scripts" / "report.py")]
    subprocess.run(
        [*report, f"records={given['outputs']}/runs", f"out={given['outputs']}/report"], check=True
    )
    if left := [run.folder.path.name for run in planned if not run.done()]:
        log = Path(given["outputs"]) / "reproduce.log"
        print(
            f"{len(left)} of {len(planned)} runs are not done, e.g. {left[0]}; see {log}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    start(main)
