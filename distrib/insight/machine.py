"""What this machine offers to training, and the commands that start it here."""

import os
import platform
import queue
import shlex
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

import torch

from distrib import __version__
from distrib.images.order import can_share
from distrib.images.workers import cores
from distrib.lifecycle.environment import device_name
from distrib.lifecycle.preflight import bytes_text
from distrib.lifecycle.processes import choose_device, choose_precision, fast_at_bf16
from distrib.settings import Compute, Settings

OK, NOTE, PROBLEM = "ok", "NOTE", "PROBLEM"

Finding = tuple[str, str]
"""How bad it is, and what a person should know."""

Rows = list[tuple[str, str]]

DRIVER = Path("/proc/driver/nvidia/version")  # is there where NVIDIA's driver is loaded
PATIENCE = 3.0  # seconds that a server may take to answer
PORTS = {29500: "accelerate launch", 29400: "launch/multi_node.sh"}
"""Where processes meet, unless MASTER_PORT says otherwise, and who takes it."""


def rows() -> Rows:
    """Versions, GPUs and processor, as names and texts."""
    cuda = torch.version.cuda
    built = f"CUDA {cuda}, cuDNN {torch.backends.cudnn.version()}" if cuda else "without CUDA"
    others = ", ".join(f"{name} {metadata.version(name)}" for name in ("torchvision", "accelerate"))
    cpu, memory = device_name(torch.device("cpu")), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mine = f"{cores()} for this process, which takes {plural(torch.get_num_threads(), 'thread')}"
    return [
        ("versions", f"distrib {__version__}, Python {platform.python_version()}, torch {torch.__version__} ({built})"),
        ("", others),
        ("GPUs", gpus_text()),
        ("CPU", f"{cpu} ({mine}), {bytes_text(memory)}"),
    ]


def plural(count: int, noun: str) -> str:
    """So many of them."""
    return f"{count} {noun}{'' if count == 1 else 's' if not noun.endswith('s') else 'es'}"


def gpus_text() -> str:
    """The GPUs with their memory, or that there are none."""
    if torch.backends.mps.is_available():
        return "Apple's (MPS)"
    if not torch.cuda.is_available():
        old = f", though NVIDIA's driver is loaded: is it older than CUDA {torch.version.cuda} needs?"
        return f"none that PyTorch can use{old if torch.version.cuda and DRIVER.exists() else ''}"
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    kinds = Counter((gpu.name, gpu.total_memory) for gpu in found)
    return ", ".join(f"{count} x {name} ({bytes_text(memory)})" for (name, memory), count in kinds.items())


def precisions(compute: Compute, environment: Mapping[str, str]) -> list[Finding]:
    """The device and precision that training takes, and which precisions the device is good at.

    Raises:
        SettingsError: the device is absent, or cannot do the precision.
    """
    device = choose_device(compute.device, environment)
    taken = choose_precision(compute.precision, device, environment)
    asked = "what --precision auto takes" if compute.precision == "auto" else "as asked for"
    fast = fast_at_bf16(device)
    fp16 = {"cuda": "fast", "mps": "works"}.get(device, "needs a GPU")
    here = f"here bf16 {'is fast' if fast else 'works, slowly'}, fp16 {fp16}, fp32 works"
    slow = taken == "bf16" and not fast
    return [(NOTE if slow else OK, f"{device} in {taken}, {asked}; {here}")]


def launches(settings: Settings, flags: list[str], environment: Mapping[str, str]) -> Rows:
    """Purposes and commands: how to train with these flags on this machine."""
    given, wanted = shlex.join(flags), settings.compute.device
    gpus = torch.cuda.device_count() if wanted in ("auto", "cuda") else 0
    made = [("one process", f"python distrib/train.py {given}")]
    if gpus > 1:
        made += [
            (f"all {gpus} GPUs", f"launch/multi_gpu.sh {given}"),
            ("the same", f"accelerate launch --multi_gpu --num_processes {gpus} distrib/train.py {given}"),
        ]
    if wanted in ("auto", "cpu"):
        batch = settings.optimization.batch_size
        shares = settings.compute.shares
        able = [n for n in range(2, cores() + 1) if can_share(batch, shares(n), n)]
        made += [(f"{n} CPU processes", f"launch/cpu.sh {n} {given}") for n in able[:1]]
    if "SLURM_JOB_ID" in environment:
        nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
        first = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        step = f"srun --nodes={nodes} --ntasks-per-node=1 launch/multi_node.sh"
        made.append(("this Slurm job", f"NODES={nodes} MASTER_ADDR={first} {step} {given}"))
    made.append(("to check several", f"torchrun --standalone --nproc-per-node {gpus or 2} -m distrib doctor {given}"))
    if gpus == 0:
        made.append(("but not", "accelerate launch --num_processes N: on CPUs it starts one process, whatever N is"))
    return [(purpose, text.rstrip()) for purpose, text in made]


def alone(environment: Mapping[str, str], device: str) -> bool:
    """Whether ``accelerate launch`` started this process alone on the CPU, which it does for any --num_processes."""
    told = any(name.startswith("ACCELERATE_") for name in environment)
    return device == "cpu" and told and "WORLD_SIZE" not in environment


def threads(each: int, processes: int, available: int, *, asked: bool = False) -> list[Finding]:
    """Whether ``processes`` of this host with ``each`` so many threads use its ``available`` cores, and no more.

    That many may have been ``asked`` for, or be what an exact run takes.
    """
    share = max(1, available // processes)
    told = f"{plural(processes, 'process')} of {plural(each, 'thread')} on {plural(available, 'core')}"
    if each == share:
        return [(OK, told)]
    if asked and each < share:
        return [(OK, f"{told}, as asked for (--threads, or --exact)")]
    why = "they are in one another's way" if each > share else "launchers give each but one unless told otherwise"
    return [(NOTE, f"{told}: {why}. Set OMP_NUM_THREADS={share}, or start with launch/cpu.sh, which does")]


def ports(environment: Mapping[str, str]) -> list[Finding]:
    """Whether processes could meet where they do by default."""
    given = environment.get("MASTER_PORT", "")
    wanted = {int(given): "MASTER_PORT"} if given.isdecimal() else PORTS
    busy = [f"{port} ({whose})" for port, whose in wanted.items() if not free(port)]
    if not busy:
        return [(OK, f"free: {', '.join(map(str, wanted))}")]
    told = f"in use on this host: {', '.join(busy)}. Set MASTER_PORT to another one (accelerate: --main_process_port)"
    return [(NOTE, f"{told}; launch/cpu.sh and launch/multi_gpu.sh find one by themselves")]


def free(port: int) -> bool:
    """Whether nobody listens at a port of this host."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just been left is free
        try:
            tried.bind(("", port))
        except (OSError, OverflowError):
            return False
    return True


def unreachable(url: str) -> str | None:
    """Why the server of ``url`` does not answer; None if it does, whatever it says."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the user's own W&B, or ours
            urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            # It answered, unless this is a proxy that says it cannot reach it.
            answers.put(f"HTTP status {error.code}" if error.code >= 500 or error.code == 407 else None)
        except (OSError, ValueError, HTTPException) as error:
            answers.put(str(getattr(error, "reason", error)))
        else:
            answers.put(None)

    # In a thread, since no time limit holds for the look-up of a name.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return f"no answer within {PATIENCE:g} s"
