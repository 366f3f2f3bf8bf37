"""What every rank does in the tests of preflight; writes what it saw to ``OUT/rank.json``.

Started as ``preflight_worker.py OUT`` it makes the last rank differ in one thing after another. Started as
``preflight_worker.py OUT train|doctor [FLAGS]`` it begins as the command of that name does, with the flags in the
environment variable ``ODD_FLAGS`` on the last rank alone.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from distrib import command
from distrib.images import sources
from distrib.insight import doctor
from distrib.lifecycle import preflight
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.preflight import check_data, check_ranks, image_facts
from distrib.lifecycle.processes import Processes, start
from distrib.settings import Compute, Data, Lifecycle, Optimization, Settings, SettingsError


def main() -> None:
    out, verb, flags = Path(sys.argv[1]), sys.argv[2:3], sys.argv[3:]
    if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
        flags += shlex.split(os.environ.get("ODD_FLAGS", ""))
    if verb == ["doctor"]:
        found: dict[str, Any] = {"code": doctor.main(flags)}
    elif verb == ["train"]:
        found = begun(flags)
    else:
        processes = start(Compute(device="cpu"))
        found = {"num_processes": processes.accelerator.num_processes} | differing(processes, out)
        processes.close(Ending())
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def begun(flags: list[str]) -> dict[str, Any]:
    """How a run ends that does no more than to look at its processes."""
    settings, count = command.parse(flags), 0
    with Ending() as ending:
        processes = start(settings.compute)
        count = processes.accelerator.num_processes
        ending.then(processes.close)
        check_ranks(settings, processes)
    return {"num_processes": count, "code": ending.code}


def differing(processes: Processes, out: Path) -> dict[str, Any]:
    """By what the last rank does otherwise, what all are told: the notes, or the refusal."""
    odd = processes.rank == processes.size - 1
    given = Settings(data=Data(data="digits"), lifecycle=Lifecycle(out=out / "runs"))
    other = {
        "nothing": given,
        "own": replace(given, data=Data(data="digits", data_root=Path("elsewhere"), workers=7)),
        "lr": replace(given, optimization=Optimization(lr=0.2)),
    }
    found: dict[str, Any] = {}
    for name, settings in other.items():
        found[name] = outcome(lambda s=settings: check_ranks(s if odd else given, processes))
    for name, facts in ENVIRONMENTS.items():
        with environment(facts if odd else {}):
            found[name] = outcome(lambda: check_ranks(given, processes))
    with edited(out) if odd else environment({}):
        found["code"] = outcome(lambda: check_ranks(given, processes))
    with environment({"commit": "f00d+"}) if odd else environment({}), edited(out) if odd else environment({}):
        found["code and commit"] = outcome(lambda: check_ranks(given, processes))
    found["folder"] = elsewhere(processes, out, odd=odd)
    (out / "file").touch()
    found["unwritable"] = outcome(lambda: check_ranks(within(given, out / "file" / "runs"), processes))
    found["data"] = outcome(lambda: check_data(facts_of_images(140 if odd else 150), processes))
    found["left behind"] = sorted(path.name for path in out.iterdir())
    processes.gather(None)
    return found


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "commit": {"commit": "f00d+"},
    "threads": {"threads": 77},
    "torch": {"packages": {"torch": "1.13.1", "torchvision": "0", "accelerate": "0", "numpy": "0", "pillow": "0"}},
    "python": {"python": "3.99"},
}


@contextmanager
def environment(changes: dict[str, Any]) -> Iterator[None]:
    """Within, this rank finds other versions on its host."""
    real = preflight.environment
    with mock.patch.object(preflight, "environment", lambda processes: real(processes) | changes):
        yield


@contextmanager
def edited(out: Path) -> Iterator[None]:
    """Within, this rank runs a copy of the package that somebody has edited."""
    copy = shutil.copytree(preflight.HOUSE, out / "copy" / "distrib", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "settings/__init__.py").open("a") as file:
        file.write("# edited\n")
    with mock.patch.object(preflight, "HOUSE", copy):
        yield
    shutil.rmtree(out / "copy")


def elsewhere(processes: Processes, out: Path, *, odd: bool) -> dict[str, Any]:
    """The last rank was started in another folder, so that its ``runs`` is another one."""
    here, place = Path.cwd(), out / ("there" if odd else "here")
    place.mkdir(exist_ok=True)
    os.chdir(place)
    try:
        return outcome(lambda: check_ranks(within(Settings(), Path("runs")), processes))
    finally:
        os.chdir(here)
        shutil.rmtree(place, ignore_errors=True)


def within(settings: Settings, out: Path) -> Settings:
    return replace(settings, lifecycle=replace(settings.lifecycle, out=out))


def facts_of_images(count: int) -> dict[str, Any]:
    return image_facts(sources.load("digits", Data(data="digits", train_images=count)))


def outcome(call: Any) -> dict[str, Any]:
    try:
        return {"notes": call()}
    except SettingsError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    main()
