"""What the last bits of a number depend on besides the program: the fingerprint of a machine's arithmetic."""

import ctypes
import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distrib.lifecycle.checkpoints import STATE, Checkpoint
from distrib.lifecycle.processes import Processes
from distrib.settings import Compute, SettingsError

Fingerprint = dict[str, Any]
HOUSE = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "simplejpeg")
MIXED = "not the same on all ranks"

# They let the compiler choose kernels by how long they take.
BY_TIMING = ("TORCHINDUCTOR_MAX_AUTOTUNE", "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM", "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING")
# They choose between kernels.
SWITCHES = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *BY_TIMING,
)


def fingerprint(processes: Processes, compute: Compute) -> Fingerprint:
    """Facts as JSON types. Where all are equal, the same kernels add the same numbers in the same order.

    Raises:
        SettingsError: the run is exact, but its kernels would be chosen by how long they take.
    """
    chosen = [name for name in BY_TIMING if os.environ.get(name) == "1"]
    if chosen and compute.exact and compute.compiled:
        raise SettingsError(
            f"--exact with --compile, but {' and '.join(chosen)} would choose kernels by timing: unset it"
        )
    facts: Fingerprint = {name: metadata.version(name) for name in PACKAGES}
    facts |= {"code": code_digest(HOUSE), "device": processes.device.type}
    if processes.device.type == "cuda":
        facts |= {"name": torch.cuda.get_device_name(processes.device), "cuda": torch.version.cuda}
        facts |= {"cudnn": torch.backends.cudnn.version(), "driver": driver_version()}
        # Not what the run asks for itself: somebody may have changed it from outside.
        facts |= {"tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]}
    else:
        facts |= {"threads": torch.get_num_threads(), **processor()}
    if compute.compiled:
        facts["compile"] = "inductor"
    return facts | {name: os.environ[name] for name in SWITCHES if name in os.environ}


def driver_version() -> int:
    """The newest CUDA that the NVIDIA driver can serve, such as 13000 for 13.0; asked of the driver itself."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def common(fingerprints: list[Fingerprint]) -> Fingerprint:
    """The fingerprint of all ranks, from that of each: where they differ, it says so."""
    first, *others = fingerprints
    names = dict.fromkeys(name for each in fingerprints for name in each)
    same = {name: all(other.get(name) == first.get(name) for other in others) for name in names}
    return {name: first[name] if same[name] else MIXED for name in names}


def inexact_since(numerics: list[Fingerprint]) -> int | None:
    """The update since which a run's numbers depend on where they were computed; None if they never did."""
    changed = [each["since"] for each in numerics[1:]]
    return 0 if MIXED in numerics[0].values() else min(changed, default=None)


def processor() -> Fingerprint:
    """The CPU by what libraries choose their kernels and block sizes from."""
    facts = torch.cpu.get_capabilities()
    able = sorted(name for name, value in facts.items() if value is True)
    sizes = {name: value for name, value in facts.items() if name.endswith("cache_size")}
    return {"cpu": facts.get("cpu_name") or facts.get("architecture"), **sizes, "instructions": " ".join(able)}


def numerics_of(checkpoint: Checkpoint) -> list[Fingerprint]:
    """The numerics that a checkpoint's run had until then, the newest last.

    Raises:
        SettingsError: it does not say.
    """
    found = checkpoint.state.get("numerics")
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise SettingsError(
            f"{checkpoint.path / STATE} does not say what its numbers were computed with. Remove that checkpoint, and "
            "the run goes on from the one before"
        )
    return found


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, as text: a name, and both values, or what was added and taken away of a list of words."""
    found = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "instructions" and isinstance(old, str) and isinstance(new, str):
            gone, come = sorted({*old.split()} - {*new.split()}), sorted({*new.split()} - {*old.split()})
            found.append(f"CPU instructions: {', '.join([f'no {word}' for word in gone] + come)}")
        else:
            found.append(f"{name} {old} is now {new}")
    return found


def code_digest(root: Path) -> str:
    """SHA-256 over the names and contents of all Python files below ``root``, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
