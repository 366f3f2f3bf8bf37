"""What a network says of each test image: collected for analysis, and saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import parquet
from torch import nn

from distrib.images.feed import TestFeed
from distrib.images.workers import IGNORED
from distrib.learning.averaging import averaged_statistics
from distrib.lifecycle.processes import Processes
from distrib.settings import SettingsError
from distrib.zoo.head import features_and_logits

KINDS = (".npz", ".parquet")


@dataclass(frozen=True)
class Predictions:
    """Of each test image, in the order of the data set."""

    index: NDArray[np.int64]
    """(n,): its place in the test split."""
    label: NDArray[np.int64]
    """(n,): its class."""
    probabilities: NDArray[np.float32]
    """(n, classes): what the network gives each class, of 1."""
    features: NDArray[np.float32]
    """(n, channels): the pooled vector that the classifier sees."""
    classes: NDArray[np.str_]
    """(classes,): their names."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,): the most probable class."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(n,): its probability, of 1; 0 where the network gave no numbers."""
        return np.nan_to_num(self.probabilities.max(1))


@torch.inference_mode()
def collect(network: nn.Module, feed: TestFeed, processes: Processes, *, channels_last: bool) -> Predictions:
    """What ``network``, in evaluation mode, says of all test images. Every process must call it; all get all."""
    parts: list[tuple[Any, ...]] = []
    with averaged_statistics(network, processes), processes.accelerator.autocast():
        for batch in feed:
            images = feed.preprocessing.normalise(batch.pixels, channels_last=channels_last, dtype=processes.dtype)
            seen, logits = features_and_logits(network, images)
            columns = (batch.indices, batch.labels, logits.float().softmax(1), seen.float())
            good = (batch.labels != IGNORED).cpu()
            parts.append(tuple(column.cpu()[good].numpy() for column in columns))
    everyone = [part for rank in processes.gather(parts) for part in rank]
    index, label, probabilities, features = map(np.concatenate, zip(*everyone, strict=True))
    order = index.argsort()
    names = np.array(feed.preprocessing.classes)
    return Predictions(index[order], label[order], probabilities[order], features[order], names)


def check_kind(path: Path) -> None:
    """Raise ``SettingsError`` unless the path's suffix is a kind of file that predictions are saved as."""
    if path.suffix not in KINDS:
        raise SettingsError(f"--save {path}: end its name in {' or '.join(KINDS)}")


def check_folder(path: Path) -> None:
    """Raise ``SettingsError`` unless there is a folder for the file."""
    if not path.parent.is_dir():
        raise SettingsError(f"--save {path}: there is no folder {path.parent}")


def save(predictions: Predictions, path: Path) -> None:
    """Write predictions to a file, as NumPy arrays (.npz) or as a table with a row for each image (.parquet).

    Raises:
        SettingsError: it cannot be written.
    """
    check_kind(path)
    try:
        if path.suffix == ".npz":
            np.savez_compressed(path, **vars(predictions))
        else:
            parquet.write_table(_table(predictions), path)
    except OSError as error:
        raise SettingsError(f"--save {path}: {error.strerror}") from None


def _table(predictions: Predictions) -> pa.Table:
    """A row for each image, with names beside the numbers of classes."""
    names = predictions.classes
    return pa.table(
        {
            "index": predictions.index,
            "label": predictions.label,
            "label_name": names[predictions.label],
            "predicted": predictions.predicted,
            "predicted_name": names[predictions.predicted],
            "confidence": predictions.confidence,
            "probabilities": list(predictions.probabilities),
            "features": list(predictions.features),
        }
    )
