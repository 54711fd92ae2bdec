#!/usr/bin/env bash
# One dense-jax command on all hosts of a Cloud TPU slice, by gcloud alone. Nothing restarts it: launch/sky.yaml does.
#
#   export NAME=ict ZONE=us-east5-b TYPE=v6e-16 VERSION=v2-alpha-tpuv6e BUCKET=my-bucket
#   launch/gcloud.sh create [--spot]      create the slice, install the last commit of this checkout, mount the bucket
#   launch/gcloud.sh run train --config=ict:base --workdir=/mnt/bucket/ict
#   WORKER=0 launch/gcloud.sh run prepare --config=ict:base --workdir=/mnt/bucket/ict      on the first host alone
#   launch/gcloud.sh stop                 save and end with exit status 75; the same `run` continues
#   launch/gcloud.sh delete               the slice costs money until then
#
# `run` ends with the exit status of the first host that failed, by number. After 75 give the same command again; after
# a preemption `delete` and `create` first. DRY_RUN=1 prints the gcloud commands instead of running them.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NAME:?is not set; export it as the header shows}" "${ZONE:?is not set; export it as the header shows}"

tpu() { # ACTION [FLAG ...]
  local action=$1
  shift
  ${DRY_RUN:+echo} gcloud compute tpus tpu-vm "$action" "$@" "--zone=$ZONE" --quiet
}

on_hosts() { # COMMAND
  tpu ssh "$NAME" "--worker=${WORKER:-all}" "--command=$1"
}

create() { # [FLAG ...]
  local archive
  archive=$(mktemp -d)/dense_jax.tar.gz
  git archive --format=tar.gz "--output=$archive" HEAD
  tpu create "$NAME" "--accelerator-type=${TYPE:?}" "--version=${VERSION:?}" "$@"
  tpu scp "$archive" "$NAME:dense_jax.tar.gz" --worker=all
  rm "$archive"
  on_hosts "set -e; mkdir -p dense_jax; tar -xzf dense_jax.tar.gz -C dense_jax; cd dense_jax
    python3 -m pip install --quiet --user uv || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --python 3.11 .venv
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable '.[tpu]'
    sudo install -d -o \$(id -u) /mnt/bucket
    gcsfuse --implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=0 \
      --metadata-cache-negative-ttl-secs=0 ${BUCKET:?} /mnt/bucket"
}

run() { # VERB [--key=value ...]
  # TPUs of one host start only together with those of the others, so a host alone uses its CPU
  on_hosts "cd dense_jax && exec env JAX_COMPILATION_CACHE_DIR=/mnt/bucket/compiled ${WORKER:+JAX_PLATFORMS=cpu} \
    .venv/bin/dense-jax$(printf ' %q' "$@")"
}

case ${1:-} in
  create | run) "$@" ;;
  stop) on_hosts "pkill -TERM -f '[b]in/dense-jax'" ;;
  delete) tpu delete "$NAME" ;;
  *) echo "gcloud.sh: no action ${1:-}; use create, run, stop or delete" >&2 && exit 2 ;;
esac
