"""Predict GLUE's test sets from saved runs and write the zip that gluebenchmark.com takes.

    craft submit '*-craft-roberta_large-s0-*'          -> outputs/submission.zip
    craft submit 'cola-lora-*' 'rte-*-s3-*' runs=outputs/runs out=FILE.zip data.dir=FOLDER
    craft submit check=FILE.zip                        look at a zip that is there

Names or patterns choose one run a task; MNLI's run predicts MNLI-m, MNLI-mm and AX. Test sets come
from where a run's data came from; a key with a dot (data.dir, model.path, train.device) overrides
that setting of every run. The site wants all eleven files: with one missing or wrong nothing is
written, unless draft=true asks for what is there.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from craft.bench.cli.parser import Parser
from craft.bench.glue.leaderboard import FILES, findings
from craft.bench.run import record
from craft.bench.run.finished import submission
from craft.bench.run.provenance import of_this_machine
from craft.bench.run.record import Record
from craft.bench.settings.places import CONFIGS
from craft.bench.settings.resolve import check
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError
from craft.files import atomically


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="RUN", help="names or patterns; KEY.KEY=VALUE for all"
    )
    parser.setting("runs", "outputs/runs", help="where runs lie", metavar="FOLDER")
    parser.setting("out", "outputs/submission.zip", help="what is written", metavar="FILE")
    parser.setting("epoch", "best", help="whose adapter predicts", choices=("best", "last"))
    parser.setting("data", help="another source of the test sets: hub, local", metavar="NAME")
    parser.setting("draft", "false", help="write what is there", choices=("false", "true"))
    parser.setting("check", help="look at this zip and write nothing", metavar="FILE")


def main(given: Namespace) -> None:
    if given.check is not None:
        _check(Path(given.check))
        return
    keys = [word for word in given.words if "=" in word]
    if odd := [key for key in keys if "." not in key.partition("=")[0]]:
        raise InputError(f"{odd[0]!r} is neither a run nor one of submit's settings; see --help")
    patterns = [word for word in given.words if word not in keys]
    if not patterns:
        raise InputError("no run is named: give names or patterns, such as '*-craft-*-s0-*'")
    runs = []
    for name, (path, made) in record.named(Path(given.runs), patterns).items():
        if made.status != "ok":
            raise InputError(f"{name} is {made.status}, not ok")
        config = _config(made, path.parent / given.epoch, given.data, keys)
        runs.append(submission.Run(name, config, made.provenance["model"]["digest"]))
    chosen = submission.by_task(runs)
    made = submission.make(chosen)
    for finding in made.findings:
        print(f"warning: {finding}", file=sys.stderr)
    if made.findings and given.draft == "false":
        raise InputError(
            f"nothing is written: {len(made.findings)} findings; name what is missing, or give "
            "draft=true to write what is there"
        )
    out = Path(given.out)
    with atomically(out) as temporary:
        temporary.write_bytes(made.archive)
    for name, rows in made.rows.items():
        print(f"{name}.tsv: {rows} rows")
    print(f"{out}: {len(made.rows)} files of {len(chosen)} runs")


def _config(made: Record, adapter: Path, data: str | None, keys: list[str]) -> RunConfig:
    """A run's own config for predicting with a saved adapter; a setting that is newer than the
    record has its default."""
    defaults = OmegaConf.load(CONFIGS / "train.yaml")
    for of_hydra in ("defaults", "hydra"):
        del defaults[of_hydra]
    defaults.train = OmegaConf.load(CONFIGS / "train" / "default.yaml")
    cfg: Any = OmegaConf.merge(defaults, of_this_machine(made.provenance["config"]))
    cfg.train.device = "auto"  # that of this machine
    if data is not None:
        path = CONFIGS / "data" / f"{data}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
            raise InputError(f"data {data!r} is not one of {known}")
        cfg.data = OmegaConf.load(path)
    OmegaConf.set_struct(cfg, True)  # an unknown key is refused
    for key, value in OmegaConf.from_dotlist(keys).items():
        OmegaConf.update(cfg, str(key), value)
    OmegaConf.set_struct(cfg, False)
    cfg.mode, cfg.adapter = "predict", str(adapter)
    return check(cfg)


def _check(path: Path) -> None:
    """Say whether the site would take a zip; ends the command with 1 where it would not."""
    if not path.is_file():
        raise InputError(f"check: there is no file {path}")
    if found := findings(path.read_bytes()):
        print(f"{path} is no complete submission:", *found, sep="\n  ", file=sys.stderr)
        sys.exit(1)
    print(f"{path}: {len(FILES)} files, as the table in craft/bench/glue/leaderboard.py has them")
