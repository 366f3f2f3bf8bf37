"""What `distrib verify exact` and `verify order` plan and compare, and what `distrib diff` tells, without training."""

import pytest

from distrib.insight import orders
from distrib.insight.difference import main as diff
from distrib.insight.exactness import Exact, Row, plan


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("updates", [6, 12, 30])
def test_changes_go_through_all_numbers_and_are_killed_in_time(seed, updates):
    request = Exact(worlds=(1, 2, 4, 8), changes=2, seed=seed)
    rows = list(plan(request, updates))
    assert rows[:3] == [Row("run-2", (2,)), Row("run-3", (4,)), Row("run-4", (8,))]
    assert [row.name for row in rows[3:]] == ["run-5", "run-6"]
    for row in rows[3:]:
        assert sorted(row.worlds) == [1, 2, 4, 8]
        assert list(row.kills) == sorted({*row.kills})
        assert len(row.kills) == 3
        assert 1 <= row.kills[0] <= row.kills[-1] < updates
    assert list(plan(request, updates)) == rows


def test_a_row_says_where_it_is_killed():
    assert str(Row("run-1", (2,))) == "2"
    assert str(Row("run-5", (4, 1, 2), (7, 9))) == "4, killed at 7 > 1, killed at 9 > 2"


SEEN = [(1, 5, "a"), (1, 3, "b"), (2, 4, "c")]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (SEEN, None),
        ([(1, 5, "a"), (1, 3, "x"), (2, 4, "c")], "DIFFERENT in update 1: image 3, varied otherwise"),
        ([(1, 5, "a"), (1, 3, "b"), (2, 6, "c")], "DIFFERENT in update 2: image 6, not 4"),
        (SEEN[:2], "DIFFERENT: 2 images, not 3"),
    ],
)
def test_the_first_image_that_is_another_is_named(other, told):
    assert orders.compare(SEEN, other) == told


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert diff([str(tmp_path), str(tmp_path)]) == 2
    assert f"error: {tmp_path} is no run folder: it has no metrics.jsonl" in capsys.readouterr().err


def test_runs_without_a_common_update_are_refused(tmp_path, capsys):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
    assert diff([str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    assert "have no update in common" in capsys.readouterr().err
