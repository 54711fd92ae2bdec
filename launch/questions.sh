#!/usr/bin/env bash
# What does a pre-training do for open-domain question answering? Every start is asked as it is, then learns to answer.
#
#   launch/questions.sh WORKDIR CONFIG "SEEDS" START ... [--config.key=value ...]
#
#   launch/questions.sh runs/questions configs/orqa.py:tiny "0 1 2" runs/ict runs/realm --config.corpus.source=squad-passages \
#     --config.corpus.questions=train-v1.1.json --config.answer.questions=dev-v1.1.json --config.tokenizer.path=runs/ict/tokenizer
#
# A START is what `init_from` takes, such as a run of pre-training; all have one tokenizer. What is finished is not done
# again: start the same command to continue.
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

runs=()
measure() { # NAME START SEED [--config.key=value ...]
  local run=$workdir/$1 start=$2 seed=$3 verb
  shift 3
  runs+=("$run")
  [ -e "$run/done" ] && return
  local common=("--config=$config" "--workdir=$run" "--config.passages.workdir=$workdir/data" "--config.seed=$seed"
    "--config.init_from=$start" "${settings[@]}" "$@")
  printf '\n== %s\n' "$run"
  for verb in prepare train embed index answer; do
    dense-jax "$verb" "${common[@]}"
  done
  touch "$run/done"
}

for start in "${starts[@]}"; do
  measure "$(basename "$start")-as-it-is" "$start" 0 --config.steps=0
done
for seed in $seeds; do
  for start in "${starts[@]}"; do
    measure "$(basename "$start")-$seed" "$start" "$seed"
  done
done
dense-jax compare "${runs[@]}" "--against=$(basename "${starts[0]}")" "--workdir=$workdir"
