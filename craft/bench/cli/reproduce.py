"""The paper's tables and figures: what is here, the suite, the plan, the runs, the report.

    craft reproduce
    craft reproduce suite=paper methods=lora,pissa seeds=0,1 glue_dir=FOLDER model_dir=FOLDER
    craft reproduce launcher=slurm slurm="partition=gpu account=me"

Runs that are done are skipped: after an interruption the same command goes on.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from craft.bench.cli.parser import Parser, count
from craft.bench.glue.tokens import encode
from craft.bench.model.locate import tokenizer_of
from craft.bench.run import signals
from craft.bench.run.folder import RunFolder
from craft.bench.run.inputs import Planner
from craft.bench.settings.places import CONFIGS
from craft.bench.settings.resolve import check
from craft.bench.settings.sections import RunConfig
from craft.bench.sweep import suite
from craft.errors import Interrupted
from craft.files import write_json

COMMAND = [sys.executable, "-m", "craft.bench"]


def arguments(parser: Parser) -> None:
    parser.setting("suite", help="mini, small or paper; else what this machine can", metavar="NAME")
    parser.setting("methods", help="beside CRAFT", metavar="NAME,...")
    parser.setting("tasks", help="else all of the suite's", metavar="NAME,...")
    parser.setting("seeds", help="else the suite's", metavar="N,...")
    parser.setting("workers", type=count, help="runs at a time", metavar="N")
    parser.setting("glue_dir", help="holds CoLA/, SST-2/ ...", metavar="FOLDER")
    parser.setting("model_dir", help="holds roberta-base/ and roberta-large/", metavar="FOLDER")
    parser.setting("launcher", "local", help="where runs are", choices=("local", "slurm"))
    parser.setting("slurm", help="the site's settings of the launcher", metavar='"K=V K=V"')
    parser.setting("yes", help="1: submit without asking", metavar="1")
    parser.setting("outputs", "outputs", help="runs and the report", metavar="FOLDER")


@dataclass(frozen=True)
class Grid:
    """A Hydra multirun: overrides that all its runs share, and the values of its grid."""

    fixed: list[str]
    values: dict[str, list[str]]

    def runs(self) -> list[list[str]]:
        return [
            [*self.fixed, *(f"{k}={v}" for k, v in zip(self.values, chosen, strict=True))]
            for chosen in itertools.product(*self.values.values())
        ]

    def command(self) -> list[str]:
        dimensions = [f"{name}={','.join(values)}" for name, values in self.values.items()]
        return [*COMMAND, "train", "-m", *self.fixed, *dimensions]


@dataclass(frozen=True)
class Expected:
    """One run of the plan: where it will lie and how many tokens it trains on."""

    folder: RunFolder
    tokens: int

    def done(self) -> bool:
        return self.folder.done() is not None


def grids(name: str, given: Namespace, found: suite.Here) -> list[Grid]:
    """What a suite runs. The mini suite's grid is that of experiment=mini; the paper suite's rows
    are CRAFT's, and those that methods= adds."""
    mini = OmegaConf.load(CONFIGS / "experiment" / "mini.yaml").hydra.sweeper.params

    def values(key: str, default: str) -> list[str]:
        return str(getattr(given, key) or default).split(",")

    seeds = values("seeds", str(mini.seed))
    if name == "mini":
        dimensions = {"method": values("methods", mini.method), "task": values("tasks", mini.task)}
        return [Grid(["experiment=mini"], dimensions | {"seed": seeds})]
    data = ["data=hub"] if found.glue == "hub" else ["data=local", f"data.dir={found.glue}"]
    if name == "small":
        dimensions = {
            "method": values("methods", mini.method),
            "task": values("tasks", "rte,mrpc,stsb,cola"),
        }
        return [Grid(["model=roberta_mini", *data], dimensions | {"seed": seeds})]
    made = []
    for model, place in found.weights.items():
        if place is None:
            continue
        rows = [
            f"{model.removeprefix('roberta_')}_{method}"
            for method in ["craft", *(given.methods or "").split(",")]
            if method
        ]
        path = [] if place == "hub" else [f"model.path={place}"]
        tasks = values("tasks", "mnli,sst2,mrpc,cola,qnli,qqp,rte,stsb")
        made.append(Grid([*data, *path], {"row": rows, "task": tasks, "seed": seeds}))
    return made


def plan(found: Sequence[Grid]) -> list[Expected]:
    """Compose every run and find its identity, as the run itself will."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = [check(compose("train", run)) for grid in found for run in grid.runs()]
    planner = Planner()
    tokens: dict[tuple[str, str], int] = {}
    planned = []
    for config in composed:
        inputs = planner.inputs(config)
        key = (inputs.data.digest, inputs.backbone.tokenizer)
        if key not in tokens:
            tokens[key] = len(_training_tokens(config, planner).ids)
        planned.append(Expected(inputs.folder, tokens[key] * config.train.epochs))
    return planned


def _training_tokens(config: RunConfig, planner: Planner):
    inputs = planner.inputs(config)
    tokenizer = tokenizer_of(inputs.backbone)
    return encode(inputs.data.splits["train"], config.task, tokenizer, config.train.max_length)


def calibrate(grid: Grid, outputs: Path) -> tuple[str, float]:
    """The faster precision of this machine and its tokens a second in one worker, on the first run
    of a sweep.

    The precision is part of a run's identity, so what was found faster at the first start stays."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = check(compose("train", grid.runs()[0]))
    tokens = _training_tokens(config, Planner())
    path, device = outputs / "precision.json", config.train.device
    chosen = json.loads(path.read_text()) if path.is_file() else {}
    either = ("bf16",) if device == "cuda" else ("bf16", "fp32")
    rate = suite.calibrate(config, tokens, (chosen[device],) if device in chosen else either)
    write_json(path, chosen | {device: rate.precision})
    return rate.precision, rate.tokens_per_second


def carry_out(
    found: Sequence[Grid], planned: Sequence[Expected], workers: int, outputs: Path
) -> None:
    """Run the sweeps one after the other, with one progress display; their own output goes to
    reproduce.log."""
    launcher = [] if workers == 1 else ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    log = outputs / "reproduce.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with log.open("a") as stream, Progress(*columns) as bar:
        shown = bar.add_task("runs", total=len(planned))
        for grid in found:
            # a session of its own: a Ctrl-C reaches this process alone, which hands it on to all
            # workers
            command = [*grid.command(), *launcher]
            process = subprocess.Popen(
                command, stdout=stream, stderr=stream, start_new_session=True
            )
            told = False
            while process.poll() is None:
                bar.update(shown, completed=sum(run.done() for run in planned))
                if signals.stopped() and not told:
                    os.killpg(process.pid, signal.SIGTERM)
                    told = True
                time.sleep(1)
            if told:
                done = sum(run.done() for run in planned)
                raise Interrupted(f"{done} of {len(planned)} runs are done; start again to go on")
        bar.update(shown, completed=sum(run.done() for run in planned))


def submit(found: Sequence[Grid], given: Namespace) -> None:
    """Hand the sweeps to Slurm; each shows its plan, and asks where yes=1 is not given."""
    site = [f"++hydra.launcher.{field}" for field in (given.slurm or "").split()]
    ask = f"hydra.launcher.ask={str(given.yes != '1').lower()}"
    shared = ["train.precision=bf16", "logger=none", f"outputs={given.outputs}"]
    for grid in found:
        whole = Grid([*grid.fixed, *shared], grid.values)
        done = subprocess.run([*whole.command(), "hydra/launcher=slurm", ask, *site])
        if done.returncode:
            sys.exit(done.returncode)
    report = f"craft report records={given.outputs}/runs"
    print(f"while the jobs run: make sweep-status; once they have ended: {report}")


def main(given: Namespace) -> None:
    on_slurm, outputs = given.launcher == "slurm", Path(given.outputs)
    here = suite.find(given.model_dir, given.glue_dir, suite.hub_answers())
    if on_slurm:  # what this machine has does not matter: the runs are on the nodes
        on_cpu = "gpus_per_node=0" in (given.slurm or "").split()
        here = replace(here, gpu=None if on_cpu else "on Slurm's nodes")
    print("\n".join(here.lines()))
    chosen, reason = suite.choose(here, given.suite)
    print(f"{'suite':24}{chosen}: {reason}\n")

    found = grids(chosen, given, here)
    if on_slurm:
        submit(found, given)
        return
    precision, rate = calibrate(found[0], outputs)
    shared = [f"train.precision={precision}", "logger=none", f"outputs={outputs}"]
    found = [Grid([*grid.fixed, *shared], grid.values) for grid in found]
    planned = plan(found)
    workers = given.workers or (1 if here.gpu else here.cores)
    pending = [run for run in planned if not run.done()]
    minutes = sum(run.tokens for run in pending) / rate / workers / 60
    print(
        f"{len(planned)} runs, {len(planned) - len(pending)} of them done; {workers} at a time "
        f"in {precision}, "
        f"{rate:,.0f} tokens a second each: about {minutes:.0f} minutes\n"
    )
    if pending:
        carry_out(found, planned, workers, outputs)
    report = [*COMMAND, "report", f"records={outputs / 'runs'}", f"out={outputs / 'report'}"]
    subprocess.run(report, check=True)
    if left := [run.folder.path.name for run in planned if not run.done()]:
        print(
            f"{len(left)} of {len(planned)} runs are not done, e.g. {left[0]}; see "
            f"{outputs / 'reproduce.log'}",
            file=sys.stderr,
        )
        sys.exit(1)
