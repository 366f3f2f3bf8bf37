# shellcheck shell=bash
# What the jobs beside this one have in common. They source it: it is no command of its own.
#
# A run that is told that time is nearly up (SIGUSR2, see --signal) saves and ends with exit code 75. Then its job puts
# itself back into the queue, and goes on with the run when it is started again.

# shellcheck source=launch/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/prepare.sh"
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  refuse "this is a job for Slurm: sbatch slurm/${0##*/}"
fi
container=() srun_options=() # what cluster.env may set
if [[ -f slurm/cluster.env ]]; then
  # shellcheck source=/dev/null
  source slurm/cluster.env
fi

# Restarts in a row that bring no new checkpoint, after which a job stays away from the queue.
FRUITLESS=3
STOPPED=75 # exit code of a run that saved and wants to go on
TOO_SOON=$((128 + $(kill -l USR2))) # of one that did not yet listen

# The job as scontrol knows it. The last task of an array bears the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

# The seconds between SIGUSR2 and the end, which the run compares with the time that a save takes it.
DISTRIB_STOP_LEAD=${SBATCH_SIGNAL:-$(sed -n 's/^#SBATCH --signal=//p' "$0")}
export DISTRIB_STOP_LEAD=${DISTRIB_STOP_LEAD##*@}

# describe FLAGS: the resolved recipe. A typo is answered here, and once.
describe() {
  "${container[@]}" python distrib/train.py --print-settings "$@"
}

# count_processes: as many as were asked for, else one for each GPU, else one for each node.
count_processes() {
  local gpus=${SLURM_GPUS_ON_NODE:-0}
  devices=()
  if ((gpus)); then
    devices=(--gres=gpu:"$gpus") # a step has no GPU unless it asks
  fi
  per_node=$((gpus ? gpus : 1))
  if [[ -n ${SLURM_NTASKS:-} ]]; then
    per_node=$(((SLURM_NTASKS + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
  fi
  processes=${SLURM_NTASKS:-$((per_node * SLURM_JOB_NUM_NODES))}
  local cores=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / per_node))}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores ? cores : 1))}
}

# step FLAGS: train with one task for each process. srun starts them itself: nothing else stands between them and its
# signals and exit codes.
step() {
  run_step --ntasks="$processes" --ntasks-per-node="$per_node" "${devices[@]}" \
    "${container[@]}" python distrib/train.py "$@"
}

# run_step COMMAND...: run it in a step of this job, to its end; sets `code`, its exit code. A SIGTERM means that the job
# is over (scancel, its time limit, a preemption): it sets `over`, and this shell waits for the run to save.
run_step() {
  over=
  trap 'over=yes' TERM
  # Processes that end together do so within a second, and their exit codes count. When one is lost the others know why
  # they end; 30 seconds later Slurm would end them.
  srun --kill-on-bad-exit=0 --wait=30 --cpu-bind=none "${srun_options[@]}" "$@" &
  local step=$!
  while true; do
    code=0
    wait "$step" || code=$?
    kill -0 "$step" 2>/dev/null || return 0 # else a signal has interrupted the wait
  done
}

newest_checkpoint() {
  local all=("$1"/checkpoints/update-*)
  if [[ -d ${all[-1]} ]]; then
    echo "${all[-1]}"
  fi
}

# nodes_answer: whether every node of the job still runs what it is told to.
nodes_answer() {
  timeout 60 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 true
}

say() {
  echo "$(date '+%F %T') job $job$*"
}

# wants_more: whether the run is to go on: it was stopped, or it is not its fault that it has ended.
wants_more() {
  case $code in
  "$STOPPED" | "$TOO_SOON") return 0 ;;
  0 | 2 | 3) return 1 ;; # finished; bad settings; diverged
  esac
  if [[ $over ]] || nodes_answer; then
    return 1
  fi
  echo "A node of the job is lost: the run goes on with others."
}

# refuse_to_circle RUN CHECKPOINT: end the job if the run has come no further than CHECKPOINT, and did not before.
refuse_to_circle() {
  local tried=$1/fruitless-starts
  if [[ $(newest_checkpoint "$1") != "$2" ]]; then
    rm -f "$tried"
    return
  fi
  mkdir -p "$1" && echo >>"$tried"
  if (($(wc -l <"$tried") >= FRUITLESS)); then
    rm -f "$tried"
    refuse "$FRUITLESS starts in a row brought no new checkpoint: give the job more time, or a longer --signal lead"
  fi
}

# train FLAGS: train, or go on with the run of that name; put the job back into the queue if there is more to do.
train() {
  local settings run before
  settings=$(describe "$@")
  run=$(sed -n 's/^out: //p' <<<"$settings")/$(sed -n 's/^name: //p' <<<"$settings")
  before=$(newest_checkpoint "$run")
  count_processes
  say ", start $((${SLURM_RESTART_COUNT:-0} + 1)): $processes processes on $SLURM_JOB_NODELIST," \
    "run $run${before:+ from ${before##*/}}"
  step "$@"
  say ": the run ended with exit code $code"
  if ! wants_more; then
    exit "$code"
  fi
  if [[ $over ]]; then
    echo "The job was ended from outside: unless Slurm puts it back, the run goes on with --name ${run##*/}"
  else
    refuse_to_circle "$run" "$before"
    scontrol requeue "$job" || refuse "Slurm does not put this job back. The run goes on with: --name ${run##*/}"
  fi
  exit "$STOPPED"
}
