"""One run, one writer: a lock on the run folder that the system lets go of however its holder ends."""

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import IO

from distrib.lifecycle.ending import Ending
from distrib.lifecycle.processes import host
from distrib.settings import SettingsError

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some cluster file systems know no locks


class Lock:
    """Held from :meth:`take` until it is released or the process ends.

    A POSIX record lock: the kernel, or the file server, releases it even after a kill -9, and forked data workers that
    outlive their parent by some seconds do not inherit it.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def take(self, folder: Path) -> None:
        """Take the lock of a run folder.

        Raises:
            SettingsError: another process has it; names its host and pid.
        """
        self._file = (folder / "lock").open("a+b", buffering=0)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                print(f"NOTE: no locks on the file system of {folder}: start this run only once", file=sys.stderr)
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            refusal = self._refusal(folder)
            self.release()
            raise SettingsError(refusal) from None
        holder = {"host": host(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # a full disk: it is held all the same
            self._file.truncate(0)
            self._file.write(json.dumps(holder).encode() + b"\n")

    def release(self, _ending: Ending | None = None) -> None:
        """Let go of it, if it was taken."""
        if self._file is not None:
            self._file.close()

    def _refusal(self, folder: Path) -> str:
        assert self._file is not None
        self._file.seek(0)
        try:
            holder = json.loads(self._file.read())
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
        except (ValueError, KeyError, TypeError, RecursionError):
            who = "another process"  # which has not yet said who it is
        return f"the run folder {folder} is in use by {who}. Wait until it ends, stop it, or choose another --name"
