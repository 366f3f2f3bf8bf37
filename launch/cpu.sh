#!/usr/bin/env bash
# Train in N processes on this machine's CPUs.
#
#   launch/cpu.sh N [FLAGS]

set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

processes="${1:-}"
if [[ ! $processes =~ ^[1-9][0-9]*$ ]]; then
  refuse "N is a number of processes: launch/cpu.sh N [FLAGS]"
fi
shift
# Also where there is a GPU. The flag tells us, the variable tells Accelerate.
set -- --device cpu "$@"
export ACCELERATE_USE_CPU=true

check_flags "$@"
share_cores "$processes"
run torchrun --standalone --nproc-per-node "$processes" distrib/train.py "$@"
