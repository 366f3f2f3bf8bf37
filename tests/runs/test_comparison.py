"""`distrib compare` on runs that were really trained."""

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from distrib.insight.report.cost import cost_of
from distrib.insight.runs import load_run
from tests.launching import environment, journal, run
from tests.runs.test_report import charts, curve

GRID = "common: {config: configs/quickstart.yaml, epochs: 2, wandb: off, report: false}\n"
GRID += "grid: {lr: [0.1, 0.02], seed: [0, 1]}\n"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of a sweep of two rates with two seeds each."""
    out = tmp_path_factory.mktemp("sweep")
    (out / "rates.yaml").write_text(GRID)
    run(["distrib", "sweep", str(out / "rates.yaml"), "--local", "--out", str(out)])
    return out / "rates"


def best(folder):
    return max(record["test_top1"] for record in journal(folder) if record["kind"] == "epoch")


def test_a_sweep_is_compared_setting_by_setting(sweep, tmp_path):
    done = run(["distrib", "compare", "--sweep", str(sweep), "--out", str(tmp_path / "page.html")])
    rows = [line for line in done.stdout.splitlines() if line.startswith("lr=")]
    assert len(rows) == 4
    for row in rows:
        folder = sweep / row.split()[0]
        assert f"{100 * best(folder):.2f} % (epoch " in row
        assert "391,466  " in row
    assert re.search(r"^setting +lr=0.1,seed=0 ", done.stdout, re.MULTILINE)
    assert re.search(r"^lr +0.1 +0.1 +0.02 +0.02$", done.stdout, re.MULTILINE)
    assert re.search(r"^lr 0.1 against lr 0.02: [+-]\d+.\d\d points \(95 %: .*; seeds\): ", done.stdout, re.MULTILINE)
    text = (tmp_path / "page.html").read_text()
    drawn = charts(text)
    names = {f"accuracy-{x}" for x in ("epoch", "update", "minutes", "pflop")}
    assert set(drawn) == {*names, "best-bars", "loss-epoch", "gap-epoch"}
    for row in rows:
        name = row.split()[0]
        scores = [record["test_top1"] for record in journal(sweep / name) if record["kind"] == "epoch"]
        assert all(curve(drawn[chart], name) == scores for chart in names)
    assert drawn["best-bars"]["data"][0]["x"] == [best(sweep / row.split()[0]) for row in rows]
    assert "No report of these runs tells" in text


@pytest.mark.slow
def test_images_that_begin_small_cost_less(tmp_path):
    flags = ["--model", "simplecnn", "--data", "digits", "--image-size", "16", "--epochs", "2", "--no-report"]
    for name, more in {"full": [], "growing": ["--start-size", "8"]}.items():
        run([sys.executable, "distrib/train.py", *flags, *more, "--out", str(tmp_path), "--name", name])
    full, growing = (cost_of(load_run(tmp_path / name, "latest")).flops for name in ("full", "growing"))
    assert len(full) == len(growing) == 23  # 11 updates an epoch, and 0 before the first
    assert full == pytest.approx(full[1] * np.arange(23))
    assert growing[1] == pytest.approx(full[1] / 4, rel=0.02)  # a quarter of the pixels
    assert growing[-1] - growing[-2] == full[1]


@pytest.mark.slow
def test_the_page_is_written_though_nobody_reads_the_table(sweep, tmp_path):
    words = ["distrib", "compare", "--sweep", str(sweep), "--out", str(tmp_path / "page.html")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 0
    assert (tmp_path / "page.html").is_file()


@pytest.mark.slow
def test_runs_are_compared_whatever_their_names(sweep, tmp_path):
    folders = tmp_path / "<b>mine", sweep / "lr=0.1,seed=0"
    shutil.copytree(sweep / "lr=0.02,seed=1", folders[0])
    for folder in folders:
        run(["distrib", "report", str(folder)])
    done = run(["distrib", "compare", *map(str, folders), "--out", str(tmp_path / "page.html")])
    assert "<b>mine" in done.stdout
    assert "one seed" in done.stdout
    text = (tmp_path / "page.html").read_text()
    assert html.escape("<b>mine") in text
    assert "<b>" not in text
    bars = charts(text)["class-bars"]["data"]
    assert [html.unescape(bar["name"]) for bar in bars] == ["<b>mine", "lr=0.1,seed=0"]
    for bar, folder in zip(bars, folders, strict=True):
        cells = np.array(json.loads((folder / "report.json").read_text())["confusion"])
        right = cells[:, 0] == cells[:, 1]
        images, hits = np.bincount(cells[:, 0], cells[:, 2]), np.bincount(cells[right, 0], cells[right, 2])
        assert bar["x"] == (hits / images).tolist()
        assert hits.sum() == round(359 * best(folder))


@pytest.mark.parametrize("words", [[], ["ONE"], ["ONE", "absent"]])
def test_what_cannot_be_compared(sweep, tmp_path, words):
    one = str(sweep / "lr=0.1,seed=0")
    done = run(["distrib", "compare", *(one if word == "ONE" else word for word in words)], expect=2)
    assert done.stderr.count("error:") == 1
