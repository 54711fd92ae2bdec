#!/usr/bin/env bash
# Comparison of several configs and seeds with the same budget of tokens.
#
#   launch/compare.sh WORKDIR TOKENS "SEEDS" CONFIG ... [--key=value ...]
#
#   launch/compare.sh runs/comparison 3_000_000 "0 1 2" configs/mlm.py:tiny configs/ict.py:tiny --batch=64
#
# Settings apply to all runs. All share one preparation in WORKDIR/data. The first config untrained is the baseline.
# All results are in one page, WORKDIR/comparison.html. The same command continues: finished runs are not repeated.
set -euo pipefail

workdir=$1 tokens=$2 seeds=$3
shift 3
configs=() settings=()
for argument; do
  case $argument in
    --*) settings+=("$argument") ;;
    *) configs+=("$argument") ;;
  esac
done

name_of() { # a config's file, and its variant unless it is base or tiny
  local file variant
  file=$(basename "${1%%:*}" .py)
  case $1 in *:*) variant=${1#*:} ;; *) variant=base ;; esac
  case $variant in base | tiny) echo "$file" ;; *) echo "$file-${variant#tiny_}" ;; esac
}

runs=()
measure() { # NAME CONFIG SEED TOKENS
  local name=$1 config=$2 seed=$3 budget=$4
  local common=("--config=$config" "--workdir=$workdir/$name-$seed" "--passages.workdir=$workdir/data"
    "--seed=$seed" "--steps=0" "--tokens=$budget" "${settings[@]}")
  runs+=("$workdir/$name-$seed")
  [ -e "$workdir/$name-$seed/done" ] && return
  echo "== $name, seed $seed"
  dense-jax prepare "${common[@]}"
  dense-jax train "${common[@]}"
  dense-jax evaluate "${common[@]}" --evaluate.before=false
  touch "$workdir/$name-$seed/done"
}

for seed in $seeds; do
  measure untrained "${configs[0]}" "$seed" 0
  for config in "${configs[@]}"; do
    measure "$(name_of "$config")" "$config" "$seed" "$tokens"
  done
done
dense-jax compare "${runs[@]}" --against=untrained --workdir="$workdir"
