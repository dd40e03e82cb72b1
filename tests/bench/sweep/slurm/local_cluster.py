"""A Slurm cluster of two nodes on this machine, under one folder, as root: munge, slurmctld and two
slurmd, fake GPUs, arrays of at most 4, preemption by a partition of higher priority."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CONF = """ClusterName=craft
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16917
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
MailProg={true}
MaxArraySize=4
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=15
KillWait=5
MinJobAge=60
NodeName=a NodeHostname={host} NodeAddr=127.0.0.1 Port=16931 CPUs=2 RealMemory=6000 Gres=gpu:1
NodeName=b NodeHostname={host} NodeAddr=127.0.0.1 Port=16932 CPUs=2 RealMemory=6000 Gres=gpu:1
PartitionName=low Nodes=a,b Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15
PartitionName=high Nodes=a,b MaxTime=INFINITE State=UP PriorityTier=10
"""
NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")


class NotAllowed(Exception):
    """This machine, a restricted container perhaps, does not let a daemon start."""


def lacking() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid():
        return "only root can start slurmd"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, as squeue shows it; `node` is empty where it waits."""

    id: str
    state: str
    name: str
    node: str


class Cluster:
    """The running cluster; `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[Queued]:
        """All that is in the queue, apart from what is leaving it."""
        rows = self.call("squeue", "--array", "--noheader", "--format=%i|%T|%j|%N").splitlines()
        found = [Queued(*row.split("|")) for row in rows]
        return [job for job in found if job.state != "COMPLETING"]

    def restarts(self, job: str) -> int:
        """How often a job has been requeued."""
        (said,) = re.findall(r"Restarts=(\d+)", self.call("scontrol", "show", "job", "-o", job))
        return int(said)

    def start_node(self, name: str) -> None:
        self.call("slurmd", "-N", name)

    def pull_the_plug(self, name: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it, none of which tells
        the controller; so all are stopped before the first is killed."""
        daemon = int((self.folder / f"slurmd.{name}.pid").read_text())
        doomed = [psutil.Process(daemon)]
        here = {"SLURMD_NODENAME": name, "SLURM_CONF": str(self.folder / "slurm.conf")}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if here.items() <= process.environ().items():
                    # slurmstepd overwrites its own environment: it is known by its children's
                    steps = [p for p in process.parents() if p.name().startswith("slurmstepd")]
                    doomed += [process, *steps]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in set(doomed):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start the daemons and stop them again; their folder must be reachable by all users."""
    folder.chmod(0o755)
    for name in ("ctld", "spool.a", "spool.b"):
        (folder / name).mkdir()
    host, true = os.uname().nodename.split(".")[0], shutil.which("true")
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, true=true))
    gpus = [f"NodeName={name} Name=gpu File={folder}/gpu.{name}" for name in "ab"]
    (folder / "gres.conf").write_text("\n".join(gpus) + "\n")
    for name in "ab":
        (folder / f"gpu.{name}").touch()
    cluster = Cluster(folder)
    try:
        with naming_what_is_not_allowed(folder):
            start_daemons(cluster)
        yield cluster
    finally:
        with contextlib.suppress(OSError, AssertionError, subprocess.TimeoutExpired):
            cluster.call("scancel", "--user=root")
        for name in "ab":
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                cluster.pull_the_plug(name)
        for path in folder.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def start_daemons(cluster: Cluster) -> None:
    """Start munge, the controller and both nodes, and wait until the nodes are idle."""
    at = cluster.folder
    cluster.call("mungekey", "--create", f"--keyfile={at}/munge.key")
    cluster.call("munged", "--force", f"--key-file={at}/munge.key", f"--socket={at}/munge.socket",
                 f"--pid-file={at}/munged.pid", f"--log-file={at}/munged.log",
                 f"--seed-file={at}/munged.seed")  # fmt: skip
    cluster.call("slurmctld")
    for name in "ab":
        cluster.start_node(name)
    states = []
    for _ in range(60):
        states = cluster.call("sinfo", "--noheader", "--format=%T", "-p", "low").split()
        if states == ["idle"]:
            return
        time.sleep(1)
    raise AssertionError(f"the nodes are {states} a minute after their start")


@contextlib.contextmanager
def naming_what_is_not_allowed(folder: Path) -> Iterator[None]:
    """NotAllowed where a daemon did not start and its words say that it may not; else the error."""
    try:
        yield
    except (AssertionError, subprocess.TimeoutExpired) as error:
        said = [str(error), *(path.read_text() for path in sorted(folder.glob("*.log")))]
        for line in "\n".join(said).splitlines():
            if re.search("operation not permitted|permission denied", line, re.IGNORECASE):
                raise NotAllowed(line.strip()) from error
        raise
