#!/usr/bin/env bash
# What does a pre-training gain in open-domain question answering? Every start is evaluated as it is, then fine-tuned.
#
#   launch/questions.sh WORKDIR CONFIG "SEEDS" START[,READER] ... [--key=value ...]
#
#   launch/questions.sh runs/questions configs/orqa.py:tiny "0 1 2" runs/ict,runs/mlm runs/realm \
#     --corpus.source=squad-passages --corpus.questions=train-v1.1.json \
#     --answer.questions=dev-v1.1.json --tokenizer.path=runs/ict/tokenizer
#
# A START is a value of `init_from`, such as a run of pre-training, a READER one of `init_reader_from`; all have the
# same tokenizer. There is a page of results before the fine-tuning, WORKDIR/compared-as-it-is/comparison.html, and one
# after it, WORKDIR/compared/comparison.html. The same command continues: finished runs are not repeated.
set -euo pipefail

workdir=$1 config=$2 seeds=$3
shift 3
starts=() settings=()
for argument; do
  case $argument in
    --*) settings+=("$argument") ;;
    *) starts+=("$argument") ;;
  esac
done

measure() { # NAME START SEED [--key=value ...]
  local run=$workdir/$1 start=${2%%,*} seed=$3 verb
  local reader=${2#"$start"}
  shift 3
  [ -e "$run/done" ] && return
  local common=("--config=$config" "--workdir=$run" "--passages.workdir=$workdir/data" "--seed=$seed"
    "--init_from=$start" ${reader:+"--init_reader_from=${reader#,}"} "${settings[@]}" "$@")
  printf '\n== %s\n' "$run"
  for verb in prepare train embed index answer; do
    dense-jax "$verb" "${common[@]}"
  done
  touch "$run/done"
}

as_they_are=() learned=()
for start in "${starts[@]}"; do
  name=$(basename "${start%%,*}")-as-it-is
  measure "$name" "$start" 0 --steps=0 --answer.read=false
  as_they_are+=("$workdir/$name")
done
for seed in $seeds; do
  for start in "${starts[@]}"; do
    name=$(basename "${start%%,*}")-$seed
    measure "$name" "$start" "$seed"
    learned+=("$workdir/$name")
  done
done
first=$(basename "${starts[0]%%,*}")
dense-jax compare "${as_they_are[@]}" "--against=$first-as-it-is" "--workdir=$workdir/compared-as-it-is"
dense-jax compare "${learned[@]}" "--against=$first" "--workdir=$workdir/compared"
