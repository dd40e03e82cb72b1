"""Speed and memory side by side with what a user would take instead.

    python scripts/bench.py [trainer] [methods] [padding] [hosvd] [startup] [cuda] [plan]
    [glue_dir=FOLDER] [tokenizer=FOLDER] [shape=base] [tasks=cola,rte] [rows=256] [dev_rows=32]
    [rounds=3] [threads=2] [llama=true] [out=results/bench]

Without names: all of them, `cuda` where there is a card. Each prints a table and writes
`<out>/<name>.json`; `<out>/README.md` shows all of them. For RoBERTa's own token lengths give real
GLUE files and its tokenizer.
"""

import importlib
import json
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from entry import options, start

from craft.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"plan": "planning"}
NAMES = ("trainer", "methods", "padding", "hosvd", "startup", "cuda", "plan")
# rounds of each: a step is short and its ratios are near 1, a run end to end is long
ROUNDS = {"trainer": 3, "methods": 9, "padding": 3, "hosvd": 3, "startup": 5, "cuda": 9}
SHAPE = {"hosvd": "large"}
THREADS = {
    "methods": 1,
    "padding": 1,
}  # one is timed by the processor's clock, which tells ratios near 1 apart


def main() -> None:
    import torch
    from transformers.utils import logging

    from craft.bench.speed.subjects import Setup, folder

    for number in (signal.SIGINT, signal.SIGTERM):  # there is no step to end first
        signal.signal(number, signal.default_int_handler)
    names = [argument for argument in sys.argv[1:] if "=" not in argument]
    for name in names:
        if name not in NAMES:
            raise InputError(f"bench {name!r} is not one of {', '.join(NAMES)}")
    given = options(
        [argument for argument in sys.argv[1:] if "=" in argument], glue_dir=None,
        tokenizer=str(ROOT / "results" / "models" / "roberta-mini"), shape=None,
        tasks="cola,sst2,stsb,mrpc,rte", rows="256", dev_rows="32", rounds=None,
        threads=None, llama="true", out=str(ROOT / "results" / "bench"),
    )  # fmt: skip
    warnings.simplefilter("ignore", FutureWarning)  # of calls inside peft
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, cores = "cuda" if torch.cuda.is_available() else "cpu", os.cpu_count() or 1
    with folder() as temporary:
        setup = Setup(
            configs=ROOT / "configs", folder=temporary, tokenizer=Path(str(given["tokenizer"])),
            glue_dir=given["glue_dir"], shape="base", tasks=tuple(str(given["tasks"]).split(",")),
            rows=whole(given, "rows"), dev_rows=whole(given, "dev_rows"), rounds=1,
            threads=1, device=device, llama=given["llama"] == "true",
        )  # fmt: skip
        for name in names or NAMES:
            rounds = whole(given, "rounds") if given["rounds"] else ROUNDS.get(name, 1)
            shape = given["shape"] or SHAPE.get(name, "base")
            threads = whole(given, "threads") if given["threads"] else THREADS.get(name, cores)
            torch.set_num_threads(threads)
            chosen = replace(setup, rounds=rounds, shape=shape, threads=threads)
            run(name, chosen, Path(str(given["out"])))


def run(name: str, setup: Any, out: Path) -> None:
    """One bench: its table on the terminal, its file in `out`."""
    import torch

    from craft.bench.run.provenance import anonymous, hardware, versions
    from craft.bench.speed.measure import page, table
    from craft.files import write_json, write_text

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

    measure = importlib.import_module(f"craft.bench.speed.{MODULES.get(name, name)}").bench
    more = {"plan": {"measured": out}, "trainer": {"keep": write}}.get(name, {})
    found = measure(setup, **more)
    print(table(found))
    print("\n".join(write(found)))
    made = [out / f"{bench}.json" for bench in NAMES]
    write_text(out / "README.md", page([json.loads(p.read_text()) for p in made if p.is_file()]))


def _remarks(name: str, setup: Any, found: Any) -> list[str]:
    """The bench's own, and whether its texts and its machine are fit to be quoted."""
    remarks = list(found.remarks)
    if setup.glue_dir is None and name in ("trainer", "padding", "cuda"):
        remarks.append("texts are the generated mini-GLUE, not GLUE (glue_dir=FOLDER)")
    warning = found.warning()
    if warning is not None:
        remarks.append(warning)
    return remarks


def whole(given: dict[str, str | None], name: str) -> int:
    value = str(given[name])
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


if __name__ == "__main__":
    start(main)
