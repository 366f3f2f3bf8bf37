"""`distrib predict` and what it is made of, on a network that was really trained."""

import csv
import io
import json
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from distrib.images import sources
from distrib.images.decoding import ImageError
from distrib.insight import prediction
from distrib.insight.prediction import load_run, predict
from distrib.settings import Data
from tests.launching import environment, run, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that knows its digits."""
    out = tmp_path_factory.mktemp("runs")
    train("--config", "configs/quickstart.yaml", "--epochs", 5, "--out", out, "--name", "digits")
    return out / "digits"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with 100 test images, in folders by their class; a text and a broken image are among them."""
    out = tmp_path_factory.mktemp("images")
    split = sources.load("digits", Data(data="digits")).test
    for index, label in enumerate(split.labels[:100].tolist()):
        (out / str(label)).mkdir(exist_ok=True)
        split.image(index).save(out / str(label) / f"{index}.png")
    (out / "notes.txt").write_text("no image, and not taken for one")
    (out / "broken.png").write_text("no image")
    return out


def told(capsys, *words, code=0):
    """What the command printed."""
    assert prediction.main([str(word) for word in words]) == code
    return capsys.readouterr()


def test_the_command_names_classes_and_files_that_are_no_images(folder, images):
    done = run(["distrib", "predict", str(folder), str(images), "--format", "json", "--top", "10"], expect=1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 100
    for line in lines:
        assert sorted(line["classes"]) == [str(digit) for digit in range(10)]
        assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-4)
    right = [line["classes"][0] == line["image"].split("/")[-2] for line in lines]
    assert sum(right) > 85
    assert done.stderr.count("error:") == 1
    assert f"{images / 'broken.png'} is not an image" in done.stderr


@pytest.mark.slow
def test_whoever_stops_reading_gets_no_traceback(folder, images):
    many = "\n".join([str(next((images / "5").iterdir()))] * 3000)
    words = ["distrib", "predict", str(folder), "-", "--format", "json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdin.write(many)
        process.stdin.close()
        assert json.loads(process.stdout.readline())["classes"][0] == "5"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 1


def test_three_lines_of_python_do_it(folder, images):
    opened = load_run(folder)
    (found,) = predict(opened, [images / "3" / f"{min(int(p.stem) for p in (images / '3').iterdir())}.png"], top=1)
    assert found.classes == ["3"]


def test_every_format_says_the_same(folder, images, capsys):
    words = (folder, images / "7", "--top", 2)
    objects = [json.loads(line) for line in told(capsys, *words, "--format", "json").out.splitlines()]
    head, *rows = csv.reader(io.StringIO(told(capsys, *words, "--format", "csv").out))
    assert head == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    table = told(capsys, *words).out.splitlines()
    assert len(objects) == len(rows) == len(table) > 5
    assert len({line.index("%") for line in table}) == 1
    for thing, row, line in zip(objects, rows, table, strict=True):
        (first, second), (one, two) = thing["classes"], thing["probabilities"]
        assert row == [thing["image"], first, str(one), second, str(two)]
        assert line.split() == [thing["image"], first, f"{one:.1%}", second, f"{two:.1%}"]


def test_patterns_and_lists_stand_for_files(folder, images, capsys, monkeypatch):
    all_of_them = told(capsys, folder, images / "1", images / "2").out
    assert told(capsys, folder, images / "[12]" / "*.png").out.splitlines() == all_of_them.splitlines()
    names = [line.split()[0] for line in all_of_them.splitlines()]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(names) + "\n\n"))
    assert told(capsys, folder, "-").out == all_of_them


def test_a_mirrored_view_is_averaged_in(folder, images):
    opened, file = load_run(folder), next((images / "5").iterdir())
    network = opened.network()
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB")))[None]
    with torch.inference_mode():
        one = network(opened.preprocessing.normalise(pixels, channels_last=True)).softmax(1)
        two = network(opened.preprocessing.normalise(pixels.flip(2), channels_last=True)).softmax(1)
    (found,) = predict(opened, [file], top=10, flip=True)
    mean = dict(zip(opened.preprocessing.classes, ((one + two) / 2)[0].tolist(), strict=True))
    assert dict(zip(found.classes, found.probabilities, strict=True)) == pytest.approx(mean, abs=1e-4)


def test_of_equal_probabilities_the_first_class_comes_first(folder, images, monkeypatch):
    opened, file = load_run(folder), next((images / "5").iterdir())
    network = opened.network()
    torch.nn.init.zeros_(network.fc.weight)
    network.fc.bias = torch.nn.Parameter(torch.tensor([0.0, 1] * 5))
    monkeypatch.setattr(opened.__class__, "network", lambda *_, **__: network)
    (found,) = predict(opened, [file], top=8)
    assert found.classes == list("13579024")


def test_a_bad_image_is_raised_unless_somebody_takes_it(folder, images):
    with pytest.raises(ImageError, match=r"broken\.png is not an image"):
        list(predict(load_run(folder), [images / "broken.png"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name image files to predict"),
        (("absent.png",), "there is no file absent.png, and none that it matches"),
        (("x" * 300,), "cannot be the name of a file"),
        (("empty",), "there is no image in empty"),
        (("empty", "--top", "0"), "--top is a number of classes"),
        (("empty", "--ema"), "there is no image in empty"),
    ],
)
def test_what_cannot_be_predicted(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        prediction.main([str(folder), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.replace("│", "").replace("\n", " ")


def test_a_run_without_an_average_has_none_to_predict_with(folder, images, capsys):
    with pytest.raises(SystemExit):
        prediction.main([str(folder), str(images / "1"), "--ema"])
    assert "kept no average of its weights" in capsys.readouterr().err
