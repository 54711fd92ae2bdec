#!/usr/bin/env bash
# All GPU measurements in a quarter of an hour, for a machine that is lent for as long: training, encoding and exact
# search, each against PyTorch as tuned as it gets (bfloat16, torch.compile, cuDNN's or SDPA's attention) in one process.
#
#   benchmarks/gpu.sh [--tiny] [FOLDER] [SECONDS]      by default results/gpu, 900 seconds, start and installation included
#
# The part that matters most comes first, and each has a limit, so that SECONDS are kept; what does not fit is named.
# FOLDER/results.md gets each part's table and JSON lines as soon as they are there, FOLDER/PART.log its progress. The
# compiled programs are kept in FOLDER/cache: a second run has more of its time for measuring.
#
# Uses one GPU. PYTHON (python3) must be able to run dense_jax with JAX and PyTorch for CUDA: what is missing is installed
# with its pip, if there is a network. To install it beforehand:
#
#   python3 -m venv .venv-gpu && export PYTHON=.venv-gpu/bin/python
#   $PYTHON -m pip install --constraint constraints.txt --editable . 'jax[cuda12]' torch sentence-transformers
#
# --tiny takes tiny models and whatever device JAX finds: a test of this script.
set -euo pipefail

started=$SECONDS
cd "$(dirname "$0")/.."
tiny=0
if [[ ${1:-} == --tiny ]]; then
  tiny=1
  shift
fi
folder=${1:-results/gpu}
seconds=${2:-900}
python=${PYTHON:-python3}
modules=(jax flax optax grain array_record orbax.checkpoint tyro pydantic tokenizers safetensors datasketch scann
  tensorboardX torch transformers sentence_transformers)

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=$folder/cache/jax TORCHINDUCTOR_CACHE_DIR=$folder/cache/torch

say() { printf '%s\n' "$*" | tee -a "$folder/results.md"; }

left() { echo $((seconds - (SECONDS - started))); }

# Names of the modules that Python lacks, and of the libraries that see no GPU.
missing() {
  "$python" - "${modules[@]}" <<'END'
import importlib.util, sys

def found(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False

lacking = [name for name in sys.argv[1:] if not found(name)]
if "jax" not in lacking:
    import jax
    lacking += [] if jax.default_backend() == "gpu" else ["jax for CUDA"]
if "torch" not in lacking:
    import torch
    lacking += [] if torch.cuda.is_available() else ["torch for CUDA"]
print(", ".join(lacking))
END
}

# part NAME LIMIT SCRIPT [ARGUMENT ...]: one measurement within LIMIT seconds; its turns end 20 seconds before.
part() {
  local name=$1 limit=$2 status=0
  shift 2
  limit=$((tiny ? 10 * limit : limit)) # CPUs may be busy
  limit=$((limit < $(left) - 5 ? limit : $(left) - 5))
  if ((limit < 40)); then
    say "## $name: left out, $(left) of $seconds seconds remain"
    return
  fi
  say "## $name"
  timeout --foreground --kill-after=5 "$limit" "$python" "benchmarks/$1" "${@:2}" --seconds=$((limit - 20)) \
    >"$folder/$name.out" 2>"$folder/$name.log" || status=$?
  tee -a "$folder/results.md" <"$folder/$name.out"
  grep '^{' "$folder/$name.out" >>"$folder/results.jsonl" || true
  if ((status)); then
    failed=yes
    say "failed with status $status (124: over $limit seconds):"
    tail -n 5 "$folder/$name.log" | tee -a "$folder/results.md"
  fi
}

failed=
lacking=$(missing)
if [[ $lacking ]] && ((! tiny)); then
  say "missing: $lacking; installing"
  timeout 240 "$python" -m pip install --quiet --constraint constraints.txt --editable . 'jax[cuda12]' torch \
    sentence-transformers >"$folder/install.log" 2>&1 || say "not installed: $(tail -n 1 "$folder/install.log")"
  lacking=$(missing)
fi
if [[ $lacking ]]; then
  say "missing: $lacking"
fi
if [[ $lacking == *"jax for CUDA"* ]] && ((! tiny)); then
  echo "JAX sees no GPU here: see the head of benchmarks/gpu.sh" >&2
  exit 6
fi

size=base few=--steps=15 rows=512 pairs=65536 chunk=2048 vectors=21000000 width=768
if ((tiny)); then
  size=tiny few='--steps=2 --warmup=2' rows=8 pairs=8 chunk=4 vectors=2000 width=16
fi
# 65,536 tokens a step; of the pairs 80 each
train=(train.py --size="$size" --peer=tuned)
read -ra few <<<"$few"
part mlm-128 130 "${train[@]}" --objective=mlm --seq=128 --batch="$rows" "${few[@]}"
part ict 130 "${train[@]}" --objective=ict --seq=128 --batch="$rows" "${few[@]}"
part encode 110 encode.py --size="$size" --peer=tuned --seq=128 --batch="$rows" "${few[@]}"
part search 120 exact.py --vectors="$vectors" --width="$width" "${few[@]}"
part contrastive 170 "${train[@]}" --objective=ict --seq=64 --batch="$pairs" --chunk="$chunk" --steps=2 --warmup=2
part mlm-512 130 "${train[@]}" --objective=mlm --seq=512 --batch=$((rows / 4)) "${few[@]}"
part mlm-256 130 "${train[@]}" --objective=mlm --seq=256 --batch=$((rows / 2)) "${few[@]}"
say "$((SECONDS - started)) of $seconds seconds; all of it is in $folder"
[[ ! $failed ]]
