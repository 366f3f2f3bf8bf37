#!/usr/bin/env bash
# Train in one process on one device: the first GPU, else the CPU.
#
#   launch/debug.sh [FLAGS]

set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

check_flags "$@"
run python distrib/train.py "$@"
