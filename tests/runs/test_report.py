"""`distrib report`: of a run that was really trained, and opened in a real browser."""

import html
import json
import re
import shutil
import signal
import socket
import subprocess

import pytest
import requests
from selenium.webdriver.common.by import By

from tests.browser import DESK, PHONE, browser, complaints, hover, marks, open_page, too_wide, wait
from tests.launching import ROOT, environment, follow, journal, run, start_train, train, updates
from tests.wandb_files import history

DOCS = ROOT / "docs" / "report.md"
FLAGS = ("--config", "configs/quickstart.yaml", "--log-every", 1, "--save-every", 10, "--clip-norm", 2)
FLAGS = (*FLAGS, "--ema-decay", 0.9, "--epochs", 4)
SECTIONS = {
    *("run", "verdict", "curves", "gap", "rate", "gradients", "speed"),
    *("confusion", "classes", "calibration", "errors", "predictions", "features", "layers"),
}
CHARTS = {
    *("loss", "accuracy", "gap-curve", "learning-rate", "update-loss", "gradient-norm", "throughput", "memory"),
    *("matrix", "reliability", "feature-map"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was killed in its second epoch and went on, and of which its own report was written."""
    out = tmp_path_factory.mktemp("runs")
    made = out / "seen <b>& 🐈"
    flags = (*FLAGS, "--out", out, "--name", made.name, "--report", "--wandb", "offline")
    process = start_train(*flags)
    follow(process, made, lambda record: record.get("update", 0) >= 35)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    run(["distrib", "report", str(made), "--curves", "--out", str(out / "killed.html")])
    done = train(*flags)
    assert f"report  {made / 'report.html'}" in done.stdout
    return made


@pytest.fixture(scope="module")
def report(folder):
    """The page of that run."""
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


def test_its_cost_is_in_the_journal(folder):
    last = journal(folder)[-1]
    assert (last["event"], last["epoch"]) == ("report", 4)
    assert last["cpu_seconds"] > 0


def test_wandb_gets_the_same_once(folder):
    (rows,) = history(folder).values()
    found = json.loads(folder.joinpath("report.json").read_text())
    (row,) = (row for row in rows if "test/classes._type" in row or "test/classes" in row)
    assert row["update"] == found["update"]
    assert row["test/calibration_error"] == found["calibration_error"]
    media = folder / "wandb"
    (confused,) = media.rglob("media/table/test/confused*.table.json")
    cells = [[str(true), str(taken), images] for true, taken, images in found["confusion"]]
    assert sum(images for _, _, images in cells) == 359
    assert json.loads(confused.read_text())["data"] == cells
    pictures = list(media.rglob("media/images/test/*.png"))
    assert len(pictures) == len(found["errors"]) + len(found["predictions"]) > 32


def test_a_run_that_was_killed_has_the_curves_up_to_there(folder):
    text = (folder.parent / "killed.html").read_text()
    (first, *_), losses = journal(folder), curve(charts(text)["update-loss"], "loss")
    assert first["event"] == "start"
    assert len(losses) >= 35
    assert losses[:30] == [record["loss"] for record in updates(folder)][:30]


def test_a_run_whose_numbers_went_wrong_has_a_report_with_gaps(tmp_path):
    flags = ("--config", "configs/quickstart.yaml", "--log-every", 1, "--lr", 1e30, "--schedule", "constant")
    train(*flags, "--on-divergence", "skip", "--max-bad-updates", 5, "--out", tmp_path, "--name", "wrong", expect=3)
    run(["distrib", "report", str(tmp_path / "wrong"), "--curves"])
    drawn = charts((tmp_path / "wrong" / "report.html").read_text())
    losses = [record["loss"] for record in updates(tmp_path / "wrong")]
    assert None in losses
    assert curve(drawn["update-loss"], "loss") == losses


@pytest.mark.slow
def test_a_run_of_which_every_update_was_left_out_has_a_report_without_training(tmp_path):
    flags = ("--config", "configs/quickstart.yaml", "--epochs", 2, "--lr", 1e30, "--schedule", "constant")
    skip = ("--on-divergence", "skip", "--max-bad-updates", 1000, "--out", tmp_path, "--name", "skipped")
    done = train(*flags, *skip)
    assert "train-test gap at the end  unknown" in done.stdout
    last = [record for record in journal(tmp_path / "skipped") if record["kind"] == "epoch"][-1]
    assert last["train_loss"] is None
    assert last["train_top1"] is None
    run(["distrib", "report", str(tmp_path / "skipped")])
    assert 'id="confusion"' in (tmp_path / "skipped" / "report.html").read_text()


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


@pytest.fixture(scope="module")
def comparison(folder, report):
    """The page that compares that run with itself under another name."""
    other = folder.parent / "other <i>"
    shutil.copytree(folder, other)
    run(["distrib", "compare", str(folder), str(other), "--out", str(folder.parent / "comparison.html")])
    return folder.parent / "comparison.html"


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_the_page_has_what_the_docs_say_and_nothing_else(report, comparison, kind):
    """The table in docs/report.md against the pages."""
    rows = re.findall(r"^\| [^|]* \| (\w+) \| `(\w+)` \| ?(.*?) ?\|$", DOCS.read_text(), re.MULTILINE)
    text = report if kind == "report" else comparison.read_text()
    told = [row for row in rows if row[0] == kind]
    assert {section for _, section, _ in told} == set(re.findall(r'<section id="([^"]*)"', text))
    assert {name for *_, names in told for name in re.findall(r"`([^`]*)`", names)} == set(charts(text))


@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, True)])
def test_a_browser_draws_every_chart_without_an_error_or_a_network(report, folder, comparison, tmp_path, width, dark):
    with browser(tmp_path, width=width, dark=dark) as page:
        open_page(page, (folder / "report.html").as_uri())
        drawn = marks(page)
        assert set(drawn) == CHARTS
        assert [name for name, count in drawn.items() if not count] == []
        assert too_wide(page) == []
        paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")
        page.find_element(By.ID, "theme").click()
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != paper
        assert complaints(page) == []
        open_page(page, comparison.as_uri())
        drawn = marks(page)
        assert len(drawn) == 8
        assert [name for name, count in drawn.items() if not count] == []
        assert too_wide(page) == []
        assert complaints(page) == []


def test_hovering_tells_more(report, folder, tmp_path):
    with browser(tmp_path) as page:
        open_page(page, (folder / "report.html").as_uri())
        hover(page, "#loss path.point")
        told = wait(page, lambda page: page.find_element(By.CSS_SELECTOR, "#loss .hoverlayer").text)
        assert "train" in told
        hover(page, "#feature-map path.point")
        wait(page, lambda page: page.find_element(By.ID, "tile").is_displayed())
        assert complaints(page) == []


def test_an_error_in_a_page_is_seen(tmp_path):
    (tmp_path / "page.html").write_text("<script>nothing()</script><p style='width: 2000px'>wide</p>")
    with browser(tmp_path / "profile") as page:
        open_page(page, (tmp_path / "page.html").as_uri())
        assert "nothing is not defined" in complaints(page)[0]
        assert len(too_wide(page)) == 1


def test_the_served_page_follows_a_run(tmp_path):
    flags = ("--config", "configs/quickstart.yaml", "--log-every", 1, "--epochs", 4000, "--out", tmp_path)
    training = start_train(*flags, "--name", "live")
    follow(training, tmp_path / "live", lambda record: record["kind"] == "epoch")
    words = ["distrib", "report", str(tmp_path / "live"), "--serve", "--port", "0"]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.match(r"(http://127\.0\.0\.1:\d+/) follows", server.stdout.readline())[1]
            refusals(address)
            look_on(address, tmp_path)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
            training.kill()
            training.communicate(timeout=60)


def look_on(address, tmp_path):
    """Watch the page grow; what the reader chose stays."""
    with browser(tmp_path / "profile") as page:
        open_page(page, address)
        shown = "return document.getElementById('update-loss').data[0].x.at(-1)"
        first = page.execute_script(shown)
        page.find_element(By.CSS_SELECTOR, "button[data-log=update-loss]").click()
        wait(page, lambda page: page.execute_script(shown) > first)
        axis = "return document.getElementById('update-loss').layout.yaxis.type"
        wait(page, lambda page: page.execute_script(axis) == "log")
        assert complaints(page) == []
        with (tmp_path / "live" / "metrics.jsonl").open("a") as file:
            file.write("no record\n")
        wait(page, lambda page: "cannot be read" in page.find_element(By.ID, "subtitle").text)


def refusals(address):
    """Nothing but the page and its parts can be had, nothing can be changed, and nobody else's page may ask."""

    def status(path="", method="GET", **headers):
        return requests.request(method, address + path, headers=headers, timeout=60).status_code

    assert status() == status("parts") == 200
    assert status("metrics.jsonl") == status("../settings.yaml") == 404
    assert status(method="POST") == status(method="PUT") == status(method="DELETE") == 501
    assert status(Host="evil.example:80") == 403
    assert status(Host="[") == 403
    assert status(Host="localhost") == 200


def test_what_cannot_be_served(folder, tmp_path):
    done = run(["distrib", "report", str(tmp_path), "--serve"], expect=2)
    assert "is no run folder" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(["distrib", "report", str(folder), "--serve", "--port", port], expect=2)
    assert f"port {port}" in done.stderr
    assert "Give another --port" in done.stderr
