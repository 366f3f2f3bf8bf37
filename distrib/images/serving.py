"""Processes that decode: how they begin, heed signals and end, whatever they decode."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader

from distrib.images.decoding import ImageError

# What asks a training process for a clean stop. Where nobody can tell who sent a signal (macOS), SIGTERM ends a worker.
REQUESTS = {signal.SIGINT, signal.SIGUSR2} | ({signal.SIGTERM} if hasattr(signal, "sigwaitinfo") else set())

PATIENCE = 5.0  # seconds in which a forked process has begun, if it ever does; twice as long for the next


class Forked(ForkProcess):
    """A process that another replaces, before anybody knows of it, if it does not begin.

    A fork copies locks as they are, but not the threads that hold them. A thread of gloo that lets go of a tensor holds
    the lock of Python's thread states for a moment. Before Python 3.11.8 a process born in that moment waited for it
    for ever: https://github.com/python/cpython/issues/112275.
    """

    born: Connection
    """Closed in the new process once it has begun."""

    @staticmethod
    def _Popen(process: "Forked") -> Popen:  # type: ignore[override] # noqa: N802 - what start() calls
        patience = PATIENCE
        while True:
            told, process.born = multiprocessing.Pipe(duplex=False)
            with told:
                with process.born:
                    child = Popen(process)
                if told.poll(patience):  # closed on the other side, too: it has begun, or it is dead
                    return child
            child.kill()
            child.wait()
            child.close()
            patience *= 2


class Fork(ForkContext):
    """For a loader, in place of ``fork``."""

    Process = Forked


def served_by(workers: int) -> dict[str, Any]:
    """What a DataLoader is to be given for so many worker processes; 0: none, it decodes in this one."""
    if workers == 0:
        return {"num_workers": 0}
    fork = Fork() if multiprocessing.get_start_method() == "fork" else None
    return {
        "num_workers": workers,
        "worker_init_fn": partial(_serve, os.getpid()),
        "multiprocessing_context": fork,
    }


def _serve(training: int, _: int) -> None:
    """In a worker: go on whatever asks the job to stop, as the process ``training`` needs its workers until it saved.

    Clusters send SIGTERM or SIGUSR2 to every process of a job, and a terminal SIGINT. But torch and Python end the
    workers that are left by a SIGTERM of the training process itself, and would wait for ever for one that ignored it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    if signal.SIGTERM in REQUESTS:
        Thread(target=_heed, args=(training,), daemon=True).start()
    process = multiprocessing.current_process()
    if isinstance(process, Forked):
        process.born.close()


def _heed(training: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)


@contextmanager
def _starting() -> Iterator[None]:
    """While workers may be started: they are born with those signals blocked, and torch's handler of SIGCHLD goes.

    When a worker dies, that handler raises wherever the training process happens to be, also in the middle of a save.
    Without it the loader finds out, a few seconds later, when it waits for what the worker owes.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def lost(error: Exception) -> ImageError | None:
    """What to say if it tells of a worker that is gone, or has no room, and not of a mistake in what it ran."""
    told = str(error)
    if "shared memory" in told:
        return ImageError(
            "no room is left in shared memory (/dev/shm) for decoded images: use fewer --workers or a smaller "
            "--micro-batch, or give the container more (docker run --shm-size 8g)"
        )
    if told.startswith("Caught"):
        return None
    return ImageError(
        f"a process that decodes images was lost ({told}), most often because memory ran out: use fewer --workers, or "
        "give the job more memory"
    )


def served(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the worker processes of a loader send, in order.

    Raises:
        ImageError: a worker died, or has no room for what it decoded.
    """
    try:
        with _starting():
            batches = iter(loader)
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        # No name for it: it knows this frame, which would know it, and so live on with the loader's pipes.
        raise (lost(error) or error) from None
