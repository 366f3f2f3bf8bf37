"""``distrib doctor``: what this machine is, how to train on it, and whether it could train as the flags ask."""

import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from distrib import command
from distrib.command import first_rank
from distrib.images.splits import ImageData
from distrib.images.workers import cores
from distrib.insight import machine, readiness
from distrib.insight.machine import NOTE, OK, PROBLEM, Finding
from distrib.insight.readiness import Prospect
from distrib.insight.summary import aligned
from distrib.lifecycle.ending import BAD_SETTINGS, FINISHED, Ending
from distrib.lifecycle.opening import recall
from distrib.lifecycle.preflight import check_ranks, who
from distrib.lifecycle.processes import REFUSALS, Processes, host, start
from distrib.settings import Settings, SettingsError

T = TypeVar("T")


class Report:
    """What was found, printed at once, by the first rank alone."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def say(self, *lines: str) -> None:
        """Print lines."""
        if first_rank():
            print("\n".join(lines), flush=True)

    def tell(self, name: str, *findings: Finding) -> None:
        """Print findings of one check."""
        for level, text in findings:
            self.counts[level] += 1
            self.say(f"{level:<7}  {name:<10}  {text}")

    def attempt(self, name: str, call: Callable[[], T]) -> T | None:
        """What ``call`` returns; None, and a problem, if it refuses."""
        try:
            return call()
        except REFUSALS as refusal:
            self.tell(name, (PROBLEM, str(refusal)))
            return None

    def check(self, name: str, call: Callable[[], list[Finding]]) -> bool:
        """Print what ``call`` finds; tell whether it did not refuse."""
        found = self.attempt(name, call)
        self.tell(name, *(found or ()))
        return found is not None

    def verdict(self) -> str:
        """All in one line."""
        counted = ", ".join(f"{self.counts[level]} {level}" for level in (PROBLEM, NOTE) if self.counts[level])
        return f"{'not ' if self.counts[PROBLEM] else ''}ready to train{f' ({counted})' if counted else ''}"


def main(arguments: list[str]) -> int:
    """Look at everything that the settings ask for; return the exit code: 2 if training could not do it."""
    settings = command.parse(arguments, prog="distrib doctor")
    os.environ["HF_DATASETS_OFFLINE"] = "1"  # to look is not to download; it is read when datasets is imported
    report = Report()
    with Ending() as ending:
        report.say(*aligned(machine.rows()), "")
        if "WORLD_SIZE" not in os.environ:
            report.say("how to train here:", *aligned(machine.launches(settings, arguments, os.environ)), "")
        settings = report.attempt("run folder", partial(recall, settings)) or settings
        processes = report.attempt("processes", partial(start, settings.compute))
        if processes is not None:
            ending.then(processes.close)
        examine(report, settings, processes)
        report.say("", report.verdict())
        if processes is not None:  # the first rank looked at more than the others, and all end alike
            report.counts[PROBLEM] = processes.agreed(lambda: report.counts[PROBLEM])
    return ending.code or (BAD_SETTINGS if report.counts[PROBLEM] else FINISHED)


def examine(report: Report, settings: Settings, processes: Processes | None) -> None:
    """Check everything: what concerns all processes on all of them, the rest on the first rank."""
    together = processes if processes is not None and processes.size > 1 else None
    if processes is not None:
        report.check("processes", partial(forms_one_world, processes))
    if together is not None and not report.check("ranks", partial(agree, settings, together)):
        together = None  # they may do other things from here on
    data: list[ImageData] = []
    if together is not None or first_rank():
        report.check("data", partial(readiness.data_set, settings.data, together, data))
    if first_rank():
        world, here = (processes.size, processes.local_size) if processes is not None else (1, 1)
        if processes is not None:
            look_at_machine(report, settings, processes)
        report.check("run folder", partial(readiness.run_folder, settings))
        report.check("W&B", partial(readiness.tracking, settings))
        shared = report.check("batch", partial(readiness.batch, settings, world))
        for loaded in data if shared else ():
            look_ahead(report, partial(Prospect.of, settings, loaded, world), here)


def look_at_machine(report: Report, settings: Settings, processes: Processes) -> None:
    """Check what depends on the device and the launcher."""
    report.check("device", partial(machine.precisions, settings.compute, os.environ))
    if processes.device.type == "cpu":
        counts = (torch.get_num_threads(), processes.local_size, cores())
        asked = settings.compute.threads is not None or settings.compute.exact
        report.check("threads", partial(machine.threads, *counts, asked=asked))
    if "WORLD_SIZE" not in os.environ:
        report.check("port", partial(machine.ports, os.environ))


def look_ahead(report: Report, build: Callable[[], Prospect], here: int) -> None:
    """Check the run that could be, and show its plan."""
    prospect = report.attempt("training", build)
    if prospect is None:
        return
    report.check("training", prospect.what)
    report.check("disk", prospect.disk)
    report.check("memory", partial(prospect.memory, here))
    report.say("", *prospect.curve())


def forms_one_world(processes: Processes) -> list[Finding]:
    """Who is there, proved by a sum over all processes."""
    if processes.size == 1:
        if machine.alone(os.environ, processes.device.type):
            return [(NOTE, "`accelerate launch` starts but one process on CPUs: launch/cpu.sh N starts several")]
        return [(OK, f"one, on {processes.device}")]
    hosts = processes.gather(host())
    seconds, total = timed_sum(processes)
    expected = processes.size * (processes.size + 1) // 2
    if total != expected:
        raise SettingsError(
            f"a sum over the {processes.size} processes gave {total:g} instead of {expected}: what they send one "
            "another is damaged. Look at drivers and cables; for GPUs of one host, try NCCL_P2P_DISABLE=1"
        )
    present = who(range(processes.size), hosts)
    return [(OK, f"{processes.size} form one world: {present}; they add up 4 MiB in {1e3 * seconds:.1f} ms")]


def timed_sum(processes: Processes) -> tuple[float, float]:
    """Seconds that a sum of 4 MiB over all processes takes, and one of its elements; each rank adds its rank + 1."""
    seconds, total = 0.0, 0.0
    for _ in range(2):  # the first one makes the connections
        mine = torch.full((2**20,), processes.rank + 1.0, device=processes.device)
        processes.gather(None)
        began = time.perf_counter()
        torch.distributed.all_reduce(mine)
        total = float(mine[-1])  # waits for the device
        seconds = time.perf_counter() - began
    return seconds, total


def agree(settings: Settings, processes: Processes) -> list[Finding]:
    """Whether the ranks were given the same, and see the same folder."""
    notes = check_ranks(settings, processes)
    return [(OK, "same settings, code and versions; one run folder for all"), *((NOTE, note) for note in notes)]
