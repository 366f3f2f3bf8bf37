#!/usr/bin/env bash
# Train on several machines. Start it on each of them, with the same environment and the same flags:
#
#   NODES=2 MASTER_ADDR=node1 launch/multi_node.sh [FLAGS]    # on node1
#   NODES=2 MASTER_ADDR=node1 launch/multi_node.sh [FLAGS]    # on node2
#
# NODES               number of machines
# MASTER_ADDR         name or address of one of them, where they meet
# MASTER_PORT         its port (29400)
# RUN_ID              any word that tells this run from others that meet there (distrib)
# PROCESSES_PER_NODE  processes of each machine (one for each GPU, or 1 where there is none)

set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

check_flags "$@"
missing=()
for name in NODES MASTER_ADDR; do
  if [[ -z ${!name:-} ]]; then
    missing+=("$name")
  fi
done
if ((${#missing[@]})); then
  refuse "set ${missing[*]} in the environment (launch/multi_node.sh --help says how)"
fi

gpus=$(count_gpus)
processes="${PROCESSES_PER_NODE:-$((gpus ? gpus : 1))}"
share_cores "$processes"
# As what the others know this machine, and what makes it the one where all meet. torchrun would ask its name for both,
# and on many a machine that stands for 127.0.1.1; the way to the meeting place knows better.
port="${MASTER_PORT:-29400}"
found=$(python -c '
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect((sys.argv[1], int(sys.argv[2])))
    mine, master = probe.getsockname()[0], probe.getpeername()[0]
if master.startswith("127."):  # torchrun knows that it is meant
    print(sys.argv[1])
else:
    print(mine, "--rdzv-conf", f"is_host={mine == master}".lower())' "$MASTER_ADDR" "$port") ||
  refuse "MASTER_ADDR=$MASTER_ADDR, MASTER_PORT=$port: there is no way there"
read -r -a found <<<"$found"
run torchrun --nnodes "$NODES" --nproc-per-node "$processes" --rdzv-backend c10d --rdzv-id "${RUN_ID:-distrib}" \
  --rdzv-endpoint "$MASTER_ADDR:$port" --local-addr "${found[@]}" distrib/train.py "$@"
