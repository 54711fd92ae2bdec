#!/usr/bin/env bash
# How much labelled data does a pre-training save? Every start is fine-tuned on shares of the queries, with hard
# negatives of BM25, and compared with no pre-training on the same share.
#
#   launch/labels.sh WORKDIR CONFIG "SHARES" "SEEDS" START ... [--key=value ...]
#
#   launch/labels.sh runs/labels configs/finetune_contriever.py:tiny "0.1 0.3 1.0" "0 1 2" runs/mlm runs/ict \
#     --corpus.source=scifact --evaluate.folder=scifact --tokenizer.path=runs/ict/tokenizer
#
# A START is a value of `init_from`, such as a run of pre-training; all have the same tokenizer. The baseline without
# pre-training is called none. The results of a share are in one page, WORKDIR/compared-SHARE/comparison.html. The same
# command continues: finished runs are not repeated.
set -euo pipefail

workdir=$1 config=$2 shares=$3 seeds=$4
shift 4
starts=(none) settings=()
for argument; do
  case $argument in
    --*) settings+=("$argument") ;;
    *) starts+=("$argument") ;;
  esac
done

words=("--config=$config" "--workdir=$workdir/words" "${settings[@]}")
mined=$workdir/words/mined/bm25.jsonl
if [ ! -e "$mined" ]; then
  dense-jax prepare "${words[@]}"
  dense-jax mine "${words[@]}" --mine.source=bm25
fi

measure() { # START SHARE SEED
  local start=$1 share=$2 seed=$3 run
  run=$workdir/$(basename "$start")-$share-$seed
  [ -e "$run/done" ] && return
  local common=("--config=$config" "--workdir=$run" "--passages.workdir=$workdir/data-$share"
    "--corpus.queries=$mined" "--corpus.query_share=$share" "--seed=$seed" "${settings[@]}")
  [ "$start" = none ] || common+=("--init_from=$start")
  printf '\n== %s, %s of the queries, seed %s\n' "$(basename "$start")" "$share" "$seed"
  dense-jax prepare "${common[@]}"
  dense-jax train "${common[@]}"
  dense-jax evaluate "${common[@]}" --evaluate.before=false
  touch "$run/done"
}

for seed in $seeds; do
  for start in "${starts[@]}"; do
    for share in $shares; do
      measure "$start" "$share" "$seed"
    done
  done
done

for share in $shares; do
  runs=()
  for start in "${starts[@]}"; do
    for seed in $seeds; do
      runs+=("$workdir/$(basename "$start")-$share-$seed")
    done
  done
  printf '\n== %s of the queries\n' "$share"
  dense-jax compare "${runs[@]}" "--against=none-$share" "--workdir=$workdir/compared-$share"
done
