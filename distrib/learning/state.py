"""The state of training: everything that an update changes, and how it goes into a checkpoint and comes back."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from distrib.learning.averaging import WeightAverage, averaged_statistics, load_statistics
from distrib.learning.compression import PowerSGD
from distrib.learning.copies import Copies
from distrib.learning.meter import EpochSums
from distrib.learning.optimizers import load_optimizer_tensors, optimizer_tensors
from distrib.learning.patience import EarlyStop, Plateau
from distrib.lifecycle.checkpoints import STATE, Checkpoint, Tensors
from distrib.lifecycle.processes import Processes
from distrib.settings import SettingsError


@dataclass
class Progress:
    """Where a run stands: all that is no tensor."""

    plateau: Plateau
    early_stop: EarlyStop
    update: int = 0
    """Updates done."""
    epoch: int = 0
    """Epochs done."""
    test_top1: float | None = None
    """Test accuracy of the weights as they are, of 1, if they were just evaluated."""
    best_top1: float | None = None
    """Best test accuracy so far, of 1."""
    bad_updates: int = 0
    """Updates in a row that were left out for not being finite, up to the last one."""
    finished: bool = False
    sums: EpochSums = field(default_factory=EpochSums)
    """Sums over the unfinished epoch."""

    def load(self, saved: dict[str, Any]) -> None:
        """Take the values that :func:`dataclasses.asdict` gave of another.

        Raises:
            KeyError, TypeError: they are none.
        """
        for name, value in vars(remade(Progress, saved)).items():
            setattr(self, name, value)


T = TypeVar("T")


def remade(kind: type[T], saved: dict[str, Any]) -> T:
    """The dataclass, of plain values and of others like it, that :func:`dataclasses.asdict` gave ``saved`` of."""
    values = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = saved[each.name]
        if dataclasses.is_dataclass(each.type):
            value = remade(each.type, value)  # type: ignore[arg-type]
        elif not is_of(value, each.type):
            raise TypeError(f"{each.name} is {value!r:.80}")
        values[each.name] = value
    return kind(**values)


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a type: a whole number is a float, too, and a truth value is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))


@dataclass
class TrainState:
    """What an update changes. ``network`` is the plain module, not what Accelerate or DDP wrap around it."""

    network: nn.Module
    optimizer: Optimizer
    average: WeightAverage | None
    scaler: GradScaler | None
    progress: Progress
    compression: PowerSGD | None = None

    def tensors(self, processes: Processes, copies: Copies | None = None) -> dict[str, Tensors]:
        """The tensors, in named groups, as copies on rank 0's host; the others get none. Every process must call it.

        New ones, or those of ``copies``, which are overwritten the next time. What only the optimizer's step changes is
        then whole only after ``copies.wait()``, which must come before that step.

        ``model`` and ``ema`` hold statistics averaged over processes, so that each is a network as it was evaluated;
        ``statistics`` holds those of each process, with which the run itself goes on.
        """
        copied = Copies() if copies is None else copies
        groups: dict[str, Tensors] = {"optimizer": {}, "statistics": {}}
        if processes.is_main:
            groups["optimizer"] = copied.begin("optimizer", optimizer_tensors(self.network, self.optimizer))
        networks = {"model": self.network}
        if self.average is not None:
            networks["ema"] = self.average.network
        for group, network in networks.items():
            with averaged_statistics(network, processes) as stacked:
                groups[group] = copied_network(copied, group, network) if processes.is_main else {}
            own = {f"{group}/{name}": rows.contiguous() for name, rows in stacked.items()}
            groups["statistics"] |= own if processes.is_main else {}
        if self.compression is not None:
            groups["compression"] = self.compression.tensors(processes)
        if copies is None:
            copied.wait()
        return groups

    def counters(self) -> dict[str, Any]:
        """Everything else, as JSON types."""
        return dataclasses.asdict(self.progress) | {"scaler": self.scaler.state_dict() if self.scaler else None}

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint, processes: Processes) -> None:
        """Go back to a checkpoint. Every process reads it.

        A process takes its own statistics again where as many processes wrote them, else the averaged ones.

        Raises:
            SettingsError: it is not one that this run could have written.
        """
        self._restore_counters(checkpoint)
        load_weights(self.network, checkpoint.tensors("model"), str(checkpoint.path))
        slots = checkpoint.tensors("optimizer")
        check_slots(self.network, slots, str(checkpoint.path))
        load_optimizer_tensors(self.network, self.optimizer, slots)
        if self.average is not None:
            load_weights(self.average.network, checkpoint.tensors("ema"), str(checkpoint.path))
        own = checkpoint.tensors("statistics")
        if own and len(next(iter(own.values()))) == processes.size:
            mine = {name: rows[processes.rank] for name, rows in own.items()}
            load_statistics(self.network, of_group("model", mine))
            if self.average is not None:
                load_statistics(self.average.network, of_group("ema", mine))
        if self.compression is not None:
            self.compression.load(checkpoint.tensors("compression"), processes)

    def _restore_counters(self, checkpoint: Checkpoint) -> None:
        counters = checkpoint.state
        try:
            self.progress.load(counters)
            scaler = counters["scaler"]
            if self.scaler is not None and scaler:
                self.scaler.load_state_dict(scaler)
            if not is_of(counters["world_size"], int):
                raise TypeError("world_size is no number")  # noqa: TRY301 - as what the others raise
        except (KeyError, TypeError) as error:
            raise SettingsError(
                f"{checkpoint.path / STATE} is not what training wrote ({type(error).__name__}: {error}). Remove that "
                "checkpoint, and the run goes on from the one before"
            ) from None


def copied_network(copies: Copies, group: str, network: nn.Module) -> Tensors:
    """Copies of a network's tensors: begun of its weights, at once of its statistics, which a forward pass changes."""
    weights = {name: weight.detach() for name, weight in network.named_parameters(remove_duplicate=False)}
    statistics = {name: tensor for name, tensor in network.state_dict().items() if name not in weights}
    return copies.of(f"{group}'s statistics", statistics) | copies.begin(group, weights)


def of_group(group: str, tensors: Tensors) -> Tensors:
    """Those tensors whose names begin with ``group/``, by the rest of their names."""
    return {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}


def load_weights(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy weights into the network, keeping its memory format.

    Raises:
        SettingsError: they are another network's; names the first differences.
    """
    check_weights(network, weights, source)
    network.load_state_dict(weights)


def check_weights(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Raise ``SettingsError`` unless they are this network's; it may be of the meta device."""
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not part of the network" for name in weights if name not in own]
    for name, tensor in own.items():
        given = weights.get(name, tensor)
        if given.shape != tensor.shape:
            wrong.append(f"{name} is {tuple(given.shape)}, not {tuple(tensor.shape)}")
        elif given.is_floating_point() != tensor.is_floating_point():
            wrong.append(f"{name} holds {given.dtype}, not {tensor.dtype}")
    if wrong:
        raise SettingsError(f"the weights in {source} are of another network: {'; '.join(wrong[:3])}")


def check_slots(network: nn.Module, slots: Tensors, source: str) -> None:
    """Refuse an optimizer's tensors that do not go with the network: each is a number, or as large as its parameter.

    Raises:
        SettingsError: names the first.
    """
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    for key, tensor in slots.items():
        shape = shapes.get(key.rpartition("/")[0])
        if shape is None or tensor.shape not in (shape, ()):
            raise SettingsError(f"the optimizer in {source} is of another network: {key} is {tuple(tensor.shape)}")
