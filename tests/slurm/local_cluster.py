"""A Slurm cluster of two nodes on this machine, under one folder, as root: munge, slurmctld and two
slurmd, fake GPUs, arrays of at most 4, preemption by a partition of higher priority."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONF = """ClusterName=craft
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
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
KillWait=15
MinJobAge=60
NodeName=a NodeHostname={host} NodeAddr=127.0.0.1 Port=16931 CPUs=2 RealMemory=6000 Gres=gpu:1
NodeName=b NodeHostname={host} NodeAddr=127.0.0.1 Port=16932 CPUs=2 RealMemory=6000 Gres=gpu:1
PartitionName=low Nodes=a,b Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=a,b MaxTime=INFINITE State=UP PriorityTier=10
"""
NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")


def lacking() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid():
        return "only root can start slurmd"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


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

    def jobs(self) -> dict[str, str]:
        """Job or task of an array -> state, of all that is in the queue."""
        rows = self.call("squeue", "--array", "--noheader", "--format=%i %T").splitlines()
        return dict(row.split() for row in rows)

    def start_node(self, name: str) -> None:
        self.call("slurmd", "-N", name)

    def pull_the_plug(self, name: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it."""
        daemon = int((self.folder / f"slurmd.{name}.pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                inside = {f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.folder / 'slurm.conf'}"}
                found = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                if inside <= set(found):
                    os.kill(int(process.name), signal.SIGKILL)


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
    at = f"--key-file={folder}/munge.key"
    cluster.call("mungekey", "--create", f"--keyfile={folder}/munge.key")
    try:
        cluster.call("munged", "--force", at, f"--socket={folder}/munge.socket",
                     f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
                     f"--seed-file={folder}/munged.seed")  # fmt: skip
        cluster.call("slurmctld")
        for name in "ab":
            cluster.start_node(name)
        for _ in range(60):
            if cluster.call("sinfo", "--noheader", "--format=%T", "-p", "low").split() == ["idle"]:
                break
            time.sleep(1)
        yield cluster
    finally:
        with contextlib.suppress(OSError, AssertionError, subprocess.TimeoutExpired):
            cluster.call("scancel", "--user=root")
        for name in "ab":
            with contextlib.suppress(OSError, ValueError):
                cluster.pull_the_plug(name)
        for path in folder.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
