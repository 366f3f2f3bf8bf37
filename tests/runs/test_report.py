"""`distrib report`: of a run that was really trained, and opened in a real browser."""

import html
import json
import re
import shutil
import signal
import subprocess

import pytest

from tests.launching import follow, journal, run, start_train, train, updates

FLAGS = ("--config", "configs/quickstart.yaml", "--log-every", 1, "--save-every", 10, "--clip-norm", 2)
FLAGS = (*FLAGS, "--ema-decay", 0.9, "--epochs", 4)
SECTIONS = {
    *("run", "verdict", "curves", "gap", "rate", "gradients", "speed"),
    *("confusion", "classes", "calibration", "errors", "predictions", "features", "layers"),
}
CHARTS = {
    *("loss", "accuracy", "gap-curve", "learning-rate", "update-loss", "gradient-norm", "throughput"),
    *("matrix", "reliability", "feature-map"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was killed in its second epoch and went on."""
    out = tmp_path_factory.mktemp("runs")
    flags = (*FLAGS, "--out", out, "--name", "seen <b>& 🐈")
    process = start_train(*flags)
    follow(process, out / "seen <b>& 🐈", lambda record: record.get("update", 0) >= 35)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    train(*flags)
    return out / "seen <b>& 🐈"


@pytest.fixture(scope="module")
def report(folder):
    """The page of that run."""
    done = run(["distrib", "report", str(folder)])
    assert f"wrote {folder / 'report.html'}" in done.stdout
    return (folder / "report.html").read_text()


def charts(text):
    """The figures of a page, by name."""
    found = re.findall(r'<script type="application/json" data-plot="([^"]*)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(figure) for name, figure in found}


def curve(figure, name):
    (trace,) = (trace for trace in figure["data"] if trace.get("name") == name)
    return trace["y"]


def test_every_section_has_the_runs_own_numbers(folder, report):
    assert set(re.findall(r'<section id="([^"]*)"', report)) == SECTIONS
    drawn, epochs = charts(report), [record for record in journal(folder) if record["kind"] == "epoch"]
    assert set(drawn) == CHARTS
    assert curve(drawn["accuracy"], "test") == [record["test_top1"] for record in epochs]
    assert curve(drawn["accuracy"], "test, average of the weights") == [record["ema_test_top1"] for record in epochs]
    assert curve(drawn["loss"], "train") == [record["train_loss"] for record in epochs]
    assert curve(drawn["learning-rate"], "learning rate") == [record["lr"] for record in updates(folder)]
    assert curve(drawn["gradient-norm"], "gradient norm") == [record["grad_norm"] for record in updates(folder)]
    counts = drawn["matrix"]["data"][0]["text"]
    best = max(epochs, key=lambda record: record["test_top1"])
    assert sum(map(sum, counts)) == 359
    assert sum(counts[n][n] for n in range(10)) == round(359 * best["test_top1"])
    assert sum(len(trace["x"]) for trace in drawn["feature-map"]["data"]) == 359
    assert report.count('<figure class="wrong">') >= min(359 - round(359 * best["test_top1"]), 32)
    assert f"{100 * best['test_top1']:.2f} % (epoch {best['epoch']})" in report
    assert "<dt>restart 1</dt>" in report
    assert "after a death without a word" in report
    assert "<dd>391,466</dd>" in report  # parameters
    assert html.escape(folder.name) in report
    assert "<b>" not in report


def test_it_is_one_file_that_asks_for_nothing_and_is_small(report):
    assert len(report.encode()) < 6_000_000
    tags = re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//|/|\.)""", tags)


def test_curves_need_no_checkpoint(folder, tmp_path):
    for name in ("settings.yaml", "metrics.jsonl", "environment.json"):
        shutil.copy(folder / name, tmp_path)
    run(["distrib", "report", str(tmp_path), "--curves", "--out", str(tmp_path / "curves.html")])
    text = (tmp_path / "curves.html").read_text()
    assert set(re.findall(r'<section id="([^"]*)"', text)) < SECTIONS
    assert curve(charts(text)["update-loss"], "loss") == [record["loss"] for record in updates(tmp_path)]
    refused = run(["distrib", "report", str(tmp_path)], expect=2)
    assert "has no checkpoint yet" in refused.stderr
    refused = run(["distrib", "report", str(tmp_path / "absent")], expect=2)
    assert "is no run folder" in refused.stderr


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_draws_every_chart_without_an_error_or_a_network(report, folder, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    shutil.copy(folder / "report.html", tmp_path)
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    words += ["--virtual-time-budget=10000", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'report.html'}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    parts = re.split(r'<div class="plot js-plotly-plot" id="([^"]*)"', done.stdout)
    drawn = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(drawn) == CHARTS
    for name, part in drawn.items():
        marks = re.findall(r'<path class="(?:js-line|point[^"]*)"[^>]* d="M|<image|<g class="point">', part)
        assert marks, name
