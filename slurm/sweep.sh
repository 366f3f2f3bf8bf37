#!/usr/bin/env bash
# One run of a sweep for each task of a job array. `distrib sweep GRID.yaml -- [OPTIONS OF SBATCH]` submits it:
#
#   distrib sweep configs/sweeps/weight_decay.yaml --at-once 4 -- --gpus-per-node=1 --cpus-per-task=8
#
# A task saves, goes back into the queue and goes on as slurm/resnet.sh does. The job that is submitted last waits for
# all of them; it is no part of the array and prints where they are.

#SBATCH --signal=USR2@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
# shellcheck source=slurm/job.sh
source "${SLURM_SUBMIT_DIR:-.}/slurm/job.sh" || { echo "error: submit it from the repository's root" >&2 && exit 2; }

sweep() {
  "${container[@]}" python distrib/__main__.py sweep "$@"
}

folder=$1
if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  sweep status "$folder"
  exit
fi
mapfile -d '' -t flags < <(sweep flags "$folder" "$SLURM_ARRAY_TASK_ID")
outcome=$folder/${flags[-1]#--name=}.exit
rm -f "$outcome"
trap 'echo $? >"$outcome"' EXIT
train "${flags[@]}"
