"""A cluster for the tests: a real Slurm of two nodes inside this machine."""

import os
import shutil
import subprocess

import pytest

from tests.launching import ROOT


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
