"""`distrib export`: each form is loaded back in its own runtime and says what the run says, on real images."""

import dataclasses
import json
import re
import shlex
import shutil
import sys

import huggingface_hub
import numpy as np
import pytest
import safetensors
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from distrib.images import sources
from distrib.images.feed import Preprocessing
from distrib.insight import prediction
from distrib.insight.export import exporting, formats
from distrib.insight.export.exporting import FORMS, TOLERANCE
from distrib.insight.export.subject import Subject
from distrib.insight.runs import load_run
from distrib.lifecycle import checkpoints
from distrib.settings import Data, Model, SettingsError
from distrib.zoo import registry
from tests.launching import ROOT, journal, run, train

NAME = "seen <b>& 🐈"
CLASSES = (
    *("# head", "<img src=x onerror=alert(1)>", "\"quoted\" & 'single'", "@all :smile:", "[link](javascript:x)"),
    *("`code`", "a|b", "nine", r"~~$x_1$ \(y\) *z*~~", "🐈 _cat_ &amp;"),
)


@pytest.fixture(scope="module")
def images():
    """64 real test images, (64, 8, 8, 3) uint8."""
    return torch.from_numpy(sources.load("digits", Data(data="digits")).test.pixels[:64])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that knows its digits, in a folder of images whose classes and run have odd names."""
    data, out = tmp_path_factory.mktemp("digits"), tmp_path_factory.mktemp("runs")
    found = sources.load("digits", Data(data="digits"))
    for part, split in (("train", found.train), ("test", found.test)):
        for index, label in enumerate(split.labels.tolist()):
            file = data / part / CLASSES[label] / f"{index:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            split.image(index).save(file)
    flags = ("--data", f"folder:{data}", "--epochs", 5, "--ema-decay", 0.9, "--flip", "none")
    train("--config", "configs/quickstart.yaml", *flags, "--out", out, "--name", NAME)
    return out / NAME


@pytest.fixture(scope="module")
def opened(folder):
    return load_run(folder)


@pytest.fixture(scope="module")
def exported(folder):
    """By form, what the command wrote where it writes unless told otherwise."""
    for form in FORMS:
        assert exporting.main([str(folder), "--to", form]) == 0
    return {form: folder / "export" / FORMS[form].name for form in FORMS}


@pytest.fixture
def copy(folder, tmp_path):
    """The run without what was exported, to be changed."""
    return shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("export"))


def refusal(capsys, *words, code=2):
    """What the command said when it ended with that code."""
    try:
        ended = exporting.main([str(word) for word in words])
    except SystemExit as refused:  # by what reads flags
        ended = refused.code
    assert ended == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.replace("│", "").split())


def with_onnxruntime(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, given.name, given.shape) == ("images", ["batch", 8, 8, 3], "logits", ["batch", 10])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    return facts, lambda pixels: torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])


def with_torch(file):
    extra = {"facts.json": ""}
    program = torch.export.load(file, extra_files=extra)
    return json.loads(extra["facts.json"]), program.module()


def with_safetensors(file):
    with safetensors.safe_open(file, framework="pt") as saved:
        about = saved.metadata()
        weights = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 - it is no dict
    assert about.pop("format") == "pt"
    facts = {name: json.loads(text) for name, text in about.items()}
    network = registry.build(Model(**facts["network"]), classes=10, image_size=facts["image_size"]).eval()
    network.load_state_dict(weights)
    mean, std = torch.tensor(facts["mean"]), torch.tensor(facts["std"])
    return facts, lambda pixels: network(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))


def with_distrib(folder):
    facts, found = json.loads((folder / "config.json").read_text()), load_run(folder)
    facts["classes"] = list(facts["id2label"].values())
    return facts, lambda pixels: found.network()(found.preprocessing.normalise(pixels, channels_last=False))


RUNTIMES = {
    "onnx": with_onnxruntime,
    "torch-export": with_torch,
    "safetensors": with_safetensors,
    "hub-folder": with_distrib,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_what_the_run_says_whatever_the_batch(opened, exported, images, form):
    facts, says = RUNTIMES[form](exported[form])
    network, prepared = opened.network(), opened.preprocessing
    with torch.inference_mode():
        for size in (1, 3, 64):
            expected = network(prepared.normalise(images[:size], channels_last=True))
            difference = (says(images[:size]) - expected).abs().amax(1) / expected.abs().amax(1)
            assert difference.max() <= TOLERANCE
            assert (expected.argmax(1) == says(images[:size]).argmax(1)).all()
    assert Preprocessing.of({**facts, "size": facts["image_size"]}) == prepared
    assert facts["classes"] == sorted(CLASSES)
    assert facts["network"]["model"] == "simplecnn"
    assert facts["crop_share"] == 1
    assert facts["run"] == NAME
    assert facts["update"] == opened.checkpoint.state["update"]
    assert facts["weights"] == "model"


def test_graphs_do_not_tell_where_the_code_lies(exported):
    for form in ("onnx", "torch-export"):
        assert str(ROOT).encode() not in exported[form].read_bytes()


def test_the_hub_folder_is_predicted_and_evaluated_as_the_run_is(folder, exported, opened, capsys):
    words = [str(ROOT / "tests" / "nine.png"), "--format", "json", "--top", "10"]
    assert prediction.main([str(folder), *words]) == 0
    assert run(["distrib", "predict", str(exported["hub-folder"]), *words]).stdout == capsys.readouterr().out
    said = json.loads(run(["distrib", "evaluate", str(exported["hub-folder"]), "--json"]).stdout)
    assert said["top1"] == opened.checkpoint.state["test_top1"]
    assert said["checkpoint"] == str(exported["hub-folder"])


def test_the_card_holds_the_runs_own_numbers(folder, exported, opened):
    best = max((record for record in journal(folder) if record["kind"] == "epoch"), key=lambda r: r["test_top1"])
    assert best["update"] == opened.checkpoint.state["update"]
    card = ModelCard.load(exported["hub-folder"] / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("distrib", "image-classification")
    assert (card.data.model_name, card.data.datasets) == (NAME, None)
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    scores = {"top-1 accuracy": best["test_top1"], "top-5 accuracy": best["test_top5"], "loss": best["test_loss"]}
    assert found == scores
    assert {result.metric_type for result in card.data.eval_results} == {"accuracy", "loss"}
    for told in (f"{best['test_top1']:.2%}", "on 359 test images", f"{best['train_loss']:.4g}", "391,466 parameters"):
        assert told in card.text
    environment = json.loads((folder / "environment.json").read_text())
    assert shlex.join(environment["command"]) in card.text
    assert environment["commit"] in card.text
    settings = (exported["hub-folder"] / "settings.yaml").read_text()
    assert settings == (folder / "settings.yaml").read_text()


def test_odd_names_are_shown_as_they_are(exported):
    text = ModelCard.load(exported["hub-folder"] / "README.md").text
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} == {"text", "code_inline", "image"}
    assert [token.content for token in tokens if token.type == "html_block"] == []
    shown = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert shown[0] == NAME
    assert shown[-1] == ", ".join(f"{number}: {name}" for number, name in enumerate(sorted(CLASSES)))
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["curves.png"]


def test_the_picture_shows_the_curves(exported):
    with Image.open(exported["hub-folder"] / "curves.png") as picture:
        found = np.asarray(picture.convert("RGB"), dtype=np.int64)
    for drawn in ((31, 119, 180), (214, 39, 40), (44, 160, 44)):  # train, test, average of the weights
        assert (np.abs(found - drawn).sum(2) < 60).sum() > 300  # pixels of about that colour


def test_the_average_and_the_latest_are_exported_when_asked_for(folder, tmp_path, capsys):
    latest = load_run(folder, "latest")
    words = [str(folder), "--ema", "--checkpoint", "latest", "--to"]
    assert exporting.main([*words, "hub-folder", "--out", str(tmp_path / "average")]) == 0
    assert "16 test images, in batches of 1, 3, 12" in capsys.readouterr().out
    average, found = latest.checkpoint.tensors("ema"), checkpoints.weights(tmp_path / "average")
    assert average.keys() == found.keys()
    assert all(torch.equal(average[name], found[name]) for name in average)
    (last,) = (r for r in journal(folder) if r["kind"] == "epoch" and r["update"] == latest.checkpoint.state["update"])
    results = ModelCard.load(tmp_path / "average" / "README.md").data.eval_results
    scores = {"top-1 accuracy": last["ema_test_top1"], "loss": last["ema_test_loss"]}
    assert {result.metric_name: result.metric_value for result in results} == scores


def test_an_exported_folder_can_be_exported_again(exported, images, tmp_path):
    file = tmp_path / "again.safetensors"
    assert exporting.main([str(exported["hub-folder"]), "--to", "safetensors", "--out", str(file)]) == 0
    _, says = with_safetensors(file)
    _, before = with_safetensors(exported["safetensors"])
    assert torch.equal(says(images), before(images))


def test_a_damaged_folder_is_refused(exported, tmp_path):
    place = shutil.copytree(exported["hub-folder"], tmp_path / "damaged")
    content = bytearray((place / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "model.safetensors").write_bytes(content)
    with pytest.raises(SettingsError, match=r"damaged is damaged: model\.safetensors changed since it was written"):
        load_run(place)


def test_without_the_data_it_is_compared_on_noise(copy, tmp_path, capsys):
    settings = yaml.safe_load((copy / "settings.yaml").read_text())
    (copy / "settings.yaml").write_text(yaml.safe_dump({**settings, "data": f"folder:{tmp_path / 'gone'}"}))
    assert exporting.main([str(copy), "--to", "safetensors"]) == 0
    assert "16 images of noise" in capsys.readouterr().out


def test_a_run_that_was_never_scored_has_a_card_too(copy):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in lines if '"kind": "epoch"' not in line))
    assert exporting.main([str(copy), "--to", "hub-folder"]) == 0
    card = ModelCard.load(copy / "export" / "hub-folder" / "README.md")
    assert card.data.eval_results is None
    assert "They were not scored on test images." in card.text
    assert not (copy / "export" / "hub-folder" / "curves.png").exists()


@pytest.mark.parametrize("wrong", [lambda logits: logits * 1.001, lambda logits: logits * torch.nan])
def test_what_says_something_else_is_not_kept(folder, tmp_path, capsys, monkeypatch, wrong):
    form = FORMS["safetensors"]

    def load(file):
        says = form.load(file)
        return lambda pixels: wrong(says(pixels))

    monkeypatch.setitem(FORMS, "safetensors", dataclasses.replace(form, load=load))
    old = tmp_path / "here.safetensors"
    old.write_text("what was here")
    said = refusal(capsys, folder, "--to", "safetensors", "--out", old, code=1)
    assert "here.safetensors was not kept: loaded back, its logits differ from the run's by" in said
    assert old.read_text() == "what was here"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "onnx", "--push", "me/digits"), "--push goes with --to hub-folder, not onnx"),
        (("--to", "onnx", "--out", "model.pt2"), "--out model.pt2: end its name in .onnx"),
        (("--to", "jpeg"), "invalid choice"),
        (("--to", "safetensors", "--out", "folder.safetensors"), "folder.safetensors is a folder: name a file"),
        (("--to", "safetensors", "--out", "file/model.safetensors"), "cannot be written"),
        (("--to", "hub-folder", "--out", "folder.safetensors"), "folder.safetensors is there already: remove it"),
        (("--to", "hub-folder", "--out", "file"), "file is there already: remove it"),
        (("--to", "onnx", "--out", f"{'x' * 300}.onnx"), "cannot be looked at"),
        (("--to", "hub-folder", "--push", "no name"), "--push no name: Repo id must use"),
    ],
)
def test_what_cannot_be_exported(folder, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "folder.safetensors" / "kept").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    assert said in refusal(capsys, folder, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_working_folder_is_not_replaced(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ". is there already: remove it, or choose another --out" in refusal(
        capsys, folder, "--to", "hub-folder", "--out", "."
    )


def test_what_is_no_run_or_has_not_begun_is_refused(copy, tmp_path, capsys):
    assert "is no run folder" in refusal(capsys, tmp_path / "absent", "--to", "onnx")
    shutil.rmtree(copy / "checkpoints")
    assert "has no checkpoint yet" in refusal(capsys, copy, "--to", "onnx")
    assert not (copy / "export").exists()


def test_what_onnx_lacks_is_told(folder, tmp_path, capsys, monkeypatch):
    file = tmp_path / "model.onnx"
    monkeypatch.setattr(formats, "LARGEST", 1000)
    assert "an ONNX file holds at most 2 GiB" in refusal(capsys, folder, "--to", "onnx", "--out", file)
    monkeypatch.setattr(formats, "NEEDED", ("onnx", "absent_runtime"))
    said = refusal(capsys, folder, "--to", "onnx", "--out", file)
    assert "--to onnx needs absent_runtime: pip install 'distrib[onnx]'" in said
    assert list(tmp_path.iterdir()) == []


def test_without_a_token_nothing_is_written_or_pushed(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    said = refusal(capsys, folder, "--to", "hub-folder", "--out", tmp_path / "out", "--push", "me/digits")
    assert "--push needs a token of the Hugging Face Hub: log in (`hf auth login`)" in said
    assert not (tmp_path / "out").exists()


def test_with_a_token_the_folder_is_pushed(folder, exported, tmp_path, capsys, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{name}")

        def upload_folder(self, **options):
            calls.append({**options, "files": {file.name for file in options["folder_path"].iterdir()}})

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    words = [str(folder), "--to", "hub-folder", "--out", str(tmp_path / "out"), "--push", "digits"]
    assert exporting.main(words) == 0
    assert "pushed to https://huggingface.co/me/digits" in capsys.readouterr().out
    assert calls[0] == ("digits", {"exist_ok": True})
    assert calls[1]["repo_id"] == "me/digits"
    whole = {
        "README.md",
        "config.json",
        "curves.png",
        "manifest.json",
        "model.safetensors",
        "settings.yaml",
        "state.json",
    }
    assert calls[1]["files"] == whole
    assert NAME in calls[1]["commit_message"]


def test_a_hub_that_cannot_be_reached_leaves_the_folder(folder, tmp_path):
    out = tmp_path / "out"
    words = ["distrib", "export", str(folder), "--to", "hub-folder", "--out", str(out), "--push", "me/digits"]
    nobody = {"HF_TOKEN": "hf_of_nobody"}
    said = run(words, expect=1, **nobody).stderr
    assert f"{out} is written, but was not pushed to me/digits" in said
    assert f"Try again: hf upload me/digits {out}" in said
    assert "Traceback" not in said
    assert load_run(out).preprocessing.classes == tuple(sorted(CLASSES))


def test_the_python_of_the_document_runs(exported):
    text = (ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    script = "".join(blocks).replace("runs/first/export", str(exported["onnx"].parent))
    one, other = run([sys.executable, "-c", script]).stdout.splitlines()
    assert one == other
    assert one in CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-export", "onnx"])
@pytest.mark.parametrize(
    "model", ["resnet18", "resnet50", "resnet20", "plain20", "resnet9", "torchvision/regnet_y_400mf"]
)
def test_other_networks_are_exported_too(opened, images, tmp_path, form, model):
    asked = Model(model=model, width=None if "/" in model else 8)
    settings = dataclasses.replace(opened.settings, model=asked)
    network = registry.build(asked, classes=10, image_size=8)
    network(opened.preprocessing.normalise(images, channels_last=False))  # statistics of their own
    subject = Subject(dataclasses.replace(opened, settings=settings), False, network.eval())
    place = tmp_path / FORMS[form].name
    assert exporting.export(subject, FORMS[form], place, images[:16]) <= TOLERANCE
    assert place.is_file()
