"""Stands for Slurm's programs and for the Python of a job, so that a script can be run by plain bash."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from limbeck.launching import slurm
from limbeck.launching.settings import settings

# Runs what it is given to run and hands SIGUSR1 on, as srun does; to SIGTERM it answers by killing.
SRUN = """\
while [ "${1#--}" != "$1" ]; do shift; done
trap 'kill -s USR1 $work' USR1
trap 'kill -s KILL $work; exit 137' TERM
"$@" & work=$!
while :; do wait $work; status=$?; kill -s 0 $work 2>/dev/null || break; done
wait $work; exit $?
"""
# Tells its words, where its temporary files go and how it is signalled; then saves, or ends as it is told.
PYTHON = """\
trap 'echo TERM >> "$told/signals"; stopped=1' TERM
trap 'echo USR1 >> "$told/signals"; stopped=1' USR1
printf '%s\\0' "$@" > "$told/words"
printf '%s' "${TMPDIR:-}" > "$told/scratch"
echo "what the work says"
if [ -n "${ends:-}" ]; then exit $ends; fi
if [ -n "${at_once:-}" ]; then trap 'exit 75' TERM; fi
echo > "$told/begun"
while [ -z "${stopped:-}" ]; do read -t 0.05 < <(:) || :; done
for i in 1 2 3 4; do echo $i > "$told/saved"; done
exit 75
"""
SCONTROL = """\
if [ "$1" = show ]; then printf 'n1\\nn2\\n'; else echo "$@" >> "$told/scontrol"; fi
"""
SBATCH = """\
number=$(($(ls "$told" | wc -l) + 40))
printf '%s\\n' "$@" "export=${SBATCH_EXPORT:-}" > "$told/$number.words"
cat > "$told/$number"
echo "$number;cluster"
"""
SLEEP = "exec /bin/sleep 0.02\n"  # a script looks each second; here nobody has the time
PROGRAMS = {
    "srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH, "python": PYTHON, "sleep": SLEEP,
}  # fmt: skip
OF_A_JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_JOB_NODELIST": "n[1-2]",
}


class Fake:
    """A folder with the programs on PATH, and what they were told."""

    def __init__(self, place: Path) -> None:
        self.told, programs = place / "told", place / "programs"
        self.told.mkdir(parents=True)
        programs.mkdir()
        for name, body in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}")
            (programs / name).chmod(0o755)
        self.python = str(programs / "python")
        self.path = f"{programs}:{os.environ['PATH']}"
        self.logs = place / "the logs"
        self.jobs: list[subprocess.Popen] = []

    def asked(self, **changes: object):
        """Settings whose Python is the fake."""
        plain = {"name": "tiny", "logs": str(self.logs), "python": self.python, "ranks": 3}
        return settings(plain | changes)

    def script(self, kind: str, work: slurm.Work | None = None, **changes: object) -> str:
        found = work or slurm.Work(Path("recipe.yaml"), (), self.told)
        return slurm.scripts(found, self.asked(**changes), (kind,))[kind]

    def started(self, script: str, **changes: str) -> subprocess.Popen:
        """A script as Slurm would start it, but for the login."""
        given = os.environ | OF_A_JOB | {"PATH": self.path, "told": str(self.told)} | changes
        path = self.told / "script"
        path.write_text(script)
        self.jobs.append(subprocess.Popen(["bash", path], env=given, start_new_session=True))
        return self.jobs[-1]

    def close(self) -> None:
        """Ends whatever a script left running, as Slurm does."""
        for job in self.jobs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()

    def status(self, script: str, **changes: str) -> int:
        return self.started(script, **changes).wait(60)

    def said(self, name: str) -> str:
        path = self.told / name
        return path.read_text() if path.exists() else ""

    def log(self, job: str) -> str:
        return (self.logs / job / "log.txt").read_text()

    def until_begun(self) -> None:
        end = time.monotonic() + 60
        while not (self.told / "begun").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
