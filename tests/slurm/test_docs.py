"""The commands of README and docs/ that need a cluster, run as they stand there but for what would make them long."""

import re
import shlex

import pytest

from tests.launching import journal
from tests.slurm.jobs import Job, queued, slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SHORT = "--data digits --train-images 256 --test-images 64 --epochs 1 --width 8 --batch-size 64 --wandb off --no-report"
COMMANDS = {
    "sbatch slurm/resnet.sh": 1,
    "sbatch --nodes=2 slurm/resnet.sh --config configs/resnet18_cosine.yaml --epochs 30": 2,
    "srun --ntasks=2 python distrib/train.py --model resnet18": 2,
}
"""How many processes each one trains in."""
SWEEP = "distrib sweep configs/sweeps/weight_decay.yaml"
STATUS = "distrib sweep status configs/sweeps/weight_decay.yaml"
ALL = {*COMMANDS, SWEEP, STATUS}


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_trains(tmp_path, line):
    words = shlex.split(f"{line} {SHORT} --out {tmp_path} --name job")
    told = slurm(*words, SBATCH_OUTPUT=str(tmp_path / "job.out"))
    if words[0] == "sbatch":
        job = Job(re.fullmatch(r"Submitted batch job (\d+)\n", told)[1], tmp_path)
        assert job.wait_until_over()["JobState"] == "COMPLETED", job.output
    first, *_, last = (record for record in journal(tmp_path / "job") if record["kind"] == "event")
    assert first["world_size"] == COMMANDS[line]
    assert (last["event"], last["exit_code"]) == ("end", 0)


def test_the_sweep_is_submitted_and_told_of(tmp_path):
    before = set(queued())
    told = slurm(*shlex.split(SWEEP), "--out", tmp_path, "--", "--hold")
    assert "submitted 6 of 6 runs as job array" in told
    table = slurm(*shlex.split(STATUS), "--out", tmp_path)
    assert "6 runs: 0 done, 0 running, 6 waiting, 0 failed" in table
    slurm("scancel", *(set(queued()) - before))
