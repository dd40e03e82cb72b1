"""Predict GLUE's test sets from saved runs and write the zip that gluebenchmark.com takes.

python scripts/submit_glue.py '*-craft-roberta_large-s0-*'          -> outputs/submission.zip
python scripts/submit_glue.py 'cola-lora-*' 'rte-*-s3-*' runs=outputs/runs out=FILE.zip
    [epoch=last] [data=hub|local] [data.dir=FOLDER] [model.path=FOLDER] [train.device=cpu]
    [draft=true]
python scripts/submit_glue.py check=FILE.zip                        look at a zip that is there

Names or patterns choose one run a task; MNLI's run predicts MNLI-m, MNLI-mm and AX. Test sets come
from where a run's data came from; a key with a dot overrides that setting of every run. The site
wants all eleven files: with one missing or wrong nothing is written, unless draft=true asks for
what is there.
"""

import sys
from pathlib import Path
from typing import Any

from entry import options, start
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def main() -> None:
    from craft.bench.run import record, submission
    from craft.errors import InputError
    from craft.files import atomically

    patterns = [word for word in sys.argv[1:] if "=" not in word]
    keys = [word for word in sys.argv[1:] if "." in word.partition("=")[0] and "=" in word]
    given = options(
        [word for word in sys.argv[1:] if word not in (*patterns, *keys)],
        runs=str(ROOT / "outputs" / "runs"), out=str(ROOT / "outputs" / "submission.zip"),
        epoch="best", draft="false", data=None, check=None,
    )  # fmt: skip
    for name, allowed in {"epoch": ("best", "last"), "draft": ("false", "true")}.items():
        if given[name] not in allowed:
            raise InputError(f"{name} {given[name]!r} is not one of {', '.join(allowed)}")
    if given["check"] is not None:
        _check(Path(given["check"]))
        return
    if not patterns:
        raise InputError("no run is named: give names or patterns, such as '*-craft-*-s0-*'")
    runs = []
    for name, (path, made) in record.named(Path(str(given["runs"])), patterns).items():
        if made["status"] != "ok":
            raise InputError(f"{name} is {made['status']}, not ok")
        config = _config(made, path.parent / str(given["epoch"]), given["data"], keys)
        runs.append(submission.Run(name, config, made["provenance"]["model"]["digest"]))
    chosen = submission.by_task(runs)
    made = submission.make(chosen)
    for finding in made.findings:
        print(f"warning: {finding}", file=sys.stderr)
    if made.findings and given["draft"] == "false":
        raise InputError(
            f"nothing is written: {len(made.findings)} findings; name what is missing, or give "
            "draft=true to write what is there"
        )
    out = Path(str(given["out"]))
    with atomically(out) as temporary:
        temporary.write_bytes(made.archive)
    for name, rows in made.rows.items():
        print(f"{name}.tsv: {rows} rows")
    print(f"{out}: {len(made.rows)} files of {len(chosen)} runs")


def _config(made: dict[str, Any], adapter: Path, data: str | None, keys: list[str]):
    """A run's own config for predicting with a saved adapter; a setting that is newer than the
    record has its default."""
    from craft.bench.run.provenance import of_this_machine
    from craft.bench.settings.resolve import check
    from craft.errors import InputError

    defaults = OmegaConf.load(CONFIGS / "train.yaml")
    for of_hydra in ("defaults", "hydra"):
        del defaults[of_hydra]
    defaults.train = OmegaConf.load(CONFIGS / "train" / "default.yaml")
    cfg: Any = OmegaConf.merge(defaults, of_this_machine(made["provenance"]["config"]))
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
    """Say whether the site would take a zip; ends the script with 1 where it would not."""
    from craft.bench.glue.leaderboard import FILES, findings
    from craft.errors import InputError

    if not path.is_file():
        raise InputError(f"check: there is no file {path}")
    if found := findings(path.read_bytes()):
        print(f"{path} is no complete submission:", *found, sep="\n  ", file=sys.stderr)
        sys.exit(1)
    print(f"{path}: {len(FILES)} files, as the table in craft/bench/glue/leaderboard.py has them")


if __name__ == "__main__":
    start(main)
