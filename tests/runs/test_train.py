"""Whole runs, started as a user starts them."""

import json

import pytest
import yaml

from tests.launching import ROOT, command, hashes, journal, run, train, updates

QUICK = ("--data", "digits", "--model", "simplecnn", "--width", "8", "--batch-size", "100", "--precision", "fp32")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs with nothing special, its folder and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    done = train(*QUICK, "--epochs", 2, "--ema-decay", 0.9, "--out", out, "--name", "plain")
    return out / "plain", done.stdout


def test_the_run_folder_holds_what_it_should(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        "settings.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "heartbeats",
        "lock",
    }
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["world_size"] == 1
    assert environment["packages"]["torch"]
    newest = max((folder / "checkpoints").glob("update-*"))
    assert {path.name for path in newest.iterdir()} == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }


def test_the_journal_holds_each_update_and_epoch_once_with_every_number(finished):
    folder, _ = finished
    assert [record["update"] for record in updates(folder)] == list(range(1, 29))
    assert list(updates(folder)[0]) == [
        "kind",
        "update",
        "epoch",
        "loss",
        "lr",
        "momentum",
        "grad_norm",
        "images_per_second",
        "data_wait_share",
        "memory",
    ]
    epochs = [record for record in journal(folder) if record["kind"] == "epoch"]
    assert [(record["epoch"], record["update"], record["test_count"]) for record in epochs] == [
        (1, 14, 359),
        (2, 28, 359),
    ]
    assert all(0 <= record["test_top1"] <= record["test_top5"] <= 1 for record in epochs)
    assert all("ema_test_top1" in record for record in epochs)
    mean = sum(record["loss"] for record in updates(folder)[:14]) / 14
    assert epochs[0]["train_loss"] == pytest.approx(mean)
    events = [record["event"] for record in journal(folder) if record["kind"] == "event"]
    assert events[0] == "start"
    assert events[-1] == "end"


def test_a_person_is_told_what_happened(finished):
    folder, text = finished
    for words in ("parameters", "1,438 training and 359 test images", "fp32", "28 in all", str(folder), "epoch 2/2"):
        assert words in text
    for words in ("best test accuracy", "over-fitting", "images/s", f"python -m distrib evaluate {folder}"):
        assert words in text


def test_its_settings_run_it_again_bit_for_bit(finished, tmp_path):
    folder, _ = finished
    train("--config", folder / "settings.yaml", "--out", tmp_path, "--name", "again")
    numbers = [(record["loss"], record["grad_norm"]) for record in updates(folder)]
    assert [(record["loss"], record["grad_norm"]) for record in updates(tmp_path / "again")] == numbers
    assert hashes(tmp_path / "again") == hashes(folder)


def test_a_finished_run_says_so(finished):
    folder, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    done = train(*QUICK, "--epochs", 2, "--ema-decay", 0.9, "--out", folder.parent, "--name", "plain")
    assert "is finished" in done.stdout
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_does_not_go_on_under_other_settings(finished):
    folder, _ = finished
    done = train(*QUICK, "--epochs", 2, "--lr", 0.3, "--out", folder.parent, "--name", "plain", expect=2)
    assert "--lr was 0.1 and is now 0.3" in done.stderr
    assert "--ema-decay was 0.9 and is now None" in done.stderr


def test_evaluate_gives_the_scores_of_the_journal(finished):
    folder, _ = finished
    epochs = [record for record in journal(folder) if record["kind"] == "epoch"]
    best = max(epochs, key=lambda record: record["test_top1"])
    done = run(["distrib", "evaluate", str(folder), "--json"])
    scores = json.loads(done.stdout)
    assert scores["count"] == 359
    assert scores["top1"] == pytest.approx(best["test_top1"])
    assert scores["loss"] == pytest.approx(best["test_loss"])
    average = json.loads(run(["distrib", "evaluate", str(folder), "--json", "--ema", "--checkpoint", "latest"]).stdout)
    assert average["top1"] == pytest.approx(epochs[-1]["ema_test_top1"])


def test_evaluate_saves_what_the_network_says_of_each_image(finished, tmp_path):
    import numpy as np
    from datasets import Dataset

    from distrib.images import sources
    from distrib.insight.predictions import Predictions
    from distrib.settings import Data

    folder, _ = finished
    told = run(["distrib", "evaluate", str(folder), "--json", "--save", str(tmp_path / "said.npz")]).stdout
    run(
        [
            *command(ROOT / "distrib" / "__main__.py", 2),
            "evaluate",
            str(folder),
            "--save",
            str(tmp_path / "said.parquet"),
        ]
    )
    scores, said = json.loads(told), Predictions(**np.load(tmp_path / "said.npz"))
    assert said.index.tolist() == list(range(359))
    assert said.label.tolist() == sources.load("digits", Data(data="digits")).test.labels.tolist()
    assert (said.predicted == said.label).mean() == pytest.approx(scores["top1"])
    likelihood = said.probabilities[np.arange(359), said.label]
    assert -np.log(likelihood).mean() == pytest.approx(scores["loss"], rel=1e-4)
    assert said.features.shape[0] == 359
    table = Dataset.from_parquet(str(tmp_path / "said.parquet"), cache_dir=str(tmp_path))
    assert table["index"][:] == said.index.tolist()
    assert table["predicted_name"][:] == said.classes[said.predicted].tolist()
    np.testing.assert_allclose(table["probabilities"][:], said.probabilities, atol=1e-5)
    np.testing.assert_allclose(table["features"][:], said.features, rtol=1e-3, atol=1e-4)


def test_evaluate_refuses_a_file_it_cannot_save_to(finished, tmp_path):
    folder, _ = finished
    done = run(["distrib", "evaluate", str(folder), "--save", str(tmp_path / "said.csv")], expect=2)
    assert "end its name in .npz or .parquet" in done.stderr
    done = run(["distrib", "evaluate", str(folder), "--save", str(tmp_path / "absent" / "said.npz")], expect=2)
    assert f"there is no folder {tmp_path / 'absent'}" in done.stderr


def test_a_new_run_starts_from_the_weights_of_another(finished, tmp_path):
    folder, _ = finished
    first = updates(folder)[0]["loss"]
    train(*QUICK, "--epochs", 1, "--lr", 0.01, "--init", folder, "--out", tmp_path, "--name", "warm")
    assert updates(tmp_path / "warm")[0]["loss"] < 0.7 * first
    other = train("--data", "digits", "--model", "resnet20", "--init", folder, "--out", tmp_path, expect=2)
    assert "of another network" in other.stderr


def test_early_stopping_ends_a_run_in_good_order(tmp_path):
    flags = ("--lr", 1e-9, "--epochs", 9, "--early-stop-patience", 2, "--out", tmp_path, "--name", "early")
    train(*QUICK, *flags)
    epochs = [record["epoch"] for record in journal(tmp_path / "early") if record["kind"] == "epoch"]
    assert epochs == [1, 2, 3]
    assert "is finished" in train(*QUICK, *flags).stdout


def test_without_a_network_auto_falls_back_to_digits_and_says_so(tmp_path):
    flags = (
        "--model",
        "resnet18",
        "--width",
        "8",
        "--epochs",
        "1",
        "--data-root",
        tmp_path / "none",
        "--out",
        tmp_path,
    )
    done = run(["accelerate", "launch", "distrib/train.py", "--wandb=off", "--no-report", *map(str, flags)])
    assert "NOTE: CIFAR-10" in done.stdout
    assert "digits" in done.stdout
    assert "epoch 1/1" in done.stdout


def test_named_data_that_is_absent_is_an_error_that_says_what_to_do(tmp_path):
    done = train("--data", "cifar10", "--data-root", tmp_path, expect=2)
    assert "cifar-10-batches-py" in done.stderr
    assert "--data digits" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path):
    done = train(*QUICK[:-4], "--batch-size", 33, "--out", tmp_path, world=2, expect=1)  # torchrun's own code
    assert done.stderr.count("cannot be shared equally") == 1
    assert "--batch-size 32 or 34" in done.stderr


def test_processes_that_do_not_see_each_other_are_refused(tmp_path):
    # What a launcher that sets WORLD_SIZE but no rank does; Accelerate then takes each process for the only one.
    check = "from distrib.lifecycle.processes import check_world; import os; check_world(os.environ, 1)"
    done = run(["python", "-c", check], expect=1, WORLD_SIZE="2")
    assert "each would train alone" in done.stderr


def test_a_bad_image_ends_the_run_or_is_left_out_and_counted(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (80, 70), (200 * label + number,) * 3).save(
                    tmp_path / "tree" / split / name / f"{number}.png"
                )
    broken = tmp_path / "tree" / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    flags = ("--data", f"folder:{tmp_path / 'tree'}", "--image-size", 32, "--loading", "workers", "--batch-size", 8)
    flags = (*flags, "--model", "simplecnn", "--width", 4, "--epochs", 2, "--out", tmp_path, "--workers", 1)
    stopped = train(*flags, expect=1)
    assert str(broken) in stopped.stderr
    assert "Traceback" not in stopped.stderr
    train(*flags, "--on-bad-image", "skip", "--name", "skipping", world=2)
    events = [record for record in journal(tmp_path / "skipping") if record.get("event") == "skip"]
    assert [(event["images"], len(event["examples"])) for event in events] == [(1, 1)]
    assert str(broken) in events[0]["examples"][0]


def test_the_printed_recipe_is_the_one_that_runs(tmp_path):
    printed = train("--config", "configs/quickstart.yaml", "--lr", 0.07, "--print-settings").stdout
    assert yaml.safe_load(printed)["lr"] == 0.07
    assert (ROOT / "configs" / "quickstart.yaml").exists()
