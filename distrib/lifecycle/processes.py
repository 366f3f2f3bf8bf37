"""The processes of a run: device, process group and precision, through Accelerate."""

import contextlib
import os
import resource
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object

from distrib.images.decoding import ImageError
from distrib.lifecycle import launch
from distrib.lifecycle.allocator import keep_pages
from distrib.lifecycle.ending import Ending, Failed, Finished
from distrib.settings import Compute, Precision, SettingsError, require

# Long enough for one process to download or decode while the others wait. Not 600 s, Accelerate's own default: it
# passes on only what differs from its defaults, and gloo would then wait 1,800 s.
TIMEOUT = timedelta(hours=1)

REFUSALS = (SettingsError, ImageError, Failed, Finished)  # what ends a run on all ranks together

PRECISIONS: dict[str, Precision] = {"no": "fp32", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FOREIGN = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--micro-batch divides what a process computes at once"),
    "ACCELERATE_DYNAMO_BACKEND": ("NO", "--compile default compiles the network"),
    **dict.fromkeys(
        (f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")),
        ("FALSE", "each process holds the whole network"),
    ),
}
"""What Accelerate takes from its environment and would train otherwise by: what it may be, and what there is here."""


@dataclass(frozen=True)
class Processes:
    """This process among all those of the run, and what joins them."""

    accelerator: Accelerator
    precision: Precision
    """fp32, bf16 or fp16."""

    @property
    def rank(self) -> int:
        """This process among all; rank 0 speaks and writes."""
        return self.accelerator.process_index

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.accelerator.local_process_index

    @property
    def local_size(self) -> int:
        """Number of processes of its node."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size)) if self.size > 1 else 1

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions take: images are made so at once, as autocast would turn them into it anyway."""
        return TYPES[self.precision]

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def memory(self) -> int | None:
        """Bytes that this process holds: on a GPU the most that torch has held there so far; None if unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return None  # not Linux
        return int(pages) * resource.getpagesize()

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, by rank. Every process must call it."""
        return gather_object([item])

    def agreed(self, decide: Callable[[], Any]) -> Any:
        """What ``decide`` returns on rank 0, on every rank. Every process must call it; all raise what it refuses."""
        return self.together(decide if self.is_main else lambda: None)[0]

    def together(self, call: Callable[[], Any]) -> list[Any]:
        """What ``call`` returns on each rank, by rank. Every process must call it.

        If ``call`` refuses on any rank, every rank raises the first refusal: none waits for one that has left.
        """
        result, refusal, mistake = None, None, None
        try:
            result = call()
        except REFUSALS as error:
            refusal = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - a bug here, of which the others must hear before it ends this rank
            mistake, refusal = error, Failed(f"rank {self.rank} failed: {type(error).__name__}: {error}")
        outcomes = self.gather((result, refusal))
        if mistake is not None:
            raise mistake
        for _, refused in outcomes:
            if refused is not None:
                refused.everywhere = True
                raise refused
        return [result for result, _ in outcomes]

    def node_first(self, call: Callable[[], Any]) -> Any:
        """Call it in the first process of each node, then in the others, which find what that one has cached.

        Every process must call it; all raise what any of them refuses.
        """
        found: list[Any] = []
        for turn in (self.local_rank == 0, self.local_rank != 0):
            self.together(lambda turn=turn: found.append(call()) if turn else None)  # type: ignore[misc]
        return found[0]

    def stack(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` of all processes, (world, *shape), by rank. Every process must call it."""
        gathered: torch.Tensor = self.accelerator.gather(tensor.unsqueeze(0))
        return gathered

    def close(self, ending: Ending) -> None:
        """End the process group, unless this process leaves alone: the others may wait in it for what never comes."""
        if not ending.together:
            return
        # The first process to leave may take down what the others still use, such as the store of rank 0.
        with contextlib.suppress(RuntimeError):  # somebody was lost on the way, and this one has done all it had to
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()


def start(settings: Compute) -> Processes:
    """Start Accelerate on the device and with the precision that ``settings`` ask for.

    Raises:
        SettingsError: the device is absent, cannot do the precision, or the processes do not form one world; or
            Accelerate was told what would change the training.
    """
    check_launcher(os.environ)
    device = choose_device(settings.device, os.environ)
    precision = choose_precision(settings.precision, device, os.environ)
    # What it remembers of gradients would be of another scale than the next ones.
    scaled = precision == "fp16" and settings.comm == "powersgd"
    require(not scaled, "--comm powersgd does not go with fp16, which rescales gradients: use --precision bf16 or fp32")
    os.environ.update(launch.ranks(os.environ))
    if device == "cuda":
        check_gpus(os.environ, torch.cuda.device_count())
    if device == "cpu" and (name := launch.interface(os.environ)):
        os.environ["GLOO_SOCKET_IFNAME"] = name
    if settings.keep_pages and device == "cpu":
        keep_pages()
    choose_kernels(settings, device)
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # NCCL remembers its last collectives, to explain a hang
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        # Without this Accelerate starts no process group on a machine that has no GPU, and every process of
        # torchrun would believe it is the only one.
        cpu=device == "cpu",
        mixed_precision={"fp32": "no"}.get(precision, precision),
        kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    check_world(os.environ, accelerator.num_processes)
    return Processes(accelerator, precision)


def choose_kernels(settings: Compute, device: str) -> None:
    """Let the same kernels run each time: the promise of sameness comes before the last percent of speed."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # NVIDIA's GPUs multiply float32 numbers several times as fast if 10 bits of their fractions do. Exact is exact.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not settings.exact
    # Sums that NVIDIA's switches make may come out otherwise the next time.
    os.environ.setdefault("NCCL_ALGO", "^NVLS")
    threads = settings.threads
    if settings.exact:
        # What has no such kernel is refused with a message. They need not fill memory to be so.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # Their number shows in sums, and no launcher gives as many to any number of processes.
        threads = threads or (1 if device == "cpu" else None)
    if threads is not None:
        torch.set_num_threads(threads)


def choose_device(wanted: str, environment: Mapping[str, str]) -> str:
    """Resolve ``auto``, unless ``accelerate launch`` was told to use the CPU; refuse a device that is not there."""
    told_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes", "y", "t", "on")
    if told_cpu and wanted in ("auto", "cpu"):
        return "cpu"
    if told_cpu:
        raise SettingsError(f"--device {wanted}, but ACCELERATE_USE_CPU (`accelerate launch --cpu`) asks for the CPU")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, present in there.items() if present)
    if not there[wanted]:
        raise SettingsError(
            f"--device {wanted}: PyTorch sees no such device here; leave --device out to use what is there"
        )
    return wanted


def choose_precision(wanted: str, device: str, environment: Mapping[str, str]) -> Precision:
    """Resolve ``auto``: what ``accelerate launch`` was told, else bf16 where the device is fast at it, else fp32."""
    told = environment.get("ACCELERATE_MIXED_PRECISION") if wanted == "auto" else wanted
    if not told:
        return "bf16" if fast_at_bf16(device) else "fp32"
    if told not in PRECISIONS:
        raise SettingsError(f"`accelerate launch` asks for {told}, which is not supported: give --precision bf16")
    if told == "fp16" and device == "cpu":
        raise SettingsError("--precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
    return PRECISIONS[told]


def fast_at_bf16(device: str) -> bool:
    """Whether the device computes in bf16 natively."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))
    return False


def check_launcher(environment: Mapping[str, str]) -> None:
    """Refuse what would change the training, and is in no settings.

    Raises:
        SettingsError: says what, and what there is instead.
    """
    for name, (allowed, instead) in FOREIGN.items():
        told = environment.get(name, allowed)
        if told.upper() != allowed:
            raise SettingsError(
                f"{name}={told}, of `accelerate launch`, its configuration or the environment, would change the "
                f"training beside the settings; here {instead}. Take it away (`accelerate config`, or --config_file)"
            )


def check_gpus(environment: Mapping[str, str], visible: int) -> None:
    """Refuse processes of which each sees but some of the GPUs that they share out by their numbers.

    Raises:
        SettingsError: says how to let all see all of them.
    """
    local = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    if local > visible:
        raise SettingsError(
            f"{local} processes on a machine see {visible} GPU(s) each, and process N takes the GPU of number N: let "
            "each see one for each process (with Slurm, --gres=gpu:N in place of --gpus-per-task), or start fewer"
        )


def check_world(environment: Mapping[str, str], processes: int) -> None:
    """Refuse processes that were started together but would each train alone, writing the same files.

    Raises:
        SettingsError: says how to start them.
    """
    wanted = int(environment.get("WORLD_SIZE") or 1)
    if wanted > 1 and processes == 1:
        raise SettingsError(
            f"{wanted} processes were started (WORLD_SIZE), but this one sees no other: each would train alone. Start "
            "them with torchrun, srun or `accelerate launch`; on CPUs with launch/cpu.sh N"
        )
    if wanted != processes:
        raise SettingsError(
            f"{wanted} processes were started (WORLD_SIZE), but Accelerate formed a group of {processes}"
        )


def host() -> str:
    """This machine's name."""
    return socket.gethostname()
