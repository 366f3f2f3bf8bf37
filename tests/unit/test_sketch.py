"""The picture of a run's curves."""

import io
import math

import pytest
from PIL import Image

from distrib.insight.export import sketch
from distrib.insight.export.sketch import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart


def chart(*values):
    return Chart("loss", {"test": list(values)}, list(range(1, len(values) + 1)), "{:.2f}")


def test_the_corners_are_the_first_and_last_epoch_and_the_lowest_and_highest_value():
    found = chart(4.0, 3.0, 2.0)
    ((first, middle, last),) = found.stretches(found.curves["test"])
    assert first == (LEFT, TOP)
    assert last == (WIDTH - RIGHT, HEIGHT - BOTTOM)
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2))


def test_a_value_that_is_none_cuts_the_curve():
    found = chart(math.nan, 1.0, 2.0, math.inf, 3.0, math.nan)
    assert [len(stretch) for stretch in found.stretches(found.curves["test"])] == [2, 1]


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [math.nan], [math.nan, 5.0]])
def test_one_value_or_none_is_drawn_too(values):
    assert sketch.drawn(chart(*values)).size == (WIDTH, HEIGHT)


def test_records_become_a_picture_of_what_they_have():
    records = [{"epoch": n, "train_loss": 1 / n, "test_loss": None, "train_top1": 0.5} for n in (1, 2)]
    assert sketch.named(records, "loss")["train"] == [1, 0.5]
    assert all(map(math.isnan, sketch.named(records, "loss")["test"]))
    assert list(sketch.named(records, "top1")) == ["train"]
    with Image.open(io.BytesIO(sketch.curves(records))) as picture:
        assert (picture.format, picture.size) == ("PNG", (2 * WIDTH, HEIGHT))
