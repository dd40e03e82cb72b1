"""Speed and memory side by side with what a user would take instead.

    craft speed
    craft speed trainer methods glue_dir=FOLDER tokenizer=FOLDER rounds=3

Without names: all of them, `cuda` where there is a card. Each prints a table and writes
`<out>/<name>.json`; `<out>/README.md` shows all of them. For RoBERTa's own token lengths give real
GLUE files and its tokenizer.
"""

import importlib
import json
import os
import signal
import time
import warnings
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from craft.bench.cli.parser import Parser, count
from craft.bench.run.provenance import anonymous, hardware, versions
from craft.bench.settings.places import CONFIGS, MINI_MODEL
from craft.bench.speed.measure import page, table
from craft.bench.speed.subjects import Setup, folder
from craft.errors import InputError
from craft.files import write_json, write_text

NAMES = ("trainer", "methods", "padding", "hosvd", "startup", "cuda", "planning")
# rounds of each: a step is short and its ratios are near 1, a run end to end is long
ROUNDS = {"trainer": 3, "methods": 9, "padding": 3, "hosvd": 3, "startup": 5, "cuda": 9}
SHAPE = {"hosvd": "large"}
THREADS = {"methods": 1, "padding": 1}  # the processor's clock tells ratios near 1 apart


def arguments(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.setting("glue_dir", help="real GLUE files; else mini-GLUE", metavar="FOLDER")
    parser.setting("tokenizer", str(MINI_MODEL), help="RoBERTa's", metavar="FOLDER")
    parser.setting("shape", help="tiny, mini, base or large; else each bench's own")
    parser.setting("tasks", "cola,sst2,stsb,mrpc,rte", help="whose texts are measured")
    parser.setting("rows", 256, type=count, help="training rows", metavar="N")
    parser.setting("dev_rows", 32, type=count, help="rows that are evaluated", metavar="N")
    parser.setting("rounds", type=count, help="of each; else each bench's own", metavar="N")
    parser.setting("threads", type=count, help="of torch; else each bench's own", metavar="N")
    parser.setting(
        "llama", "true", help="decompose the Llama-8B shape, too", choices=("true", "false")
    )
    parser.setting("out", "results/speed", help="where figures go", metavar="FOLDER")


def main(given: Namespace) -> None:
    for name in given.names:
        if name not in NAMES:
            raise InputError(f"{name!r} is not one of {', '.join(NAMES)}")
    for number in (signal.SIGINT, signal.SIGTERM):  # there is no step to end first
        signal.signal(number, signal.default_int_handler)
    warnings.simplefilter("ignore", FutureWarning)  # of calls inside peft
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, cores = "cuda" if torch.cuda.is_available() else "cpu", os.cpu_count() or 1
    with folder() as temporary:
        setup = Setup(
            configs=CONFIGS, folder=temporary, tokenizer=Path(given.tokenizer),
            glue_dir=given.glue_dir, shape="base", tasks=tuple(given.tasks.split(",")),
            rows=given.rows, dev_rows=given.dev_rows, rounds=1,
            threads=1, device=device, llama=given.llama == "true",
        )  # fmt: skip
        for name in given.names or NAMES:
            rounds = given.rounds or ROUNDS.get(name, 1)
            shape = given.shape or SHAPE.get(name, "base")
            threads = given.threads or THREADS.get(name, cores)
            torch.set_num_threads(threads)
            chosen = replace(setup, rounds=rounds, shape=shape, threads=threads)
            run(name, chosen, Path(given.out))


def run(name: str, setup: Setup, out: Path) -> None:
    """One bench: its table on the terminal, its file in `out`."""
    print(f"\n{name}")
    if name == "cuda" and setup.device != "cuda":
        print("not run: torch sees no CUDA device")
        return
    clock = time.perf_counter()

    def write(found: Any) -> list[str]:
        remarks = _remarks(name, setup, found)
        content = {
            "bench": name,
            "machine": hardware(torch.device(setup.device)) | {"threads": setup.threads},
            "versions": versions(),
            "rounds": setup.rounds,
            "minutes": round((time.perf_counter() - clock) / 60, 1),
            "scatter": found.noise(),
            "figures": [asdict(f) | {"met": f.met} for f in found.figures],
            "remarks": remarks,
            "facts": found.facts,
        }
        write_json(out / f"{name}.json", anonymous(content))
        return remarks

    measure = importlib.import_module(f"craft.bench.speed.{name}").bench
    more = {"planning": {"measured": out}, "trainer": {"keep": write}}.get(name, {})
    found = measure(setup, **more)
    print(table(found))
    print("\n".join(write(found)))
    made = [out / f"{bench}.json" for bench in NAMES]
    write_text(out / "README.md", page([json.loads(p.read_text()) for p in made if p.is_file()]))


def _remarks(name: str, setup: Setup, found: Any) -> list[str]:
    """The bench's own, and whether its texts and its machine are fit to be quoted."""
    remarks = list(found.remarks)
    if setup.glue_dir is None and name in ("trainer", "padding", "cuda"):
        remarks.append("texts are the generated mini-GLUE, not GLUE (glue_dir=FOLDER)")
    warning = found.warning()
    if warning is not None:
        remarks.append(warning)
    return remarks
