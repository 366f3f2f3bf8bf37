"""``distrib export RUN --to FORM``: a run's network for other programs, proven to say what the run's own says."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from distrib.images import sources
from distrib.images.cropping import centre
from distrib.images.decoding import ImageError, pixels
from distrib.insight.export import formats, hub
from distrib.insight.export.formats import Logits
from distrib.insight.export.subject import Subject
from distrib.insight.readiness import address
from distrib.insight.runs import Run, Which, load_run
from distrib.lifecycle.ending import Ending, Failed
from distrib.lifecycle.files import sync
from distrib.settings import SettingsError, require

TOLERANCE = 1e-4  # of a logit, as a share of the largest of its image
BATCHES = (1, 3, 12)  # images at once, when what was written is compared


@dataclass(frozen=True)
class Form:
    """A form to export to: the name of its file or folder, how it is written, and how it is loaded back."""

    name: str
    write: Callable[[Subject, Path], None]
    load: Callable[[Path], Logits]


FORMS = {
    "safetensors": Form("model.safetensors", formats.write_tensors, formats.load_tensors),
    "torch-export": Form("model.pt2", formats.write_program, formats.load_program),
    "onnx": Form("model.onnx", formats.write_onnx, formats.load_onnx),
    "hub-folder": Form("hub-folder", hub.write_folder, hub.load_folder),
}


@dataclass(frozen=True)
class Request:
    """Export a run's network with its pre-processing and class names, and check what it says against the run's own."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    to: Literal["safetensors", "torch-export", "onnx", "hub-folder"]
    """safetensors: the weights; torch-export, onnx: a graph that takes pixels; hub-folder: for the Hugging Face Hub."""
    checkpoint: Which = "best"
    """Which of the run's checkpoints."""
    ema: bool = False
    """Export the average of the weights instead of the weights."""
    out: Path | None = None
    """File or folder to write. None: one in RUN/export."""
    push: str | None = None
    """Also upload the hub-folder to this repository of the Hub, such as USER/NAME."""

    def __post_init__(self) -> None:
        pushed = self.push is None or self.to == "hub-folder"
        require(pushed, f"--push goes with --to hub-folder, not {self.to}")
        suffix = Path(FORMS[self.to].name).suffix
        fits = self.out is None or not suffix or self.out.suffix == suffix
        require(fits, f"--out {self.out}: end its name in {suffix}")

    @property
    def place(self) -> Path:
        """The file or folder to write."""
        return self.out or self.run / "export" / FORMS[self.to].name


def main(arguments: list[str]) -> int:
    """Export as the arguments ask; return the exit code."""
    request = tyro.cli(Request, args=arguments, prog="distrib export")
    with Ending() as ending:
        check(request)
        run = load_run(request.run, request.checkpoint)
        subject = Subject.of(run, ema=request.ema)
        images, kind = samples(run)
        difference = export(subject, FORMS[request.to], request.place, images)
        print(f"wrote {request.place} ({weight(request.place) / 1e6:.1f} MB)")
        told = f"{len(images)} {kind}, in batches of {', '.join(map(str, BATCHES))}"
        print(f"its logits differ from the run's by {difference:.1e} at most, relative to the largest ({told})")
        if request.push is not None:
            message = f"{subject.name}, update {run.checkpoint.state['update']}"
            print(f"pushed to {hub.push(request.place, request.push, message)}")
    return ending.code


def check(request: Request) -> None:
    """Refuse what cannot end well before anything is computed.

    Raises:
        SettingsError: something is missing here, or another thing stands where this should be written.
    """
    if request.to == "onnx":
        formats.check_onnx()
    if request.push is not None:
        hub.check_push(request.push)
    try:
        check_place(request.place, folder=request.to == "hub-folder")
    except OSError as error:
        raise SettingsError(f"{request.place} cannot be looked at: {error}") from None


def check_place(place: Path, *, folder: bool) -> None:
    """Raise ``SettingsError`` if another thing stands there than the file, or empty folder, that may be replaced."""
    if not folder:
        require(not place.is_dir(), f"--out {place} is a folder: name a file")
    elif place.exists():
        here = place.resolve() == Path.cwd()  # which cannot be replaced
        free = place.is_dir() and not here and not any(place.iterdir())
        require(free, f"{place} is there already: remove it, or choose another --out")


def export(subject: Subject, form: Form, place: Path, images: Tensor) -> float:
    """Write the subject at ``place``, whole or not at all; return how much its logits of ``images`` differ, relatively.

    Raises:
        SettingsError: it cannot be written.
        Failed: the logits differ by more than rounding; nothing is left.
    """
    partial = place.absolute().with_name(f".partial-{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        form.write(subject, partial)
        difference = compare(form.load(partial), subject, images)
        if not difference <= TOLERANCE:
            raise Failed(
                f"{place} was not kept: loaded back, its logits differ from the run's by {difference:.1e}, relative to "
                f"the largest, where {TOLERANCE:g} is allowed"
            )
        for written in (*partial.rglob("*"), partial):
            sync(written)
        partial.replace(place)
        sync(place.parent)
    except OSError as error:
        raise SettingsError(f"{place} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.unlink()
    return difference


@torch.inference_mode()
def compare(loaded: Logits, subject: Subject, images: Tensor) -> float:
    """The largest difference of a logit, as a share of the largest of its image. Not a number if a logit is none."""
    expected = subject.logits(images)
    found = torch.cat([loaded(batch) for batch in images.split(BATCHES)])
    scale = expected.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return ((found - expected).abs().amax(1) / scale).max().item()


def samples(run: Run) -> tuple[Tensor, str]:
    """Images to compare on, (16, size, size, 3) uint8, and what they are: test images if they are at hand, or noise."""
    size, count, asked = run.preprocessing.size, sum(BATCHES), run.settings.data
    with contextlib.suppress(SettingsError, ImageError):
        if address(asked.data, asked.data_root) is None:
            split = sources.load(asked.data, asked).test
            places = [place % len(split.labels) for place in range(count)]
            found = [torch.from_numpy(pixels(centre(split.image(place), size))) for place in places]
            return torch.stack(found), "test images"
    shape, generator = (count, size, size, 3), torch.Generator().manual_seed(0)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator), "images of noise"


def weight(place: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files)
