"""A cloud and a cluster in a folder: programs in the place of gcloud, ssh's far end, SLURM's commands and dense-jax.

The folder `world` is what they know: `plan` has a line for each attempt, with the exit status of each process and then
the state in which the attempt leaves the slice; `calls` gets a line for each call.
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

GCLOUD = r"""#!/usr/bin/env bash
# tpu-vm and queued-resources: `node` and `queue` hold their states, worker-N is the disk of worker N
shift 2 # compute tpus
kind=$1 action=$2
echo "$kind $action ${*:3}" >>"$WORLD/calls"
for argument; do
  case $argument in
    --worker=*) disk=$WORLD/worker-${argument#*=} ;;
    --command=*) command=${argument#*=} ;;
    --format=*) format=${argument#*=} ;;
    --accelerator-type=*) echo "${argument#*=}" >"$WORLD/type" ;;
  esac
done
not_found() { echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; }
case $kind-$action in
  tpu-vm-describe)
    [ ! -e "$WORLD/silent" ] || { echo "ERROR: try later" >&2; rm "$WORLD/silent"; exit 1; }
    [ -e "$WORLD/node" ] || not_found
    case $format in
      *acceleratorType*) cat "$WORLD/type" ;;
      *networkEndpoints*) echo "${HOSTS:-2}" ;;
      *) cat "$WORLD/node"; [ "$(<"$WORLD/node")" != CREATING ] || echo READY >"$WORLD/node" ;;
    esac ;;
  tpu-vm-create)
    if [ -s "$WORLD/full" ]; then
      sed -i 1d "$WORLD/full"
      echo "ERROR: There is no more capacity in the zone" >&2
      exit 1
    fi
    rm -rf "$WORLD"/worker-*
    echo CREATING >"$WORLD/node" ;;
  tpu-vm-delete) rm -rf "$WORLD"/node "$WORLD"/worker-* ;;
  queued-resources-describe)
    [ -e "$WORLD/queue" ] || not_found
    cat "$WORLD/queue"
    case $(<"$WORLD/queue") in
      WAITING_FOR_RESOURCES) echo ACTIVE >"$WORLD/queue"; echo READY >"$WORLD/node" ;;
      SUSPENDING) echo SUSPENDED >"$WORLD/queue" ;;
    esac ;;
  queued-resources-create) echo WAITING_FOR_RESOURCES >"$WORLD/queue" ;;
  queued-resources-delete) rm -rf "$WORLD"/node "$WORLD"/queue "$WORLD"/worker-* ;;
  tpu-vm-scp) mkdir -p "$disk" && cp "$3" "$disk/${4#*:}" ;;
  tpu-vm-ssh)
    mkdir -p "$disk"
    if [[ $command == *"worker.sh run"* ]] && [ -s "$WORLD/unreachable-${disk##*-}" ]; then # a line for each time
      sed -i 1d "$WORLD/unreachable-${disk##*-}"
      exit 255
    fi
    cd "$disk" && HOME=$disk exec bash -c "$command" ;;
esac
"""

DENSE_JAX = r"""#!/usr/bin/env bash
# exits as the plan has it; `wait` in the plan waits for SIGTERM, and exits with 75 when it has saved
process=${SLURM_PROCID:-${HOME##*-}}
attempt=$(($(cat "$WORLD/attempts-$process" 2>/dev/null || echo 0) + 1))
echo "$attempt" >"$WORLD/attempts-$process"
trap 'sleep 0.3; echo "saved by $process"; exit 75' TERM
echo "attempt $attempt of process $process: $* LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}"
read -r -a plan < <(sed -n "${attempt}p" "$WORLD/plan")
status=${plan[process]}
touch "$WORLD/started-$process"
while [ "$status" = wait ]; do sleep 0.1; done
state=${plan[2]:-}
if [ "$state" = GONE ]; then rm -f "$WORLD/node"; elif [ -n "$state" ]; then echo "$state" >"$WORLD/node"; fi
exit "$status"
"""

UV = r"""#!/usr/bin/env bash
[ ! -e "$WORLD/broken" ] || { echo "error: no such package" >&2; exit 1; }
if [ "$1" = venv ]; then mkdir -p .venv/bin && cp "$WORLD/bin/dense-jax" .venv/bin; fi
echo "uv $*" >>"$WORLD/calls"
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

KUBECTL = r"""#!/usr/bin/env bash
# `jobset` holds the terminal state of the JobSet, which is empty while it is at work
echo "kubectl $*" >>"$WORLD/calls"
case $1 in
  get) [ ! -e "$WORLD/jobset" ] || echo "JobSet $(<"$WORLD/jobset")" ;;
  delete) rm "$WORLD/jobset" ;;
  apply) cat >"$WORLD/applied"; : >"$WORLD/jobset" ;;
esac
"""

NOTING = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$WORLD/calls"\n'
PROGRAMS = {
    "gcloud": GCLOUD,
    "dense-jax": DENSE_JAX,
    "uv": UV,
    "srun": SRUN,
    "scancel": NOTING + 'kill -TERM -- $(<"$WORLD/groups")\n',
    "scontrol": NOTING,
    "squeue": "#!/usr/bin/env bash\necho ${STATE:-RUNNING}\n",
    "sudo": "#!/usr/bin/env bash\n",
    "mountpoint": '#!/usr/bin/env bash\n[ -e "$HOME/mounted" ]\n',
    "gcsfuse": NOTING + 'echo "${@: -2}" >"$HOME/mounted"\n',
    "kubectl": KUBECTL,
}


@dataclass
class World:
    """The folder, and a checkout with nothing but the launchers in it."""

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
        (world.checkout / "constraints.txt").write_text("first\n")
        (world.checkout / ".gitignore").write_text("runs/\n")
        (world.folder / "calls").touch()
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "first")):
            subprocess.run(["git", *words], cwd=world.checkout, check=True)
        return world

    def plan(self, *attempts: str) -> None:
        (self.folder / "plan").write_text("".join(f"{line}\n" for line in attempts))

    def set(self, name: str, text: str = "") -> None:
        """Writes a file of the folder, such as the state of `node`."""
        (self.folder / name).write_text(text)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder)}
        # a shell's background jobs ignore ctrl-c, and so does what they start, unless it is set back
        return subprocess.Popen(
            ["env", "--default-signal=INT", self.checkout / "launch" / command[0], *command[1:]],
            cwd=self.checkout, env=environment | {"WORLD": str(self.folder)} | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        running = self.start(*command, **variables)
        out, err = finish(running)
        return subprocess.CompletedProcess(command, running.returncode, out, err)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def called(self, beginning: str) -> int:
        """How many calls begin so."""
        return sum(call.startswith(beginning) for call in self.calls)

    def attempts(self, process: int) -> int:
        path = self.folder / f"attempts-{process}"
        return int(path.read_text()) if path.exists() else 0

    def await_start(self) -> None:
        """Returns when both processes run."""
        await_true(lambda: all((self.folder / f"started-{process}").exists() for process in (0, 1)))


def finish(running: subprocess.Popen[str]) -> tuple[str, str]:
    """What it prints until it ends; it and all that it started are killed if that takes a minute."""
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
