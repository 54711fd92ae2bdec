#!/usr/bin/env bash
# The whole pipeline on this machine, printed command by command.
#
#   launch/local.sh [CONFIG] [WORKDIR] [--key=value ...]
set -euo pipefail

config=${1:-configs/ict.py:tiny}
workdir=${2:-runs/$(basename "${config%%:*}" .py)}
shift $(($# < 2 ? $# : 2))

run() {
  local verb=$1
  shift
  printf '\n$ dense-jax %s' "$verb" && printf ' %q' "--workdir=$workdir" "$@" && printf '\n'
  dense-jax "$verb" "--workdir=$workdir" "$@"
}

run prepare "--config=$config" "$@"
run show
run train
run embed
run index
run evaluate
run export
run report
run search --search.k=2 \
  "compute the singular value decomposition" \
  "remove whitespace from both ends of a string" \
  "wait until all threads have finished"

cat <<END
$workdir
  checkpoints  metrics.jsonl  tensorboard   of training
  embeddings   index                        of the collection that is searched
  export                                    for transformers and sentence-transformers
  report.html                               one page about the run: curves, results, examples, warnings
  results                                   every measure, the rankings, and this table:

$(cat "$workdir"/results/*/table.md)
END
