import math
from typing import Any

import pytest

from distrib.insight.summary import duration, summarize, verdict


def epoch(number: int, train: float, test: float, *, loss: float = 1.0) -> dict[str, Any]:
    return {"epoch": number, "train_top1": train, "test_top1": test, "train_loss": loss, "test_loss": loss}


def test_the_verdict_compares_the_last_the_best_and_the_first_epoch() -> None:
    judged = verdict([epoch(1, 0.30, 0.40), epoch(2, 0.70, 0.65), epoch(3, 0.80, 0.60)])
    assert judged.best_epoch == 2
    assert judged.best_top1 == 0.65
    assert judged.gap == pytest.approx(20)
    assert judged.gain == pytest.approx(25)


@pytest.mark.parametrize(
    ("train", "expected"), [(0.40, "no"), (0.54, "no"), (0.56, "mild"), (0.59, "mild"), (0.61, "yes"), (1.0, "yes")]
)
def test_over_fitting_is_mild_above_5_points_and_plain_above_10(train: float, expected: str) -> None:
    assert verdict([epoch(1, train, 0.5)]).overfitting == expected


def test_of_equal_epochs_the_first_is_best() -> None:
    assert verdict([epoch(1, 0.5, 0.4), epoch(2, 0.5, 0.6), epoch(3, 0.5, 0.6)]).best_epoch == 2


def test_one_epoch_gains_nothing() -> None:
    judged = verdict([epoch(1, 0.5, 0.5)])
    assert (judged.best_epoch, judged.gain, judged.gap) == (1, 0, 0)


def test_no_epoch_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="finished epoch"):
        verdict([])
    assert summarize([], seconds=1.0, images_per_second=0.0, commands=[]).startswith("epochs      none finished")


def test_numbers_that_are_none_are_never_best() -> None:
    judged = verdict([epoch(1, math.nan, math.nan, loss=math.nan), epoch(2, 0.38, 0.3, loss=math.nan)])
    assert judged.best_epoch == 2
    assert judged.overfitting == "mild"
    broken = [epoch(1, math.nan, math.nan, loss=math.nan)]
    assert verdict(broken).overfitting == "unknown"
    assert "unknown" in summarize(broken, seconds=math.nan, images_per_second=math.nan, commands=[])


def test_the_closing_text() -> None:
    commands = [("classify images", "distrib predict runs/a cat.png"), ("see the report", "distrib report runs/a")]
    text = summarize(
        [epoch(1, 0.30, 0.40), epoch(2, 0.92, 0.8125)], seconds=3725, images_per_second=12345.6, commands=commands
    )
    assert text == (
        "best test accuracy         81.25 % (epoch 2)\n"
        "gain over the first epoch  +41.25 points\n"
        "train-test gap at the end  +10.75 points\n"
        "over-fitting               yes\n"
        "total time                 1 h 02 min\n"
        "mean rate                  12,346 images/s\n"
        "\n"
        "classify images  distrib predict runs/a cat.png\n"
        "see the report   distrib report runs/a"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (3599.8, "1 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
