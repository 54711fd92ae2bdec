#!/usr/bin/env bash
# One dense-jax command on a TPU slice of a GKE cluster: fills in launch/gke.yaml, and applies it.
#
#   launch/gke.sh NAME [FLAGS] -- VERB ...
#
#   launch/gke.sh ict --image=us-docker.pkg.dev/my-project/images/dense_jax:1 --bucket=my-bucket -- \
#     train --config=configs/ict.py --workdir=/mnt/my-bucket/ict
#
#   --image=IMAGE          made by launch/Dockerfile
#   --bucket=BUCKET        mounted at /mnt/BUCKET on all hosts, for corpora and workdirs
#   --type=TYPE            of chips: tpu-v5-lite-podslice, unless named
#   --topology=TOPOLOGY    of the slice: 4x4, unless named
#   --service-account=SA   of Kubernetes, which may read and write the bucket: default, unless named
#   --env=NAME=VALUE       for the program, such as LIBTPU_INIT_ARGS; any number of them
#   --dry-run              only print what would be applied
#
# Then: kubectl get jobset NAME; kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME; kubectl delete jobset NAME.
# A JobSet of that name which has completed or failed is deleted first; one at work is left alone, with exit status 2.
set -euo pipefail

CHIPS=4 # of a host of a slice that has several

main() {
  read_arguments "$@"
  local manifest
  manifest=$(render)
  if [ -n "$dry" ]; then
    echo "$manifest"
  else
    command -v kubectl >/dev/null || fail 6 "kubectl is missing; install it, or use --dry-run"
    make_room
    kubectl apply --filename=- <<<"$manifest"
  fi
}

fail() { # STATUS MESSAGE
  printf 'gke.sh: %s\n' "$2" >&2
  exit "$1"
}

make_room() { # where a JobSet of that name has ended: it would stay as it is, whatever is applied
  local found
  found=$(kubectl get jobset "$name" --ignore-not-found --output='jsonpath={.kind} {.status.terminalState}')
  case $found in
    '') ;;
    *Completed | *Failed)
      echo "the last JobSet $name has ${found#* }; it is deleted, and its output with it" >&2
      kubectl delete jobset "$name" --cascade=foreground # waits for its Jobs too, whose names the next have
      ;;
    *) fail 2 "JobSet $name is at work; use another name, or end it first: kubectl delete jobset $name" ;;
  esac
}

read_arguments() {
  local argument
  [ $# -ge 1 ] || fail 2 "no name, as in: launch/gke.sh NAME --image=IMAGE --bucket=BUCKET -- train ..."
  name=$1
  shift
  image='' bucket='' type=tpu-v5-lite-podslice topology=4x4 account=default variables=() dry=''
  for argument; do
    shift
    case $argument in
      --image=*) image=${argument#*=} ;;
      --bucket=*) bucket=${argument#*=} ;;
      --type=*) type=${argument#*=} ;;
      --topology=*) topology=${argument#*=} ;;
      --service-account=*) account=${argument#*=} ;;
      --env=?*=*) variables+=("${argument#--env=}") ;;
      --dry-run) dry=1 ;;
      --) break ;;
      *) fail 2 "unknown argument $argument; flags stand before --, the command for the hosts after it" ;;
    esac
  done
  program=("$@")
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail 2 "name $name: Kubernetes takes small letters, digits and hyphens"
  [ -n "$image" ] || fail 2 "no --image=IMAGE; launch/Dockerfile makes one"
  [ -n "$bucket" ] || fail 2 "no --bucket=BUCKET; what is not there is gone with the slice"
  count_hosts
  check_program
}

count_hosts() { # of the topology
  [[ $topology =~ ^[0-9]+(x[0-9]+)+$ ]] || fail 2 "--topology=$topology is none; they look like 4x4 or 2x2x4"
  local chips=$((${topology//x/*}))
  ((chips % CHIPS == 0)) || fail 2 "--topology=$topology has $chips chips, which do not fill hosts of $CHIPS; use 2x2 or more"
  hosts=$((chips / CHIPS))
}

check_program() {
  local argument workdir=''
  for argument in "${program[@]}"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
  done
  [ -n "$workdir" ] || fail 2 "no command with a workdir; it stands at the end: -- train --config=FILE --workdir=DIR"
  [[ $workdir == "/mnt/$bucket/"?* ]] || fail 2 "--workdir=$workdir is not in the bucket; use --workdir=/mnt/$bucket/..."
  ! is_one_process "${program[0]}" || [ "$hosts" = 1 ] ||
    fail 2 "${program[0]} is one process, and --topology=$topology has $hosts hosts; use a smaller one, such as 2x2"
  variables=("JAX_COMPILATION_CACHE_DIR=${workdir%/*}/compiled" "${variables[@]}") # so that a restart compiles nothing
}

is_one_process() { # VERB
  case $1 in prepare | show | export | compare) true ;; *) false ;; esac
}

quoted() { # TEXT: as a JSON string, which is YAML too
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//$'\n'/\\n}"
}

render() {
  local manifest arguments='' environment='' word
  for word in "${program[@]}"; do arguments+="${arguments:+, }$(quoted "$word")"; done
  for word in "${variables[@]}"; do
    environment+="${environment:+, }{name: $(quoted "${word%%=*}"), value: $(quoted "${word#*=}")}"
  done
  manifest=$(cat "$(dirname "$0")/gke.yaml")
  fill NAME "$name"
  fill HOSTS "$hosts"
  fill CHIPS "$CHIPS"
  fill TYPE "$type"
  fill TOPOLOGY "$topology"
  fill SERVICE_ACCOUNT "$account"
  fill IMAGE "$image"
  fill BUCKET "$bucket"
  fill ARGUMENTS "[$arguments]"
  fill VARIABLES "[$environment]"
  echo "$manifest"
}

fill() { # WORD VALUE: in `manifest`
  manifest=${manifest//"\${$1}"/"$2"}
}

main "$@"
