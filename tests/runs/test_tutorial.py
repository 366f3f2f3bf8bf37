"""Each command of docs/tutorial.md, in its order, on less."""

import re
import shlex
from pathlib import Path

import pytest

from tests.launching import ROOT, run

LESS = "--data digits --train-images 64 --test-images 32 --width 8 --batch-size 32"
DIGITS = ("data: cifar10", "data: digits"), ("train_images: 1500", "train_images: 64"), ("width: 16", "width: 8")


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def smaller(word: str, out: Path) -> str:
    """A word of a command; a grid becomes a copy of it that is trained in seconds."""
    if not word.startswith("configs/sweeps/"):
        return re.sub(r"^(runs/|[a-z]+\.html$)", rf"{out}/\g<0>", word)
    text = (ROOT / word).read_text().replace("epochs: 5", "epochs: 1\n  report: false\n  wandb: off")
    for old, new in DIGITS:
        text = text.replace(old, new)
    copy = out / Path(word).name
    copy.write_text(text)
    return str(copy)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tutorial_does_what_it_says(tmp_path):
    found = commands()
    assert len(found) == 12
    for line in found:
        words = [smaller(word, tmp_path) for word in shlex.split(line)]
        if "train.py" in line:
            words += [*LESS.split(), "--wandb", "off", "--no-report", "--out", str(tmp_path / "runs")]
        if line.startswith("distrib sweep"):
            words += ["--out", str(tmp_path / "runs")]
        assert run(words, timeout=600).stdout
    names = {path.parent.name for path in (tmp_path / "runs").rglob("metrics.jsonl")}
    assert {"deep", "mistakes", "fast"} < names
    assert len(names) == 3 + 6 + 6 + 8 + 6
    assert (tmp_path / "comparison.html").is_file()
    assert (tmp_path / "networks.html").is_file()
