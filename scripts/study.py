"""The study of results/STUDY.md, from nothing: a clone of its frozen commit, that clone's
environment, the encoders, and on with the runs that results/study lacks.

python scripts/study.py GLUE_DIR [FOLDER=outputs/study] [workers=2] [last=STAGE] [dry=true]

Needs git, make and a network for packages the first time, and nothing but Python's own library.
What finishes is promoted to results/study at once; commit it. SIGTERM or Ctrl-C stops, the same
command goes on."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
COMMIT = re.compile(r"made from commit `([0-9a-f]{40})`")


def main() -> None:
    words = [word for word in sys.argv[1:] if "=" not in word]
    more = [word for word in sys.argv[1:] if "=" in word]
    if not 1 <= len(words) <= 2 or not Path(words[0]).is_dir():
        _refuse(f"give GLUE's folder (CoLA/train.tsv ...), and where to work: not {words}")
    found = COMMIT.search((ROOT / "results" / "STUDY.md").read_text(encoding="utf-8"))
    if found is None:
        _refuse("results/STUDY.md names no commit that the runs are made from")
    place = Path(words[1] if len(words) > 1 else ROOT / "outputs" / "study").resolve()
    clone = place / found[1][:12]
    if not (clone / ".git").is_dir():
        _run("git", "clone", "--quiet", "--no-checkout", str(ROOT), str(clone))
    _run("git", "-C", str(clone), "checkout", "--quiet", "--detach", found[1])
    _run("make", "--directory", str(clone), "--silent", "setup")
    python = str(clone / ".venv" / "bin" / "python")
    _run(python, str(clone / "scripts" / "encoders.py"), str(place / "encoders"))
    arguments = [f"glue_dir={Path(words[0]).resolve()}", f"encoders={place / 'encoders'}"]
    arguments += [f"results={ROOT / 'results' / 'study'}", f"outputs={place / 'work'}", *more]
    os.execv(python, [python, str(clone / "scripts" / "study_runs.py"), *arguments])


def _run(*command: str) -> None:
    if code := subprocess.run(command).returncode:
        _refuse(f"{' '.join(command[:4])} ... ended with code {code}")


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
