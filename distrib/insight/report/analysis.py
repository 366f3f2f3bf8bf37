"""What the predictions of a run amount to: confusion, scores of each class, calibration, a map of the features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distrib.insight.findings import ClassScores, Findings, Shown
from distrib.insight.predictions import Predictions

SHOWN = 32  # images in a gallery
BINS = 15  # of confidence, as in https://arxiv.org/abs/1706.04599
MAPPED = 1000  # images on the map of features
NEIGHBOURS = 30.0  # perplexity of t-SNE, https://www.jmlr.org/papers/v9/vandermaaten08a.html


@dataclass(frozen=True)
class Calibration:
    """Whether a network that is sure of itself is right as often as it says."""

    confidence: NDArray[np.float64]
    """(bins,): mean of the images that fall into each bin of confidence, of 1; NaN where there is none."""
    accuracy: NDArray[np.float64]
    """(bins,): their share of right ones, of 1."""
    images: NDArray[np.int64]
    """(bins,): their number."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance between both, of 1 (arXiv:1706.04599, section 2)."""
        distance = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float((distance * self.images).sum() / self.images.sum())


def find(said: Predictions, update: int) -> Findings:
    """What the report says of the test images, as the checkpoint of an update sees them."""

    def shown(rows: NDArray[np.int64]) -> list[Shown]:
        columns = (said.index, said.label, said.predicted, said.confidence)
        return [Shown(*one) for one in zip(*(column[rows].tolist() for column in columns), strict=True)]

    return Findings(
        update=update,
        scores=class_scores(said),
        confusion=confusion(said).tolist(),
        calibration_error=calibration(said).error,
        errors=shown(worst(said, SHOWN)),
        predictions=shown(some(said, SHOWN)),
    )


def confusion(said: Predictions) -> NDArray[np.int64]:
    """(cells, 3): the numbers of a class, of one that it was taken for, and of the images of which that is true."""
    cells, images = np.unique(np.stack([said.label, said.predicted], 1), axis=0, return_counts=True)
    return np.column_stack([cells, images])


def class_scores(said: Predictions) -> list[ClassScores]:
    """The scores of each class."""
    predicted, count = said.predicted, len(said.classes)
    right, named, there = (
        np.bincount(which, minlength=count) for which in (predicted[predicted == said.label], predicted, said.label)
    )
    precision, recall = right / np.maximum(named, 1), right / np.maximum(there, 1)
    f1 = 2 * right / np.maximum(named + there, 1)
    columns = (said.classes.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), there.tolist())
    return [ClassScores(*row) for row in zip(*columns, strict=True)]


def calibration(said: Predictions) -> Calibration:
    """Confidence against accuracy, in bins of equal width."""
    confidence = said.confidence.astype(np.float64)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    images = np.bincount(place, minlength=BINS)
    right = (said.predicted == said.label).astype(np.float64)
    with np.errstate(invalid="ignore"):
        confidences, accuracies = (np.bincount(place, values, BINS) / images for values in (confidence, right))
    return Calibration(confidences, accuracies, images)


def worst(said: Predictions, count: int) -> NDArray[np.int64]:
    """The rows of the images that were taken for something else with the most confidence, surest first."""
    wrong = np.flatnonzero(said.predicted != said.label)
    return wrong[np.argsort(-said.confidence[wrong], kind="stable")][:count]


def some(said: Predictions, count: int) -> NDArray[np.int64]:
    """The rows of some images, the same each time, in their order."""
    draws = np.random.default_rng(0).permutation(len(said.index))
    return np.sort(draws[:count])


def feature_map(said: Predictions) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Some rows, and where their features lie on a plane (rows, 2) on which t-SNE keeps neighbours together.

    Rows whose features are not finite have no place. Of fewer than four there is no map: the places are then (0, 2).
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415 - seconds
    from sklearn.manifold import TSNE  # noqa: PLC0415

    rows = some(said, MAPPED)
    rows = rows[np.isfinite(said.features[rows]).all(1)]
    features = said.features[rows]
    if len(rows) < 4:
        return rows[:0], np.empty((0, 2), np.float32)
    if features.shape[1] > 50:  # what sklearn advises, to be rid of noise and in less time
        features = PCA(min(50, len(rows)), random_state=0).fit_transform(features)
    perplexity = min(NEIGHBOURS, (len(rows) - 1) / 3)
    return rows, TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features).astype(np.float32)
