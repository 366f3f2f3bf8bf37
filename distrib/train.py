"""Train an image classifier: parse, start, resolve, open, assemble, begin, fit.

Run it as ``python distrib/train.py``, under ``accelerate launch`` or torchrun, or through the scripts in launch/.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: Python puts this folder first, where our modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distrib import command
from distrib.lifecycle.leaving import leave
from distrib.lifecycle.stopping import StopRequest, end_with_launcher


def main(arguments: list[str] | None = None) -> int:
    """Train as the arguments ask; return the exit code."""
    end_with_launcher()
    settings = command.parse(sys.argv[1:] if arguments is None else arguments)
    from distrib.lifecycle.ending import Ending  # noqa: PLC0415

    with StopRequest() as stop, Ending(stop) as ending:
        # Only now, seconds of imports: a typo was answered before, and a signal is heeded from here on.
        from distrib.assembly import assemble, begin, resolve  # noqa: PLC0415
        from distrib.lifecycle.opening import open_run, recall  # noqa: PLC0415
        from distrib.lifecycle.processes import start  # noqa: PLC0415
        from distrib.lifecycle.watchdog import watch  # noqa: PLC0415

        settings = recall(settings)
        processes = start(settings.compute)
        ending.then(processes.close)
        settings = resolve(settings, processes)
        folder, checkpoint = open_run(settings, processes, ending)
        pulse = watch(folder.heartbeats, processes, settings.lifecycle.hang_timeout, ending)
        trainer = assemble(settings, processes, folder, checkpoint, stop, pulse)
        begin(trainer, resumed=checkpoint is not None, ending=ending)
        trainer.fit()
    return ending.code


if __name__ == "__main__":
    leave(main)
