"""A cluster for the tests: a real Slurm of two nodes inside this machine."""

import os
import shutil
import subprocess
import time

import pytest

from tests.launching import ROOT
from tests.slurm.jobs import slurm, try_slurm


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Start it, unless SLURM_CONF names one; stop it in the end."""
    if not all(map(shutil.which, ("sbatch", "slurmctld", "munged"))) or os.geteuid():
        pytest.skip("a local cluster needs Slurm and root: make slurm-test")
    script = str(ROOT / "slurm" / "local_cluster")
    subprocess.run([script, "start"], check=True, stdout=subprocess.DEVNULL)
    told = subprocess.run([script, "env"], check=True, capture_output=True, text=True).stdout
    os.environ["SLURM_CONF"] = told.strip().partition("=")[2]
    yield script
    subprocess.run([script, "stop"], check=True)


@pytest.fixture(autouse=True)
def no_jobs_are_left(cluster):
    """Cancel what a test that failed has left: it would keep the nodes from the next one."""
    yield
    while left := slurm("squeue", "--noheader", "--format=%A").split():
        try_slurm("scancel", "--signal=KILL", *left)  # one that has ended meanwhile is an error to it
        try_slurm("scancel", *left)
        time.sleep(0.2)  # leaves the cores to the jobs that end
