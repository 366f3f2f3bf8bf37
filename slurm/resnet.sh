#!/usr/bin/env bash
# Train on a Slurm cluster, by default ResNet-50: one process for each GPU of the job's nodes, or one for each node.
#
#   sbatch slurm/resnet.sh [FLAGS]
#   sbatch --nodes=2 slurm/resnet.sh --config configs/resnet18_cosine.yaml --epochs 30
#   sbatch --oversubscribe --gpus-per-node=2 --cpus-per-task=8 --ntasks-per-node=2 slurm/resnet.sh    # not whole nodes
#
# Submit it from the repository's root, where the environment is (`make run` makes it). slurm/cluster.env.example tells
# where partition, account, modules and container belong; docs/clusters.md tells the rest.
#
# The job takes whole nodes. Before its time is up it saves, and goes back into the queue; so it does when a node fails or
# a more important job takes its place. scancel ends it for good, with everything saved.

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

if [[ " $*" != *" --config"* ]]; then
  set -- --config configs/resnet50_autoaugment.yaml "$@"
fi
train --name "$SLURM_JOB_NAME-$SLURM_JOB_ID" "$@"
