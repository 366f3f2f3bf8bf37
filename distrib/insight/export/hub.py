"""A folder as the Hugging Face Hub shows models, which is at the same time a run that distrib opens."""

import json
import shlex
import shutil
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import HFValidationError, validate_repo_id

from distrib.insight.export import sketch
from distrib.insight.export.card import card
from distrib.insight.export.formats import Logits
from distrib.insight.export.subject import Subject
from distrib.insight.history import load_history
from distrib.insight.runs import load_run
from distrib.lifecycle import checkpoints
from distrib.lifecycle.ending import Failed
from distrib.lifecycle.files import write_whole
from distrib.lifecycle.folder import RunFolder
from distrib.settings import SettingsError

STATED = ("update", "epoch", "finished", "data")  # of a checkpoint's state: what is not for going on with training


def write_folder(subject: Subject, folder: Path) -> None:
    """Write settings and a checkpoint that holds but the weights, and beside them what others read: card and config.

    Raises:
        SettingsError: the run's journal is not there, or damaged.
    """
    run = subject.run
    history = load_history(run.folder.journal)
    state = run.checkpoint.state
    checkpoints.write(folder, {"model": subject.tensors()}, {name: state[name] for name in STATED})
    shutil.copyfile(run.folder.settings, RunFolder(folder).settings)
    write_whole(folder / "config.json", json.dumps(config(subject), indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / "README.md", card(subject, history))
    if history.epochs:
        (folder / "curves.png").write_bytes(sketch.curves(history.epochs))


def config(subject: Subject) -> dict[str, object]:
    """The facts, with those names that the Hub knows for some of them."""
    facts = subject.facts()
    classes = {str(number): name for number, name in enumerate(facts.pop("classes"))}
    return {"model_type": "distrib", "architectures": [facts["network"]["model"]], "id2label": classes, **facts}


def load_folder(folder: Path) -> Logits:
    """Open the folder as `distrib predict` does."""
    return Subject.of(load_run(folder), ema=False).logits


def check_push(repository: str) -> None:
    """Refuse what cannot be pushed to before anything is computed.

    Raises:
        SettingsError: the Hub would not take the name, or there is no token.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise SettingsError(f"--push {repository}: {error}") from None
    if huggingface_hub.get_token() is None:
        raise SettingsError("--push needs a token of the Hugging Face Hub: log in (`hf auth login`), or set HF_TOKEN")


def push(folder: Path, repository: str, message: str) -> str:
    """Upload the folder to a repository of the Hub, which is made if need be; return its address.

    Raises:
        Failed: the Hub does not take it.
    """
    api = huggingface_hub.HfApi()
    try:
        made = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # noqa: BLE001 - the Hub, the network and the file system each raise their own kinds
        again = shlex.join(["hf", "upload", repository, str(folder)])
        raise Failed(f"{folder} is written, but was not pushed to {repository}: {error}. Try again: {again}") from None
    return str(made)
