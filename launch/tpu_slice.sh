# shellcheck shell=bash disable=SC2154
# The slice of tpu_vm.sh, which sources this: ask for it, wait for it, give it back. By the variables that tpu_vm.sh made
# of its command line: `name`, `type`, `place` and `kind`, what gcloud is told of it, and `queued`, `poll`, `dry`.

image_of() { # TYPE
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail 2 "no image is known for --type=$1; name it by --version=VERSION" ;;
  esac
}

ask() { # tpu-vm|queued-resources ATTRIBUTE: what gcloud says of it, or MISSING
  local command=(gcloud compute tpus "$1" describe "$name" "${place[@]}" "--format=value($2)") try
  if [ -n "$dry" ]; then
    invoke "${command[@]}"
    if [ "$1" = tpu-vm ] || [ -n "$queued" ]; then echo "$pretended"; else echo MISSING; fi
    return
  fi
  for try in 1 2 3 4 5; do
    if "${command[@]}" 2>"$scratch/error"; then return; fi
    if grep -q 'NOT_FOUND\|was not found' "$scratch/error"; then
      echo MISSING
      return
    fi
    say "gcloud gave no answer (try $try of 5): $(tail -n 1 "$scratch/error")"
    sleep "$poll"
  done
  fail 6 "gcloud cannot describe $name; it says: $(cat "$scratch/error")"
}

look_again() { # REASON
  say "$1"
  sleep "$poll"
}

ensure() { # returns when the slice is ready
  local state found
  while true; do
    state=$(ask tpu-vm state)
    case $state in
      READY) break ;;
      MISSING) request ;;
      PREEMPTED | TERMINATED) remove ;;
      CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING | DELETING | STOPPING) look_again "$name is $state" ;;
      *) fail 6 "$name is $state, and no command can run there; start it, or \`launch/tpu_vm.sh delete $name ${place[*]}\`" ;;
    esac
  done
  [ -z "$ready" ] || return 0
  ready=1
  found=$(ask tpu-vm acceleratorType)
  [ -n "$dry" ] || [ "$found" = "$type" ] ||
    fail 2 "$name is a $found, not the --type=$type that is asked for; use another name, or delete it first"
}

request() { # asks for the slice, which then may still have to be waited for
  local state
  if [ -z "$queued" ]; then
    if invoke gcloud compute tpus tpu-vm create "$name" "${place[@]}" "${kind[@]}"; then
      pretended=READY
    elif [ -n "$ready" ]; then # it was there once, so there is nothing wrong with what is asked for
      look_again "there is none to be had now; --queued would wait in the queue"
    else
      fail 6 "$name was not created; gcloud says why above. Where there is none to be had now, --queued waits for one"
    fi
    return
  fi
  state=$(ask queued-resources state.state)
  case $state in
    MISSING)
      invoke gcloud compute tpus queued-resources create "$name" "--node-id=$name" "${place[@]}" \
        "${kind[@]/--version=/--runtime-version=}" || fail 6 "$name was not queued; gcloud says why above"
      pretended=READY
      ;;
    SUSPENDED) remove ;;
    FAILED) fail 6 "the request for $name has failed; \`gcloud compute tpus queued-resources describe $name ${place[*]}\` says why" ;;
    *) look_again "$name is in the queue: $state" ;;
  esac
}

remove() { # the slice, and its place in the queue
  local state
  state=$(ask queued-resources state.state)
  while [ "$state" = SUSPENDING ] || [ "$state" = DELETING ]; do
    look_again "$name is in the queue: $state"
    state=$(ask queued-resources state.state)
  done
  if [ "$state" != MISSING ]; then
    invoke gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
    return
  fi
  state=$(ask tpu-vm state)
  [ "$state" != MISSING ] || return 0
  invoke gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
}
