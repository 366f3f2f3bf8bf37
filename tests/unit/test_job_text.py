"""What the scripts of slurm/ ask of Slurm, word by word: a change of it is seen in tests/unit/jobs.txt.

Slurm's commands are replaced by some that write down what they were called with. tests/slurm has the real ones.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT, environment, run

GOLDEN = Path(__file__).with_name("jobs.txt")
SCRIPTS = ("resnet.sh", "resnet_accelerate.sh", "sweep.sh")

STAND_IN = """#!/usr/bin/env bash
printf '%s' "${0##*/}" >>"$CALLS"
printf ' %q' "$@" >>"$CALLS"
echo >>"$CALLS"
case "${0##*/} $*" in
"scontrol show hostnames"*) printf 'node%s\\n' 1 2 ;;
"scontrol --oneliner show node"*) echo "NodeName=node1 NodeAddr=10.0.0.1 Port=6818" ;;
sbatch*) echo 7 ;;
"srun --overlap"*) exit "${LOST:-0}" ;; # asks whether every node answers
srun*) exit "${CODE:-0}" ;;
esac
"""

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "resnet", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1"}
JOB |= {"SLURM_CPUS_ON_NODE": "64"}
TWO = JOB | {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
GPUS = {"SLURM_GPUS_ON_NODE": "8"}
ARRAY = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
CONTAINER = "container=(env IMAGE=resnet.sif)\nsrun_options=(--partition=gpu)\n"

# A case: the script, its environment, its flags, what cluster.env holds.
CASES: dict[str, tuple[str, dict[str, str], str, str]] = {
    "one node without a GPU": ("resnet.sh", JOB, "", ""),
    "two nodes of eight GPUs": ("resnet.sh", TWO | GPUS, "--config configs/resnet18_cosine.yaml --epochs 30", ""),
    "three tasks": ("resnet.sh", TWO | {"SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "4"}, "", ""),
    "in a container": ("resnet.sh", JOB | GPUS, "", CONTAINER),
    "stopped": ("resnet.sh", JOB | {"CODE": "75"}, "", ""),
    "a bug": ("resnet.sh", JOB | {"CODE": "1"}, "", ""),
    "a node is lost": ("resnet.sh", JOB | {"CODE": "1", "LOST": "1"}, "", ""),
    "diverged": ("resnet.sh", JOB | {"CODE": "3"}, "", ""),
    "accelerate on one node": ("resnet_accelerate.sh", JOB, "", ""),
    "accelerate on two nodes of eight GPUs": ("resnet_accelerate.sh", TWO | GPUS, "", ""),
    "a task of a sweep": ("sweep.sh", JOB | ARRAY, "runs/weight_decay", ""),
    "a task of a sweep, stopped": ("sweep.sh", JOB | ARRAY | {"CODE": "75"}, "runs/weight_decay", ""),
    "the last job of a sweep": ("sweep.sh", JOB, "runs/weight_decay", ""),
}
SWEEP = "distrib sweep configs/sweeps/weight_decay.yaml --at-once 4 -- --gpus-per-node=1 --cpus-per-task=8"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own, whose Slurm writes down what it is asked."""
    for folder in ("slurm", "launch"):  # where a script lies tells it where the checkout is
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for folder in ("configs", "distrib"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("srun", "scontrol", "sbatch"):
        (stand_ins / name).write_text(STAND_IN)
        (stand_ins / name).chmod(0o755)
    return tmp_path


def call(checkout: Path, words: list[str], variables: dict[str, str]) -> str:
    """What Slurm was asked by a command, and the exit code."""
    calls = checkout / "calls"
    calls.write_text("")
    path = f"{checkout / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = environment(PATH=path, CALLS=str(calls), PYTHONPATH=str(ROOT), **variables)
    del variables["OMP_NUM_THREADS"]
    done = subprocess.run(words, cwd=checkout, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "command not found" not in done.stderr
    return f"{calls.read_text()}exit code {done.returncode}\n".replace(str(checkout), "CHECKOUT")


def directives() -> str:
    """The options that the scripts give to sbatch themselves."""
    found = {name: re.findall(r"^#SBATCH .*", (ROOT / "slurm" / name).read_text(), re.MULTILINE) for name in SCRIPTS}
    return "".join(f"== {name} ==\n" + "\n".join(lines) + "\n\n" for name, lines in found.items())


def test_what_the_jobs_ask_of_slurm(checkout):
    told = directives()
    submitted = call(checkout, shlex.split(f"python -m {SWEEP}"), {})
    told += f"== {SWEEP} ==\n{submitted}\n"
    for title, (script, variables, flags, settings) in CASES.items():
        (checkout / "slurm" / "cluster.env").write_text(settings)
        asked = call(checkout, ["bash", f"slurm/{script}", *flags.split()], variables)
        told += f"== {script}: {title} ==\n{asked}\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(told)
    assert told == GOLDEN.read_text()


def test_the_example_of_settings_can_be_sourced_before_sbatch():
    told = run(["bash", "-euc", "source slurm/cluster.env.example && env"]).stdout
    assert "SBATCH_PARTITION=gpu\n" in told
    assert "SBATCH_TIMELIMIT=12:00:00\n" in told


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").iterdir()), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    run(["shellcheck", "--external-sources", str(path)])
