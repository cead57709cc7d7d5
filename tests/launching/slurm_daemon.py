"""A Slurm of two nodes on this machine alone: munged, slurmctld and two slurmd on loopback, in a folder of its own."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
# Every address of 127.0.0.0/8 is this machine, so that the names of both nodes resolve without a word in /etc/hosts.
NODES = ("127.0.0.1", "127.0.0.2")
CONF = """\
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmctldPidFile={home}/slurmctld.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdPidFile={home}/slurmd-%n.pid
SlurmdLogFile={home}/slurmd-%n.log
SlurmdSpoolDir={home}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
JobRequeue=1
ReturnToService=2
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP GraceTime=15
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str:
    """Why there can be no Slurm here, or nothing."""
    here = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=here) is None]
    return f"{', '.join(lacking)} not installed (slurm-wlm and munge)" if lacking else ""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Slurm:
    """The daemons, and what a test asks of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.said = (home / "said").open("w")
        self.running: list[subprocess.Popen] = []
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(home / "slurm.conf")}
        self._configure()
        self._munged()
        self._start("slurmctld", "-D", "-i")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        self.until(lambda: self("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "no node")

    def _configure(self) -> None:
        (self.home / "state").mkdir()
        lines = []
        for node in NODES:
            (self.home / f"spool-{node}").mkdir()
            lines.append(
                f"NodeName={node} NodeAddr={node} NodeHostname={socket.gethostname()} "
                f"Port={free_port()} CPUs=4 State=UNKNOWN"
            )
        text = CONF.format(
            host=socket.gethostname().partition(".")[0],
            controller=free_port(),
            user=getpass.getuser(),
            home=self.home,
            nodes="\n".join(lines),
        )
        (self.home / "slurm.conf").write_text(text)
        # From 23.11 on, slurmd wants a cgroup for itself unless it is told not to; earlier ones know no such word.
        version = re.search(r"(\d+)\.(\d+)", self("sbatch", "--version"))
        if version and (int(version[1]), int(version[2])) >= (23, 11):
            (self.home / "cgroup.conf").write_text("CgroupPlugin=disabled\n")

    def _munged(self) -> None:
        key = self.home / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.home.chmod(0o755)  # munged wants everybody to reach its socket
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        given = [f"--{option}={self.home}/munge.{name}" for option, name in names.items()]
        self._start(
            "munged", "--foreground", "--force", *given, f"--log-file={self.home}/munge.log"
        )
        self.until((self.home / "munge.socket").exists, "munged opens no socket")

    def _start(self, *words: str) -> None:
        program = shutil.which(words[0], path=self.environment["PATH"])
        self.running.append(
            subprocess.Popen(
                [program, *words[1:]], env=self.environment, stdout=self.said, stderr=self.said
            )
        )

    def __call__(self, *words: str, check: bool = True, text: str | None = None) -> str:
        """What a command of Slurm says."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, input=text, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def until(self, so, else_say: str, seconds: float = 120) -> None:
        """Waits for something to be so; what the daemons said is told where it does not come."""
        end = time.monotonic() + seconds
        while not so():
            ended = [one.args[0] for one in self.running if one.poll() is not None]
            if time.monotonic() > end or ended:
                logs = [path.read_text()[-1500:] for path in sorted(self.home.glob("*.log"))]
                raise AssertionError("\n".join([else_say, str(ended), *logs]))
            time.sleep(0.1)

    def facts(self, job: str) -> dict[str, str]:
        """What the controller knows of a job or of one task of an array."""
        return dict(re.findall(r"(\w+)=(\S*)", self("scontrol", "-o", "show", "job", job)))

    def close(self) -> None:
        """Ends every job, then every daemon."""
        self("scancel", "--user", getpass.getuser(), check=False)
        end = time.monotonic() + 20
        while self("squeue", "-h", check=False).strip() and time.monotonic() < end:
            time.sleep(0.2)
        for one in reversed(self.running):
            one.terminate()
            one.wait(30)
        self.said.close()
