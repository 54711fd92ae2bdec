#!/usr/bin/env bash
# One dense-jax command on all workers of a Cloud TPU slice, again after every preemption, until it is done.
#
#   launch/tpu_vm.sh create NAME [FLAGS]               makes the slice or takes the one there is, and installs dense_jax
#   launch/tpu_vm.sh run NAME [FLAGS] -- VERB ...      the same, then `dense-jax VERB ...`
#   launch/tpu_vm.sh delete NAME --zone=ZONE [--project=PROJECT]
#
#   launch/tpu_vm.sh run ict --type=v5litepod-16 --zone=us-west4-a --spot --queued --bucket=my-bucket -- \
#     train --config=configs/ict.py --workdir=/mnt/my-bucket/ict
#
#   --type=TYPE        such as v5litepod-16, v5p-32, v6e-16: `gcloud compute tpus accelerator-types list` has all
#   --zone=ZONE        where such slices are
#   --project=PROJECT  gcloud's own, unless named
#   --version=VERSION  of the machines' image; by the type, unless named
#   --spot             for less money, until somebody else needs it
#   --queued           wait in the queue until there is one, instead of failing when there is none
#   --bucket=BUCKET    mount it at /mnt/BUCKET on all workers: corpora and workdirs there outlive the slice
#   --setup=COMMAND    to run on all workers before the program, such as one that mounts another disk which they share
#   --commit=COMMIT    install this one; unless named, the files of this checkout as they are
#   --env=NAME=VALUE   for the program, such as LIBTPU_INIT_ARGS; any number of them
#   --worker=N         this worker alone; `prepare`, `show` and `export` run on its CPU
#   --delete           delete the slice when the program is known to have ended, well or not
#   --poll=SECONDS     from one look at a slice to the next: 30, unless named
#   --dry-run          only print the commands, as for a slice that is not there yet and has two workers
#
# Exit status 75, a preemption and a lost worker: the same command again. Any other status is this script's own. What the
# workers print is kept in runs/launch/NAME. Ctrl-C makes them save and stop; the same command continues. Should this
# script be killed instead, they go on, and the same command follows them.
set -euo pipefail

PATIENCE=3 # attempts in a row that may end by a killed or lost worker though the slice is sound
SILENCE=10 # attempts in a row that may bring no word of the workers: it may be the way to them that is broken
LONG=900   # seconds of an attempt that ends such a row: more than processes wait for each other

main() {
  cd "$(dirname "$0")/.."
  # shellcheck source=launch/tpu_slice.sh
  source launch/tpu_slice.sh
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  read_arguments "$@"
  if [ "$action" = delete ]; then
    remove
    return
  fi
  pack
  [ -n "$dry" ] || mkdir -p "$logs"
  if [ "$action" = run ]; then
    run_until_done
  else
    ensure
    find_workers
    install_everywhere || fail 6 "$(complaint)"
  fi
}

say() { printf '%s  %s\n' "$(date +%T)" "$1" >&2; }

fail() { # STATUS MESSAGE
  printf 'tpu_vm.sh: %s\n' "$2" >&2
  exit "$1"
}

invoke() { # COMMAND ...: prints it, and runs it unless this is a dry run
  local word line='$'
  for word; do
    if [[ $word == *[!a-zA-Z0-9_./:=@-]* ]]; then line+=" ${word@Q}"; else line+=" $word"; fi
  done
  echo "$line" >&3
  [ -n "$dry" ] || "$@" 3>&-
}

read_arguments() {
  local project='' version='' zone='' spot='' argument
  [ $# -ge 2 ] || fail 2 "no action and name, as in: launch/tpu_vm.sh run NAME --type=TYPE --zone=ZONE -- train ..."
  action=$1 name=$2
  shift 2
  type='' queued='' bucket='' setup='' commit='' only='' delete_after='' poll=30 dry='' variables=()
  for argument; do
    shift
    case $argument in
      --type=*) type=${argument#*=} ;;
      --zone=*) zone=${argument#*=} ;;
      --project=*) project=${argument#*=} ;;
      --version=*) version=${argument#*=} ;;
      --spot) spot=1 ;;
      --queued) queued=1 ;;
      --bucket=*) bucket=${argument#*=} ;;
      --setup=*) setup=${argument#*=} ;;
      --commit=*) commit=${argument#*=} ;;
      --env=?*=*) variables+=("${argument#--env=}") ;;
      --worker=*) only=${argument#*=} ;;
      --delete) delete_after=1 ;;
      --poll=*) poll=${argument#*=} ;;
      --dry-run) dry=1 ;;
      --) break ;;
      *) fail 2 "unknown argument $argument; flags stand before --, the command for the workers after it" ;;
    esac
  done
  program=("$@") ready='' stopping='' pretended=MISSING
  began=$(date +%Y%m%d-%H%M%S)-$$ # the name of this launch
  logs=runs/launch/$name/$began
  place=("--zone=$zone" ${project:+"--project=$project"})
  if [ -n "$dry" ]; then exec 3>&1; else exec 3>&2; fi
  [ -n "$zone" ] || fail 2 "no --zone=ZONE, where $name is or shall be"
  [ -n "$dry" ] || command -v gcloud >/dev/null || fail 6 "gcloud is missing; install Google Cloud's CLI, or use --dry-run"
  case $action in
    create) ;;
    run) check_program ;;
    delete)
      pretended=READY
      return
      ;;
    *) fail 2 "no action $action; there are create, run and delete" ;;
  esac
  [ -n "$type" ] || fail 2 "no --type=TYPE of slice, such as v5litepod-16"
  version=${version:-$(image_of "$type")}
  kind=("--accelerator-type=$type" "--version=$version" ${spot:+--spot})
}

check_program() { # that what it leaves is on a disk which all workers see, and which is there after a preemption
  local argument workdir=''
  for argument in "${program[@]}"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
  done
  [ -n "$workdir" ] || fail 2 "no command with a workdir; it stands at the end: -- train --config=FILE --workdir=DIR"
  [ -n "$bucket$setup" ] ||
    fail 2 "--workdir=$workdir would be on each worker's own disk; use --bucket=BUCKET and --workdir=/mnt/BUCKET/..."
  [ -z "$bucket" ] || [[ $workdir == "/mnt/$bucket/"?* ]] ||
    fail 2 "--workdir=$workdir is not in the bucket; use --workdir=/mnt/$bucket/..."
  [[ $workdir == /* ]] || fail 2 "--workdir=$workdir is not absolute; name the place where --setup mounts the disk"
  variables=("JAX_COMPILATION_CACHE_DIR=${workdir%/*}/compiled" "${variables[@]}") # so that a restart compiles nothing
  # one worker's TPUs start only together with those of the others
  [ -z "$only" ] || ! is_one_process "${program[0]}" || variables=(JAX_PLATFORMS=cpu "${variables[@]}")
}

# --- the workers

pack() { # sets `checkout`, the folder on the workers, and `archive`, what is in it: of now, whatever changes here later
  local version files=() file
  if [ -n "$commit" ]; then
    version=$(git rev-parse --verify --quiet "$commit^{commit}") || fail 2 "--commit=$commit is none of this repository"
    checkout=dense_jax-${version:0:12} archive=$scratch/checkout.tar.gz
    git archive --format=tar.gz --output="$archive" "$version"
    return
  fi
  while IFS= read -r -d '' file; do
    if [ -e "$file" ]; then files+=("$file"); fi
  done < <(git ls-files -z --cached --others --exclude-standard)
  version=$({ printf '%s\n' "${files[@]}" && cat -- "${files[@]}"; } | git hash-object --stdin)
  checkout=dense_jax-${version:0:12} archive=$scratch/checkout.tar.gz
  tar -czf "$archive" -- "${files[@]}"
}

on_worker() { # N COMMAND: a connection to each by itself, since each has its own log and its own end
  invoke gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "--worker=$1" \
    "--ssh-flag=-o ServerAliveInterval=30" --quiet "--command=$2" </dev/null
}

find_workers() { # sets `workers`, those to use
  local count=2 worker
  [ -n "$dry" ] || count=$(ask tpu-vm "networkEndpoints.len()")
  workers=()
  for ((worker = 0; worker < count; worker++)); do workers+=("$worker"); done
  if [ -n "$only" ]; then
    [[ " ${workers[*]} " == *" $only "* ]] || fail 2 "--worker=$only is none of the workers of $name: ${workers[*]}"
    workers=("$only")
  elif [ "$action" = run ] && is_one_process "${program[0]}" && [ "$count" != 1 ] && [ -z "$dry" ]; then
    fail 2 "${program[0]} is one process, and $name has $count workers; use --worker=0"
  fi
}

is_one_process() { # VERB
  case $1 in prepare | show | export | compare) true ;; *) false ;; esac
}

logged() { # FILE COMMAND ...; a dry run has no logs
  local file=$logs/$1
  shift
  if [ -n "$dry" ]; then "$@"; else "$@" >>"$file" 2>&1; fi
}

install_on() { # N; what is installed there already is left alone
  local unpack="mkdir -p $checkout && tar -xzf $checkout.tar.gz -C $checkout && bash $checkout/launch/worker.sh install"
  if [ -n "$dry" ] || ! on_worker "$1" "test -e $checkout/.installed"; then
    invoke gcloud compute tpus tpu-vm scp "$archive" "$name:$checkout.tar.gz" "${place[@]}" "--worker=$1" --quiet \
      </dev/null || return 1
    on_worker "$1" "$unpack" || return 1
  fi
  [ -z "$setup" ] || on_worker "$1" "$setup" || return 1
  [ -z "$bucket" ] || on_worker "$1" "bash $checkout/launch/worker.sh mount $bucket"
}

install_everywhere() { # the first worker before the others, since gcloud hands out this machine's ssh key with it
  local worker pids=() pid
  say "installing $checkout on worker ${workers[*]}"
  logged "install-${workers[0]}.log" install_on "${workers[0]}" || return 1
  for worker in "${workers[@]:1}"; do
    logged "install-$worker.log" install_on "$worker" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
}

complaint() { echo "the workers of $name could not be set up; $logs/install-*.log say why"; }

# --- the program

run_until_done() {
  local attempt=0 lost=0 silent=0 began_at state
  while true; do
    ensure
    find_workers
    began_at=$SECONDS
    if install_everywhere; then
      run_once $((++attempt))
    else
      status=255
      say "$(complaint)"
    fi
    [ -z "$stopping" ] || fail 75 "stopped; the same command continues"
    [ "$status" != 0 ] || break
    [ "$status" -lt 75 ] || sleep "$poll" # that a slice was taken away shows later than that its workers have ended
    ((SECONDS - began_at < LONG)) || lost=0 silent=0
    [ "$status" = 255 ] || silent=0
    state=$(ask tpu-vm state)
    if [ "$state" != READY ]; then
      lost=0 silent=0
      say "$name is $state: again, from the last checkpoint"
    elif [ "$status" = 75 ]; then
      lost=0
      say "stopped after saving: again"
    elif ((status == 255 && ++silent < SILENCE)); then
      say "no word from the workers, $silent in a row: again, in case they are at work"
    elif ((status > 75 && status < 255 && ++lost < PATIENCE)); then
      say "a worker was lost or killed, $lost in a row: again, from the last checkpoint"
    else
      break
    fi
  done
  say "ended with exit status $status${dry:+, in a dry run}; what the workers print is in $logs"
  [ "$status" != 255 ] ||
    fail 6 "no word from the workers of $name, $SILENCE times in a row: they may be at work, and are left alone"
  [ -z "$delete_after" ] || remove
  exit "$status"
}

run_once() { # ATTEMPT: sets `status`, the smallest exit status of a worker that is not 0
  local worker pids=() pid watcher='' command ended
  command="bash $checkout/launch/worker.sh run $began-$1$(printf ' %q' "${variables[@]}" "${program[@]}")"
  say "attempt $1: ${program[0]} on worker ${workers[*]}"
  trap stop_workers INT TERM
  for worker in "${workers[@]}"; do
    logged "attempt-$1-worker-$worker.log" on_worker "$worker" "$command" &
    pids+=($!)
  done
  if [ -z "$dry" ]; then
    tail -n +1 -F "$logs/attempt-$1-worker-${workers[0]}.log" 2>/dev/null &
    watcher=$!
  fi
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done # a signal ends the wait, and not the worker
  done
  [ -z "$watcher" ] || kill "$watcher"
  trap - INT TERM
  status=0
  [ -z "$dry" ] || return 0
  for worker in "${workers[@]}"; do
    ended=$(sed -n 's/^== exit status \([0-9]*\)$/\1/p' "$logs/attempt-$1-worker-$worker.log" | tail -n 1)
    ended=${ended:-255} # the connection broke, and could not be made again
    say "worker $worker: exit status $ended"
    if [ "$ended" != 0 ] && { [ "$status" = 0 ] || [ "$ended" -lt "$status" ]; }; then status=$ended; fi
  done
}

stop_workers() {
  local worker
  [ -z "$stopping" ] || return 0
  stopping=1
  say "stopping: the workers save"
  for worker in "${workers[@]}"; do
    on_worker "$worker" "bash $checkout/launch/worker.sh stop" >/dev/null 2>&1 &
  done
}

main "$@"
