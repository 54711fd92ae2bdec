#!/usr/bin/env bash
# Fine-tuning in two rounds, as in coCondenser: with BM25 negatives, then also with hard negatives mined by the first
# model. Both rounds start from the same pre-trained weights.
#
#   launch/two_rounds.sh WORKDIR ROUND1 ROUND2 [--key=value ...]
#
#   launch/two_rounds.sh runs/scifact configs/finetune_cocondenser.py:{tiny,tiny} \
#     --corpus.source=scifact --evaluate.folder=scifact --init_from=runs/cocondenser
#
# ROUND1 and ROUND2 are configs; settings apply to both. WORKDIR/data has the training data of both. There is a page of
# the second round, WORKDIR/round2/report.html, and one of the comparison, WORKDIR/comparison.html. The same command
# continues: finished stages are not repeated.
set -euo pipefail

workdir=$1 round1=$2 round2=$3
shift 3
settings=("$@")

run() { # VERB ROUND CONFIG [--key=value ...]
  local verb=$1 round=$2 config=$3
  shift 3
  local all=("--config=$config" "--workdir=$workdir/$round" "--passages.workdir=$workdir/data" "${settings[@]}" "$@")
  printf '\n$ dense-jax %s' "$verb" && printf ' %q' "${all[@]}" && printf '\n'
  dense-jax "$verb" "${all[@]}"
}

run prepare words "$round1"
run mine words "$round1" --mine.source=bm25
words=--corpus.queries=$workdir/words/mined/bm25.jsonl

run prepare round1 "$round1" "$words"
run train round1 "$round1" "$words"
run evaluate round1 "$round1" "$words"
run mine round1 "$round1" "$words"

for mined in "$workdir"/round1/mined/dense-*.jsonl; do :; done # of the last step
both=("$words" "--corpus.queries=$mined")
run prepare round2 "$round2" "${both[@]}"
run train round2 "$round2" "${both[@]}"
run evaluate round2 "$round2" "${both[@]}"
run export round2 "$round2" "${both[@]}"
run report round2 "$round2" "${both[@]}"

dense-jax compare "$workdir/round1" "$workdir/round2" --against=round1 --workdir="$workdir"
