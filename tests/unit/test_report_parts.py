"""The parts of a report: figures hold the run's own numbers, analysis what predictions amount to, pages only text."""

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from distrib.insight import findings
from distrib.insight.findings import MOST_CLASSES
from distrib.insight.history import COLUMNS, History
from distrib.insight.predictions import Predictions, save
from distrib.insight.report import analysis, curves, figures, page, pictures
from distrib.insight.report.page import Section
from distrib.insight.report.seen import MOST_CONFUSED, confusion_section
from distrib.insight.report.writing import restarts

NASTY = "</script><script>alert(1)</script><b>&\"' 🐈"


def said(images=200, classes=5, seed=0):
    """Predictions of a network that is right more often than not."""
    draws = np.random.default_rng(seed)
    label = draws.integers(0, classes, images)
    logits = draws.normal(size=(images, classes)) + 2 * np.eye(classes)[label]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    features = (logits @ draws.normal(size=(classes, 64))).astype(np.float32)
    return Predictions(
        np.arange(images), label, probabilities, features, np.array([f"kind {n}" for n in range(classes)])
    )


def history(updates=40, epochs=4, events=(), **columns):
    """A history in which all numbers are different."""
    every = np.arange(1.0, updates + 1)
    found = {name: every * (number + 1) for number, name in enumerate(COLUMNS)} | {"update": every} | columns
    records = [
        {
            "kind": "epoch",
            "epoch": n,
            "update": n * updates // epochs,
            "train_loss": 2.0 / n,
            "test_loss": 3.0 / n,
            "train_top1": 0.5 + 0.1 * n,
            "test_top1": 0.4 + 0.01 * n * (4 - n),
            "test_top5": 0.9,
        }
        for n in range(1, epochs + 1)
    ]
    return History(found, records, list(events))


def shown(chart, name):
    """The numbers of a curve."""
    (trace,) = (trace for trace in chart.data if trace.name == name)
    return list(trace.x), list(trace.y)


def lines(chart):
    """Where upright and level lines are drawn."""
    return sorted(shape.x0 if shape.x0 == shape.x1 else shape.y0 for shape in chart.layout.shapes)


def test_confusion_and_class_scores_are_those_of_scikit_learn():
    found = said()
    cells = confusion_matrix(found.label, found.predicted)
    wanted = [[true, taken, count] for (true, taken), count in np.ndenumerate(cells) if count]
    assert analysis.confusion(found).tolist() == wanted
    columns = precision_recall_fscore_support(found.label, found.predicted)
    for row, *wanted in zip(analysis.class_scores(found), *columns, strict=True):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(wanted)


def test_a_class_that_is_never_named_or_never_there_scores_nothing():
    found = Predictions(
        np.arange(2), np.array([0, 0]), np.eye(3, dtype=np.float32)[[0, 1]], np.zeros((2, 4)), np.array(list("abc"))
    )
    scores = analysis.class_scores(found)
    assert [(row.precision, row.recall, row.support) for row in scores] == [(1, 0.5, 2), (0, 0, 0), (0, 0, 0)]


def test_a_matrix_has_every_cell():
    found = said(classes=5)
    (drawn,) = figures.matrix(analysis.confusion(found).tolist(), found.classes.tolist()).data
    np.testing.assert_array_equal(drawn.text, confusion_matrix(found.label, found.predicted))


def test_of_many_classes_the_most_confused_are_told():
    found = said(images=3000, classes=MOST_CLASSES + 1)
    content = confusion_section(analysis.find(found, 1)).content
    wrong = [(t, p) for t, p in zip(found.label.tolist(), found.predicted.tolist(), strict=True) if t != p]
    rows = re.findall(r"<tr><td>kind (\d+)</td><td>kind (\d+)</td><td [^>]*>(\d+)</td></tr>", content)
    assert sorted((int(n) for _, _, n in rows), reverse=True) == [n for _, n in Counter(wrong).most_common(len(rows))]
    assert all(wrong.count((int(true), int(taken))) == int(n) for true, taken, n in rows)
    assert len(rows) == MOST_CONFUSED


def test_findings_come_back_from_their_file(tmp_path):
    found, path = analysis.find(said(), 7), tmp_path / "report.json"
    path.write_text(findings.dump(found))
    assert findings.load(path) == found
    assert findings.load(tmp_path / "absent.json") is None
    for damage in (
        {"scores": []},
        {"confusion": [[0, 5, 1]]},
        {"confusion": [[0, 1]]},
        {"confusion": [[0, 1, "1"]]},
        {"more": 1},
    ):
        path.write_text(json.dumps(dataclasses.asdict(found) | damage))
        assert findings.load(path) is None


def test_what_is_found_grows_with_the_images_not_with_the_square_of_the_classes(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(findings.dump(analysis.find(said(images=300, classes=3000), 1)))
    assert len(findings.load(path).confusion) <= 300


def test_calibration_of_a_network_that_is_as_sure_as_it_is_right():
    sure = np.tile(np.array([[0.8, 0.2]], np.float32), (1000, 1))
    label = (np.arange(1000) % 10 >= 8).astype(np.int64)  # right in 80 %
    found = analysis.calibration(Predictions(np.arange(1000), label, sure, sure, np.array(["a", "b"])))
    assert found.images.sum() == 1000
    assert found.error == pytest.approx(0, abs=1e-6)
    wrong = analysis.calibration(Predictions(np.arange(1000), 1 - label, sure, sure, np.array(["a", "b"])))
    assert wrong.error == pytest.approx(0.6, abs=1e-6)


def test_the_calibration_error_weighs_each_bin_by_its_images():
    sure = np.repeat(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32), [900, 100], axis=0)
    label = np.concatenate([np.arange(900) % 10 >= 6, np.arange(100) % 10 >= 5]).astype(np.int64)  # 60 %, 50 % right
    two = Predictions(np.arange(1000), label, sure, sure, np.array(["a", "b"]))
    assert analysis.calibration(two).error == pytest.approx(0.9 * 0.3 + 0.1 * 0.1, abs=1e-6)
    many, wanted = said(images=1000), 0.0
    for low in range(analysis.BINS):
        inside = (low <= analysis.BINS * many.confidence) & (analysis.BINS * many.confidence < low + 1)
        if inside.any():
            right = many.predicted[inside] == many.label[inside]
            wanted += inside.mean() * abs(many.confidence[inside].mean() - right.mean())
    assert analysis.calibration(many).error == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("confidence", "place"), [(0.7999, 11), (0.8001, 12), (0.999, 14), (1.0, 14)])
def test_a_bin_of_confidence_reaches_up_to_its_edge(confidence, place):
    sure = np.array([[confidence, 1 - confidence]], np.float32)
    found = analysis.calibration(Predictions(np.arange(1), np.zeros(1, np.int64), sure, sure, np.array(["a", "b"])))
    assert found.images.nonzero()[0].tolist() == [place]


def test_outputs_that_are_no_numbers_are_no_reason_to_fail():
    found = said()
    found.probabilities[3] = np.nan
    found.features[3], found.features[5, 0] = np.nan, np.inf
    assert found.confidence[3] == 0
    told = analysis.find(found, 7)
    assert 0 <= told.calibration_error < 1
    rows, places = analysis.feature_map(found)
    assert not {3, 5} & set(rows.tolist())
    assert len(rows) == len(places) == 198


def test_the_worst_errors_are_the_surest():
    found = said()
    rows = analysis.worst(found, 10)
    assert (found.predicted[rows] != found.label[rows]).all()
    others = np.setdiff1d(np.flatnonzero(found.predicted != found.label), rows)
    assert found.confidence[rows].min() >= found.confidence[others].max()
    assert (np.diff(found.confidence[rows]) <= 0).all()


def test_the_map_keeps_neighbours_and_is_the_same_each_time():
    found = said(images=120)
    rows, places = analysis.feature_map(found)
    assert (len(rows), places.shape) == (120, (120, 2))
    np.testing.assert_array_equal(places, analysis.feature_map(found)[1])
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(120)
    same = found.label[rows][distance.argmin(1)] == found.label[rows]
    assert same.mean() > 0.5  # by chance a fifth
    assert len(analysis.feature_map(said(images=3))[0]) == 0


def test_a_file_of_arrays_holds_the_predictions(tmp_path):
    found = said()
    save(found, tmp_path / "said.npz")
    with np.load(tmp_path / "said.npz") as arrays:  # which refuses pickles
        assert sorted(arrays) == ["classes", "features", "index", "label", "probabilities"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, getattr(found, name))


def test_curves_show_the_runs_own_numbers():
    run = history()
    assert shown(curves.loss(run), "train") == ([1, 2, 3, 4], [2.0, 1.0, 2 / 3, 0.5])
    assert shown(curves.accuracy(run), "test")[1] == [record["test_top1"] for record in run.epochs]
    assert shown(curves.gap(run), "gap")[1] == pytest.approx([17, 26, 37, 50])
    assert shown(curves.rate(run), "learning rate") == (list(range(1, 41)), run.updates["lr"].tolist())
    assert shown(curves.rate(run), "momentum")[1] == run.updates["momentum"].tolist()
    assert shown(curves.gradients(run, None), "gradient norm")[1] == run.updates["grad_norm"].tolist()
    assert shown(curves.speed(run), "images/s")[1] == run.updates["images_per_second"].tolist()
    assert shown(curves.speed(run), "waiting for data")[1] == run.updates["data_wait_share"].tolist()
    assert shown(curves.update_loss(run), "loss")[1] == run.updates["loss"].tolist()
    assert not [trace for trace in curves.accuracy(run).data if "average" in trace.name]


def test_the_best_epoch_restarts_and_limits_are_marked():
    run = history(events=[{"event": "resume", "update": 15}])
    assert lines(curves.accuracy(run)) == [1.5, 2.0]  # half-way through the second epoch; the second is the best
    assert lines(curves.gap(run)) == [5, 10]
    assert lines(curves.gradients(run, 100.0)) == [100.0]
    assert curves.clipped_share(run, 120.0) == pytest.approx((run.updates["grad_norm"] > 120).mean())
    assert curves.clipped_share(run, None) is None


def test_cuts_of_the_rate_are_marked_and_smooth_ends_are_not():
    steps = np.repeat([0.1, 0.01, 0.001], 20)
    assert curves.decays(steps) == [20, 40]
    assert lines(curves.rate(history(updates=60, lr=steps))) == [21, 41]
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(1, 61) / 60))
    assert curves.decays(cosine) == []
    assert curves.decays(np.linspace(0.1, 0, 60)) == []
    assert curves.decays(cosine[[0, 30]]) == []  # of two updates: nothing tells a cut from a slope


def test_a_number_that_is_not_finite_is_a_gap_and_long_curves_keep_their_peaks():
    loss = np.sin(np.arange(1.0, 50_001))
    loss[777], loss[40_000] = np.nan, 99
    x, y = shown(curves.update_loss(history(updates=50_000, loss=loss)), "loss")
    assert len(x) <= curves.POINTS
    assert y[x.index(778)] is None
    assert y[x.index(40_001)] == 99
    assert "NaN" not in curves.update_loss(history(updates=50_000, loss=loss)).to_json()


def test_a_run_without_an_epoch_or_an_update_has_charts():
    empty = History({name: np.empty(0) for name in COLUMNS}, [], [])
    charts = (curves.loss, curves.accuracy, curves.gap, curves.rate, curves.speed, curves.update_loss)
    assert all(chart(empty).to_json() for chart in charts)


def test_restarts_say_what_had_ended_the_run():
    events = [
        {"event": "start", "update": 0},
        {"event": "stop", "update": 7, "signal": "SIGUSR2", "exit_code": 75},
        {"event": "resume", "update": 7},
        {"event": "resume", "update": 5},
        {"event": "failed", "update": 9, "exit_code": 1},
        {"event": "resume", "update": 8},
    ]
    told = [text for _, text in restarts(history(events=events))]
    assert told == [
        "at update 7, after SIGUSR2 at update 7",
        "at update 5, after a death without a word",
        "at update 8, after exit code 1 at update 9",
    ]
    assert restarts(history()) == [("restarts", "none")]


def test_names_are_text_wherever_they_stand():
    found = said()
    names = [NASTY, *found.classes[1:].tolist()]
    sheet = pictures.picture(Image.new("RGB", (8, 8)))
    content = page.chart("matrix", figures.matrix(analysis.confusion(found).tolist(), names))
    content += page.chart("map", figures.plane(np.zeros((200, 2), np.float32), found.label, names, [NASTY] * 200))
    content += page.table([NASTY], [[NASTY]]) + page.facts([(NASTY, NASTY)]) + page.paragraph(NASTY)
    content += page.gallery([(sheet, NASTY, NASTY, 0.5), (sheet, NASTY, "other", 0.5)])
    text = page.page(NASTY, NASTY, [Section("all", NASTY, content)])
    assert "<script>alert" not in text
    assert "<b>" not in text
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        json.loads(block)
    assert len(re.findall(r"<script", text)) == len(re.findall(r"</script>", text)) == 4


def test_a_sheet_holds_every_image_in_its_place():
    images = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(0, 250, 5)]
    address = pictures.sheet(images)
    import base64
    import io

    whole = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert whole.size == (pictures.COLUMNS * pictures.TILE, 2 * pictures.TILE)
    for number in (0, 20, 45):
        x, y = number % pictures.COLUMNS, number // pictures.COLUMNS
        red = whole.getpixel((x * pictures.TILE + 16, y * pictures.TILE + 16))[0]
        assert abs(red - 5 * number) < 12
