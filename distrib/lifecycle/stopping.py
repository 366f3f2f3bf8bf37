"""Stopping on request: a signal sets a flag, and the run ends where everything can be saved."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

# Not SIGUSR1: NCCL may catch it, and torchrun's agent dies of it and leaves its workers behind.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
IMPATIENCE = 3.0  # seconds within which a second Ctrl-C means: now


class StopRequest:
    """While entered, remembers whether a signal asked this process to stop. The old handlers come back on leaving."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the signal that asked, if one did."""
        self._interrupted = 0.0

    def __enter__(self) -> Self:
        """Install the handlers."""
        self._old = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # Nothing but a flag: a handler runs between any two instructions, also in the middle of a save or a collective.
        if number == signal.SIGINT:
            now = time.monotonic()
            if self.signal and now - self._interrupted < IMPATIENCE:
                raise KeyboardInterrupt
            self._interrupted = now
        self.signal = signal.Signals(number).name
