#!/usr/bin/env bash
# The whole pipeline on this machine, in the commands that you would type yourself.
#
#   launch/local.sh [CONFIG] [WORKDIR] [--config.key=value ...]
set -euo pipefail

config=${1:-configs/ict.py:tiny}
workdir=${2:-runs/demo}
shift $(($# < 2 ? $# : 2))

run() {
  echo
  echo "\$ dense-jax $*"
  dense-jax "$@"
}

common=("--config=$config" "--workdir=$workdir" "$@")
run prepare "${common[@]}"
run show "${common[@]}"
run train "${common[@]}"
run embed "${common[@]}"
run index "${common[@]}"
run export "${common[@]}"
run search "${common[@]}" --config.search.k=3 \
  "compute the singular value decomposition" \
  "remove whitespace from both ends of a string" \
  "wait until all threads have finished"
run evaluate "${common[@]}"
