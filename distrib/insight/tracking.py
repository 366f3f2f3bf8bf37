"""Weights & Biases, fed from the journal by one thread of its own, so that no trouble of W&B reaches the training.

W&B cannot rewind, yet a run that was killed computes and journals the updates after its checkpoint a second time. Two
small files in the run folder's ``wandb/`` keep its history whole: ``run_id``, so that every start of the run is the
same run to W&B, and ``sent``, the highest update and epoch handed over so far.
"""

import json
import netrc
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from distrib.insight import findings
from distrib.insight.tables import tables
from distrib.lifecycle.files import write_whole
from distrib.lifecycle.folder import RunFolder

Record = dict[str, Any]

PREFIXES = {"update": "train", "epoch": "epoch"}
ENVIRONMENT_MODES = {"online": "online", "offline": "offline", "disabled": "off"}


def mode(choice: str, environment: Mapping[str, str]) -> str:
    """Return ``online``, ``offline`` or ``off``.

    Any ``choice`` but ``auto`` stands as it is. ``auto`` follows ``WANDB_MODE`` where that is set, else it is online if
    a key is configured.
    """
    if choice != "auto":
        return choice
    asked = ENVIRONMENT_MODES.get(environment.get("WANDB_MODE", ""))
    return asked or ("online" if has_key(environment) else "off")


def has_key(environment: Mapping[str, str]) -> bool:
    """Tell whether ``WANDB_API_KEY`` or the netrc file holds a key for the W&B server. The key itself is not kept."""
    if environment.get("WANDB_API_KEY"):
        return True
    home = Path(environment.get("HOME") or Path.home())
    named = environment.get("NETRC")
    files = [Path(named).expanduser()] if named else [home / ".netrc", home / "_netrc"]
    server = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        file = next((file for file in files if file.exists()), None)
        login = netrc.netrc(file).authenticators(server) if file else None
    except (netrc.NetrcParseError, OSError):
        return False
    return bool(login and login[2])


class Tracker:
    """A sink of the journal that shows the run on W&B, or keeps it in files that ``wandb sync`` sends later."""

    def __init__(
        self,
        folder: RunFolder,
        project: str,
        mode: str,
        config: dict[str, Any],
        *,
        image: Callable[[int], Image.Image] | None = None,
        patience: float = 60.0,
    ) -> None:
        """Begin to start W&B in the background; raises nothing that is W&B's fault.

        ``mode`` is ``online`` or ``offline``, and ``patience`` is how long ``close`` may take, in seconds. ``image``
        gives a test image by its index; without it, the findings of the report are not shown.
        """
        self._folder = folder
        self._options: dict[str, Any] = {"name": folder.name, "project": project, "mode": mode, "config": config}
        self._image, self._patience = image, patience
        self._failed = threading.Event()
        self._records: queue.SimpleQueue[list[Record] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
        self._thread.start()

    def write(self, records: list[Record]) -> None:
        """Leave update and epoch records for W&B, and return at once."""
        if not self._failed.is_set():
            self._records.put([record for record in records if record["kind"] in PREFIXES])

    def close(self) -> None:
        """Have everything sent; return after ``patience`` seconds at most."""
        self._records.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._fail(f"not everything was sent within {self._patience:g} s")

    def _serve(self) -> None:
        try:
            run = start(self._folder.path, self._patience / 2, self._options)
            sent = Sent(self._folder.path / "wandb" / "sent")
            while (records := self._records.get()) is not None:
                for record in sent.take_new(records):
                    run.log(row(record))
            self._show_findings(run)
            finish(run)
        except Exception as error:  # noqa: BLE001 - nothing of W&B's may end a run
            self._fail(f"{type(error).__name__}: {error}")

    def _show_findings(self, run: Any) -> None:
        """Show what the report of a finished run found out, if there is one."""
        found = findings.load(self._folder.findings) if self._image is not None else None
        if found is not None and self._image is not None:
            run.log({"update": found.update} | tables(found, self._image))

    def _fail(self, reason: str) -> None:
        if self._failed.is_set():
            return
        self._failed.set()
        line = " ".join(reason.split())
        print(f"W&B: {line}; the run goes on without it; metrics.jsonl has everything", file=sys.stderr, flush=True)


class Sent:
    """The highest update and epoch handed to W&B, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._highest = {"update": 0, "epoch": 0} | (json.loads(file.read_text()) if file.exists() else {})

    def take_new(self, records: list[Record]) -> list[Record]:
        """Return the records that were never handed over, and note them as handed over.

        The note comes before the records go out: a kill in between leaves a gap on W&B, never an update twice.
        """
        new = []
        for record in records:
            kind = record["kind"]
            if record[kind] > self._highest[kind]:
                self._highest[kind] = record[kind]
                new.append(record)
        if new:
            write_whole(self._file, json.dumps(self._highest))
        return new


def row(record: Record) -> Record:
    """Return what W&B gets of an update or epoch record: ``train/loss``, ``epoch/test_top1``, and where that was."""
    prefix = PREFIXES[record["kind"]]
    axes = {axis: record[axis] for axis in ("update", "epoch")}
    return axes | {f"{prefix}/{key}": value for key, value in record.items() if key != "kind" and key not in axes}


def start(folder: Path, patience: float, options: dict[str, Any]) -> Any:
    """Start or continue the W&B run of a run folder; starting and finishing take ``patience`` seconds each at most.

    ``options`` are the name, project, mode and config of ``wandb.init``. Raises whatever W&B raises, and
    ``RuntimeError`` if no key is configured.
    """
    # Its reports about itself would hold up the exit by ten more seconds where its server cannot be reached.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415 - it takes a second, which belongs to this thread

    # What says where the code ran is left out: remotes and command lines can hold secrets, and environment.json has
    # the rest. Both time limits are below the one of close, since at exit W&B waits for its own process to end.
    settings = wandb.Settings(
        mode=options["mode"],
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        use_dot_wandb=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=1.0,  # seconds of an offline run's history that a kill can cost
        init_timeout=patience,
        finish_timeout=patience,
        finish_timeout_raises=True,
    )
    wandb.setup(settings)
    # W&B would ask for a key on the terminal, from a thread that nobody expects to read it.
    if options["mode"] == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no key is configured (see `wandb login`)")
    run = wandb.init(dir=folder, id=run_id(folder / "wandb" / "run_id"), resume="allow", settings=settings, **options)
    # An axis of our own: W&B's own step only ever counts calls, and could not be given again after a restart.
    run.define_metric("update")
    run.define_metric("*", step_metric="update")
    return run


def finish(run: Any) -> None:
    """Finish the run, and wait for W&B's own process to end: only then is the file of an offline run whole."""
    import wandb  # noqa: PLC0415

    run.finish()
    wandb.teardown()


def run_id(file: Path) -> str:
    """Return the W&B id that the file holds; the first call makes one."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, secrets.token_hex(4))
    return file.read_text().strip()
