# shellcheck shell=bash
# What the scripts beside this one begin with. They source it: it is no command of its own.

script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
# The repository's root, wherever the script was called from: relative paths among the flags start there.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
if [[ -d .venv/bin ]]; then
  PATH="$PWD/.venv/bin:$PATH"
fi

# A worker that was told to end may be saving. torchrun would kill it after 30 seconds.
export PET_SHUTDOWN_TIMEOUT="${PET_SHUTDOWN_TIMEOUT:-120}"
# Workers that torchrun starts again (PET_MAX_RESTARTS) would find in the store of its agents what the first ones have
# left there, and wait for those for ever. This gives each start a store of its own.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE="${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}"
# With which a cluster says that time is nearly up. torchrun would die of it.
signals=SIGTERM,SIGINT,SIGQUIT,SIGUSR2
if [[ $(trap -p HUP) != "trap -- '' SIGHUP" ]]; then
  signals+=,SIGHUP # but not under nohup
fi
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-$signals}"

refuse() {
  echo "error: $*" >&2
  exit 2
}

# Asked for help anywhere, a script shows its own comment and then the flags.
for argument in "$@"; do
  if [[ $argument == -h || $argument == --help ]]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$script"
    echo
    exec python distrib/train.py --help
  fi
done

# A typo is answered here and once. After the launcher it would take seconds, and its report would hide the message.
check_flags() {
  python distrib/train.py --print-settings "$@" >/dev/null
}

count_gpus() {
  python -c 'import torch; print(torch.cuda.device_count())'
}

# Threads for each of $1 processes. torchrun would give each only one; without it each would take all cores.
share_cores() {
  local cores
  cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > $1 ? cores / $1 : 1))}"
}

# In this shell's place, so that a signal reaches the launcher itself.
run() {
  echo "running: $*" >&2
  exec "$@"
}
