"""Starts the project's own commands as a user would: as processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "distrib" / "train.py"
TIMEOUT = 240  # seconds


def real_images() -> Path:
    """The folder of CIFAR-10 that DISTRIB_DATA leads to; skips the test where there is none."""
    cifar10 = Path(os.environ.get("DISTRIB_DATA", "absent")).absolute() / "cifar10"
    if not cifar10.is_dir():
        pytest.skip("DISTRIB_DATA names no folder with cifar10 in it")
    return cifar10


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would make a run differ, and without a network."""
    dropped = ("WANDB_", "SLURM_", "ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "OMP_", "FORCE_COLOR")
    dropped = (*dropped, "PYTHONDONTWRITEBYTECODE")  # hundreds of processes would each compile anew
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    nowhere = "http://127.0.0.1:9"
    here = str(Path(sys.executable).parent)
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{here}{os.pathsep}{kept['PATH']}",
        "https_proxy": nowhere,
        "http_proxy": nowhere,
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def command(script: Path, world: int) -> list[str]:
    """The beginning of a command that runs ``script`` in so many processes."""
    if world == 1:
        return [sys.executable, str(script)]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", str(script)]


def run(
    arguments: list[str], *, expect: int = 0, timeout: float = TIMEOUT, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a command from the repository's root to its end; one that takes too long says first where it hangs."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(PYTHONFAULTHANDLER="1", **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        abort(process)
        stdout, stderr = process.communicate()
        raise AssertionError(f"not ended after {timeout} s: {arguments}\n{stdout}\n{stderr}") from None
    done = subprocess.CompletedProcess(arguments, process.returncode, *output)
    assert done.returncode == expect, f"exit {done.returncode}, not {expect}\n{done.stdout}\n{done.stderr}"
    return done


def abort(process: subprocess.Popen[str]) -> None:
    """End a command and all that it started, each with the stacks of its threads: PYTHONFAULTHANDLER has them shown."""
    top = psutil.Process(process.pid)
    everyone = [top, *top.children(recursive=True)]
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()  # nobody ends another in the meantime
    for each in reversed(everyone):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGABRT)
            each.resume()
        wait_until_gone([each.pid])  # stacks shown at once could not be read


def train(
    *flags: object, world: int = 1, expect: int = 0, timeout: float = TIMEOUT, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Train with these flags."""
    return run(
        [*command(TRAIN, world), "--wandb=off", "--no-report", *map(str, flags)],
        expect=expect,
        timeout=timeout,
        **changes,
    )


def start_train(*flags: object, world: int = 1, **changes: str) -> subprocess.Popen[str]:
    """Start training in a process group of its own, and return at once."""
    return subprocess.Popen(
        [*command(TRAIN, world), "--wandb=off", "--no-report", *map(str, flags)],
        cwd=ROOT,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def journal(folder: Path) -> list[dict]:
    """The records of a run's journal."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def updates(folder: Path) -> list[dict]:
    """The update records of a run's journal."""
    return [record for record in journal(folder) if record["kind"] == "update"]


def follow(process: subprocess.Popen[str], folder: Path, enough: Callable[[dict], bool]) -> None:
    """Return as soon as the journal of a running process holds a record that is ``enough``."""
    file = folder / "metrics.jsonl"
    while process.poll() is None:
        text = file.read_text() if file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        if any(enough(json.loads(line)) for line in lines):
            return
        time.sleep(0.005)  # leaves the cores to the run
    raise AssertionError(f"the run ended first, with {process.returncode}:\n{process.stdout.read()}")


def pids(folder: Path) -> dict[int, int]:
    """Process ids of the ranks of a run, by rank, as their heartbeats give them."""
    texts = [file.read_text() for file in (folder / "heartbeats").glob("rank-*.json")]
    beats = [json.loads(text) for text in texts if text.rstrip().endswith("}")]  # written whole
    return {beat["rank"]: beat["pid"] for beat in beats}


def alive(pid: int) -> bool:
    """Whether a process is there, and not just waiting for its parent to notice that it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(processes: Iterable[int], seconds: float = 60) -> None:
    """Return once none of the processes is there any more."""
    end = time.monotonic() + seconds
    left = set(processes)
    while left := {pid for pid in left if alive(pid)}:
        assert time.monotonic() < end, f"processes {left} were left behind"


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each tensor file of the newest checkpoint, from its manifest."""
    newest = max((folder / "checkpoints").glob("update-*"))
    manifest = json.loads((newest / "manifest.json").read_text())
    return {name: digest for name, digest in manifest.items() if name.endswith(".safetensors")}
