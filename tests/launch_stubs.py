"""Stand-ins for SLURM's commands, gcloud and dense-jax, as programs of a temporary folder.

`plan` has a line for each attempt with the exit status of each process; `calls` gets a line for each call.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

DENSE_JAX = r"""#!/usr/bin/env bash
# exits as the plan says; `wait` in the plan waits for SIGTERM, and exits with 75 when it has saved
process=${SLURM_PROCID:-0}
attempt=$(($(cat "$WORLD/attempts-$process" 2>/dev/null || echo 0) + 1))
echo "$attempt" >"$WORLD/attempts-$process"
trap 'sleep 0.3; echo "saved by $process"; exit 75' TERM
echo "attempt $attempt of process $process: $* LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}"
read -r -a plan < <(sed -n "${attempt}p" "$WORLD/plan")
status=${plan[process]}
touch "$WORLD/started-$process"
while [ "$status" = wait ]; do sleep 0.1; done
exit "$status"
"""

SRUN = r"""#!/usr/bin/env bash
# two processes, each in a group of its own; SIGTERM kills them, as srun does
echo "srun $*" >>"$WORLD/calls"
while [ "$1" != bash ]; do shift; done
trap 'echo "srun was signalled" >>"$WORLD/calls"; kill -KILL -- "${groups[@]/#/-}"' TERM
for process in 0 1; do
  SLURM_PROCID=$process setsid "$@" &
  groups+=($!)
done
echo "${groups[*]/#/-}" >"$WORLD/groups"
highest=0
for process in "${groups[@]}"; do
  while kill -0 "$process" 2>/dev/null; do wait "$process"; status=$?; done
  ((status <= highest)) || highest=$status
done
exit "$highest"
"""

NOTING = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$WORLD/calls"\n'
PROGRAMS = {
    "dense-jax": DENSE_JAX,
    "gcloud": NOTING + 'exit "${STATUS:-0}"\n',
    "srun": SRUN,
    "scancel": NOTING + 'kill -TERM -- $(<"$WORLD/groups")\n',
    "scontrol": NOTING,
    "squeue": "#!/usr/bin/env bash\necho ${STATE:-RUNNING}\n",
}


@dataclass
class World:
    """The folder of stand-ins, and a checkout that holds the launchers alone."""

    folder: Path
    checkout: Path

    @staticmethod
    def make(folder: Path) -> "World":
        world = World(folder / "world", folder / "checkout")
        (world.folder / "bin").mkdir(parents=True)
        for name, text in PROGRAMS.items():
            path = world.folder / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        shutil.copytree(ROOT / "launch", world.checkout / "launch")
        (world.folder / "calls").touch()
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "first")):
            subprocess.run(["git", *words], cwd=world.checkout, check=True)
        return world

    def plan(self, *attempts: str) -> None:
        (self.folder / "plan").write_text("".join(f"{line}\n" for line in attempts))

    def start(self, *command: str | Path, **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder)}
        return subprocess.Popen(
            command, cwd=self.checkout, env=environment | {"WORLD": str(self.folder)} | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        running = self.start(*command, **variables)
        out, err = finish(running)
        return subprocess.CompletedProcess(command, running.returncode, out, err)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def called(self, beginning: str) -> int:
        """Count the calls with this beginning."""
        return sum(call.startswith(beginning) for call in self.calls)

    def await_start(self) -> None:
        """Return when both processes run."""
        await_true(lambda: all((self.folder / f"started-{process}").exists() for process in (0, 1)))


def finish(running: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the output and the errors of `running`; kill it with all that it started after a minute."""
    try:
        return running.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise


def await_true(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
