"""What a run runs on, as it notes it for those who look at it later."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distrib import __version__
from distrib.lifecycle.files import write_whole
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.processes import Processes, host

PACKAGES = ("torch", "torchvision", "accelerate", "datasets", "wandb", "safetensors", "numpy", "pillow")


def environment(processes: Processes) -> dict[str, Any]:
    """Versions, commit, command, world and devices, for ``environment.json``."""
    return {
        "distrib": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "commit": _commit(),
        "command": [sys.executable, *sys.argv],
        "host": host(),
        "world_size": processes.size,
        "device": str(processes.device),
        "device_name": device_name(processes.device),
        "precision": processes.precision,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def write_environment(folder: RunFolder, processes: Processes, numerics: dict[str, Any]) -> None:
    """Note what the run runs on now, and what the last bits of its numbers depend on."""
    text = json.dumps(environment(processes) | {"numerics": numerics}, indent=1)
    write_whole(folder.path / "environment.json", text + "\n")


def device_name(device: torch.device) -> str:
    """The device as a person would call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores" if device.type == "cpu" else device.type
    )


def _commit() -> str | None:
    """Commit of the code that runs, with ``+`` if it was changed since; None outside a git checkout."""
    root = Path(__file__).parents[2]
    try:
        run = subprocess.run(  # noqa: S603 - git with fixed words
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() if (root / ".git").exists() else None
