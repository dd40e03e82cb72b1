"""What a run ran on and with: the one place that looks at the machine, the environment variables
and git."""

import getpass
import importlib.metadata
import json
import netrc
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from craft.bench.run.lease import Holder
from craft.bench.settings.places import ROOT

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "evaluate",
    "tensorly",
    "hydra-core",
    "numpy",
    "scikit-learn",
)
SOURCES = (
    "craft",
    "configs",
    "scripts",
    "requirements.lock",
    "results/models/roberta-mini",
    "results/published",
)  # what a record's cleanness is judged by

SNAPSHOT = "snapshot.json"  # in the root of a copy of the sources: which commit it is


def versions() -> dict[str, str | None]:
    """Installed versions, without local parts; null for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """The processor and, on CUDA, the card; never a host name."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    facts: dict[str, Any] = {"cpu": cpu, "cores": os.cpu_count()}
    facts |= {"gpu": None, "cuda": None, "driver": None}
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        module = Path("/proc/driver/nvidia/version")
        found = re.search(r"\d{3,}\.\d[\d.]*", module.read_text() if module.exists() else "")
        facts["driver"] = found[0] if found else None
    return facts


def anonymous(content: Any) -> Any:
    """JSON content without secrets, and with $USER and $HOSTNAME where a path holds the user's or
    the machine's name."""
    if isinstance(content, dict):
        return {key: anonymous(value) for key, value in content.items()}
    if isinstance(content, list):
        return [anonymous(value) for value in content]
    if not isinstance(content, str):
        return content
    content = without_secrets(content)
    for variable, name in _names().items():
        part = rf"(?<=/){re.escape(name)}(?![^/\s\"'])"  # a whole part of a path
        content = re.sub(part, lambda _, v=variable: v, content)
    return content


def of_this_machine(content: Any) -> Any:
    """The inverse of `anonymous`, for content that was made here."""
    if isinstance(content, dict):
        return {key: of_this_machine(value) for key, value in content.items()}
    if isinstance(content, list):
        return [of_this_machine(value) for value in content]
    if isinstance(content, str):
        for variable, name in _names().items():
            content = content.replace(f"/{variable}", f"/{name}")
    return content


def _names() -> dict[str, str]:
    """The user's and the machine's names, where they have any."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = ""
    names = {"$USER": user, "$HOSTNAME": platform.node()}
    return {variable: name for variable, name in names.items() if name}


SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)(_|$)")  # in the name of an environment variable
TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|wandb_v\d_[A-Za-z0-9_]{16,})|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def without_secrets(text: str) -> str:
    """A text with $NAME for the value of every environment variable that holds a secret, and
    without hub tokens, wandb keys and passwords in URLs, wherever they came from."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 8:
            text = text.replace(value, f"${name}")
    try:
        keys = [login[2] for login in netrc.netrc().hosts.values() if login[2]]  # wandb's place
    except (OSError, netrc.NetrcParseError):
        keys = []
    for key in keys:
        text = text.replace(key, "$SECRET")
    return TOKENS.sub("$SECRET", text)


def commit() -> dict[str, Any]:
    """The commit of the project's checkout and whether its sources differ from it; nulls outside a
    checkout."""
    if (ROOT / SNAPSHOT).is_file():  # a copy that a sweep's jobs run from, inside some checkout
        taken = json.loads((ROOT / SNAPSHOT).read_text())
        return {"commit": taken["commit"], "dirty": taken["dirty"]}

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if not git("ls-files", "--", "craft"):  # an installed package in somebody's checkout
            return {"commit": None, "dirty": None}
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", *SOURCES)
    except FileNotFoundError:  # no git on this machine
        head = changed = None
    return {"commit": head, "dirty": None if changed is None else bool(changed)}


def holder() -> Holder:
    """This process as the holder of a run's lease: a batch job, or a process of a machine."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return Holder(f"process {os.getpid()} on {platform.node()}")
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    shown = job if array is None else f"{array}_{task}"
    restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return Holder(f"Slurm job {shown} on {platform.node()}", job, restart)


def wandb_mode() -> str:
    """Online where a key or a mode is set, offline otherwise."""
    return os.environ.get("WANDB_MODE") or (
        "online" if os.environ.get("WANDB_API_KEY") else "offline"
    )
