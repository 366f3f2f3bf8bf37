"""What every rank does in ``test_exact.py``; rank 0 writes to ``OUT/found.json``.

Started as ``exact_worker.py OUT PRECISION``.
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from distrib import assembly
from distrib.learning import engine, exact
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.processes import Processes, start
from distrib.settings import Compute, Data, Lifecycle, Model, Optimization, Settings
from distrib.zoo import registry

VIRTUAL = 4
EXACT = Compute(device="cpu", exact=True, virtual_ranks=VIRTUAL)
BASE = Settings(
    model=Model(model="simplecnn", width=4),
    data=Data(data="digits", train_images=96, test_images=203),
    optimization=Optimization(batch_size=24, epochs=2, lr=0.05),
    compute=EXACT,
    lifecycle=Lifecycle(log_every=3),
)


class Dropping(nn.Module):
    """A network with dropout in front of the network of the zoo, and a parameter that takes no part."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.drop, self.unused = inner, nn.Dropout(0.3), nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(self.drop(images))


def settings(**groups: dict[str, object]) -> Settings:
    """The base with other settings."""
    changed = {name: dataclasses.replace(getattr(BASE, name), **values) for name, values in groups.items()}
    return dataclasses.replace(BASE, **changed)


CASES = {
    "sgd": settings(optimization={"micro_batch": 4, "nesterov": True, "clip_norm": 0.5, "ema_decay": 0.9}),
    "adam": settings(optimization={"optimizer": "adam", "clip_value": 0.001, "label_smoothing": 0.1}),
    "adamw": settings(
        optimization={"optimizer": "adamw", "decay_norms": False},
        schedule={"schedule": "plateau", "plateau_patience": 0, "early_stop_patience": 5},
    ),
    "resnet": settings(model={"model": "resnet18", "width": 8}, augmentation={"flip": "random", "cutout": 3}),
    "decoded": settings(
        data={"image_size": 16, "loading": "workers", "workers": 1}, augmentation={"policy": "autoaugment-cifar10"}
    ),
    "no statistics": settings(data={"image_size": 32}, model={"model": "torchvision/squeezenet1_1", "width": None}),
    "muon": settings(
        model={"model": "speednet", "first_weights": "both"},
        data={"image_size": 20},
        augmentation={"start_size": 16},
        optimization={"optimizer": "muon", "bias_lr": 2.0},
        schedule={"schedule": "linear"},
    ),
    "contiguous": settings(compute={"channels_last": False}, model={"model": "resnet9", "width": 4}),
}


def trained(processes: Processes, out: Path, asked: Settings) -> dict[str, object]:
    """SHA-256 of all that an update changes after a whole run, and the journal."""
    folder = RunFolder(out)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    made = assembly.assemble(asked, processes, folder, None, SimpleNamespace(signal=None, at_once=False), Pulse())
    made.fit()
    made.reduction.close()
    made.journal.close()
    found: dict[str, object] = {"ranks": processes.gather(digests(made.state))}
    rows = [json.loads(line) for line in folder.journal.read_text().splitlines()] if processes.is_main else []
    timed = ("images_per_second", "data_wait_share", "memory", "seconds", "wait", "time")
    found["journal"] = [{k: v for k, v in row.items() if k not in timed} for row in rows if row["kind"] != "event"]
    found["progress"] = dataclasses.asdict(made.state.progress) | {"sums": None}
    return found


def digests(state: engine.TrainState) -> dict[str, str]:
    """SHA-256 by group of tensors: of this rank's own, not averaged ones."""
    groups = {"network": state.network.state_dict()}
    if state.average is not None:
        groups["average"] = state.average.network.state_dict()
    groups["optimizer"] = {
        f"{number}/{slot}": tensor
        for number, slots in enumerate(state.optimizer.state.values())
        for slot, tensor in slots.items()
        if isinstance(tensor, Tensor)
    }
    return {name: digest(tensors) for name, tensors in groups.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors' bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    exact.BUCKET = 2000  # several of them, also in small networks
    out, precision = Path(sys.argv[1]), sys.argv[2]
    processes = start(dataclasses.replace(EXACT, precision=precision))
    real = registry.build
    found: dict[str, object] = {"world": processes.size}
    for name, asked in CASES.items():
        found[name] = trained(processes, out / name, asked)
    assembly.registry = SimpleNamespace(build=lambda *a, **k: Dropping(real(*a, **k)))
    found["dropout"] = trained(processes, out / "dropout", BASE)
    assembly.registry = registry
    fast = settings(compute={"exact": False, "virtual_ranks": 8})
    found["fast"] = trained(processes, out / "fast", fast)
    if processes.is_main:
        (out / "found.json").write_text(json.dumps(found))
    processes.close(Ending())


if __name__ == "__main__":
    main()
