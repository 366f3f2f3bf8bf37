#!/usr/bin/env bash
# The same as slurm/resnet.sh, with the processes of each node started by `accelerate launch`, for those who must.
#
#   sbatch slurm/resnet_accelerate.sh [FLAGS]
#
# resnet.sh starts sooner and has less between Slurm and the training: prefer it.

#SBATCH --job-name=resnet
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=USR2@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

set -euo pipefail
# shellcheck source=slurm/job.sh
source "${SLURM_SUBMIT_DIR:-.}/slurm/job.sh" || { echo "error: submit it from the repository's root" >&2 && exit 2; }

# step FLAGS: one task for each node. Slurm signals every process of a step, also the launcher, which would die of it. So
# it is started ignoring SIGUSR2; training has a handler of its own.
step() {
  local several=()
  if ((processes > 1)); then
    local head
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")  # all of them: one who stops reading kills who still writes
    head=$(scontrol --oneliner show node "${head%%$'\n'*}" | grep -oP '\bNodeAddr=\K\S+')
    several=(--multi_gpu --rdzv_backend static --main_process_ip "$head")
    several+=(--main_process_port $((20000 + SLURM_JOB_ID % 10000)))
  fi
  # shellcheck disable=SC2016 # each task has a rank of its own
  run_step --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "${devices[@]}" "${container[@]}" \
    bash -c 'trap "" USR2; exec accelerate launch --machine_rank "$SLURM_PROCID" "$@"' node \
    --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes" "${several[@]}" \
    --mixed_precision "$([[ ${devices[*]} ]] && echo bf16 || echo no)" --dynamo_backend no distrib/train.py "$@"
  # The launcher ends with 1 whenever training did not end with 0; the journal knows better.
  if ((code == 1)) && tail -n 1 "$run/metrics.jsonl" | grep -q '"event": "stop".*"exit_code": 75'; then
    code=$STOPPED
  fi
}

if [[ " $*" != *" --config"* ]]; then
  set -- --config configs/resnet50_autoaugment.yaml "$@"
fi
train --name "$SLURM_JOB_NAME-$SLURM_JOB_ID" "$@"
