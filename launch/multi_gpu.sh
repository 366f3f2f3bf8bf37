#!/usr/bin/env bash
# Train on all GPUs of this machine (or those of CUDA_VISIBLE_DEVICES), one process each.
#
#   launch/multi_gpu.sh [FLAGS]

set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

check_flags "$@"
gpus=$(count_gpus)
if ((gpus == 0)); then
  refuse "PyTorch sees no GPU here: use launch/debug.sh for one process, or launch/cpu.sh N for several"
fi
share_cores "$gpus"
run torchrun --standalone --nproc-per-node "$gpus" distrib/train.py "$@"
