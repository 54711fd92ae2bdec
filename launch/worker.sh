#!/usr/bin/env bash
# What tpu_vm.sh asks of one worker of a slice, by ssh. The program does not hang on the connection: it runs on when that
# breaks, and to ask again is to follow it.
#
#   worker.sh install                                 .venv, beside the checkout that this file is in
#   worker.sh mount BUCKET                            at /mnt/BUCKET
#   worker.sh run ATTEMPT [NAME=VALUE ...] VERB ...   `dense-jax VERB ...`: its output, then `== exit status N`
#   worker.sh stop                                    SIGTERM to it, on which it saves
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
state=$HOME/.dense_jax # of the program that runs, or ran last: a TPU serves one at a time
mkdir -p "$state"

fail() { # STATUS MESSAGE
  printf 'worker.sh: %s\n' "$2" >&2
  exit "$1"
}

install() {
  [ ! -e "$here/.installed" ] || return 0
  PATH=$HOME/.local/bin:$PATH
  # the images have Python 3.10 or 3.12; uv finds or fetches the one that constraints.txt was tested with
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  cd "$here"
  uv venv --quiet --python 3.11 .venv
  uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable '.[tpu]'
  touch .installed
}

mount_bucket() { # BUCKET
  local target=/mnt/$1
  if mountpoint --quiet "$target"; then return; fi
  command -v gcsfuse >/dev/null ||
    fail 6 "there is no gcsfuse on this image, so $1 cannot be mounted; install it by --setup, as its manual says"
  sudo mkdir -p "$target"
  sudo chown "$(id -u):$(id -g)" "$target"
  # no cached answers: each worker must see at once what another has written
  gcsfuse --implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    "$1" "$target"
}

run() { # ATTEMPT [NAME=VALUE ...] VERB ...
  local attempt=$1
  shift
  exec 9>>"$state/lock" # held by `supervise`, which inherits it, until the program has ended
  if flock --nonblock 9; then
    [ -e "$state/$attempt.log" ] || start "$attempt" "$@"
  elif [ "$*" = "$(cat "$state/command")" ]; then
    attempt=$(cat "$state/attempt")
    echo "== already at work, as $attempt"
  else
    fail 6 "this worker is at work on another command: $(cat "$state/command"); end it by \`worker.sh stop\`"
  fi
  tail -n +1 --sleep-interval=0.2 --pid="$(cat "$state/$attempt.pid")" -f "$state/$attempt.log" 9>&-
  printf '\n== exit status %s\n' "$(cat "$state/$attempt.status" 2>/dev/null || echo 137)"
}

start() { # ATTEMPT [NAME=VALUE ...] VERB ...
  local attempt=$1
  shift
  echo "$*" >"$state/command"
  echo "$attempt" >"$state/attempt"
  : >"$state/$attempt.log" # now, since what follows it may be faster than what writes it
  setsid bash "$0" supervise "$attempt" "$@" >>"$state/$attempt.log" 2>&1 </dev/null &
  echo $! >"$state/$attempt.pid"
}

supervise() { # ATTEMPT [NAME=VALUE ...] VERB ...; writes down how it ended
  local attempt=$1 program status=0
  shift
  while [[ $1 == *=* ]]; do
    export "${1?}"
    shift
  done
  cd "$here"
  .venv/bin/dense-jax "$@" 9>&- &
  program=$!
  echo "$program" >"$state/program"
  trap : TERM # a machine that shuts down signals every process, and this one must outlive the program
  until wait "$program"; do
    status=$?
    kill -0 "$program" 2>/dev/null || break
  done
  echo "$status" >"$state/$attempt.status"
}

stop() {
  if flock --nonblock "$state/lock" true; then return; fi # nothing is at work
  kill -TERM "$(cat "$state/program")"
}

case $1 in
  install) install ;;
  mount) mount_bucket "$2" ;;
  run | supervise) "$@" ;;
  stop) stop ;;
  *) fail 2 "no command $1; there are install, mount, run and stop" ;;
esac
