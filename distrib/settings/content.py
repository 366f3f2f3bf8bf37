"""What is trained, and on what."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distrib.settings.refusing import nearest, require

FirstWeights = Literal["drawn", "identity", "whitened", "both"]
Stem = Literal["auto", "cifar", "imagenet"]
Loading = Literal["auto", "memory", "workers"]
Crop = Literal["auto", "pad", "resized", "none"]
Flip = Literal["auto", "none", "random", "alternating"]
Policy = Literal[
    "none", "autoaugment-cifar10", "autoaugment-imagenet", "autoaugment-svhn", "randaugment", "trivialaugment"
]

NAMED_DATA = ("auto", "cifar10", "cifar100", "digits", "synthetic")
LOCATED_DATA = ("folder:", "hf:", "pack:")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained."""

    model: str = "resnet18"
    """Network: a name that `distrib models` lists, or torchvision/NAME."""
    width: int | None = None
    """Channels of the first stage; the others follow in proportion. None: the network's own."""
    stem: Stem = "auto"
    """First layers of a ResNet: cifar (3x3, no pool) or imagenet (7x7, pool). auto: cifar up to 64 pixels."""
    pretrained: bool = False
    """Start from torchvision's published weights (torchvision/NAME only; they are downloaded)."""
    first_weights: FirstWeights = "drawn"
    """identity: 3x3 convolutions first pass on what comes in; whitened: speednet's first layer whitens patches."""

    def __post_init__(self) -> None:
        require(self.width is None or self.width > 0, "--width is a number of channels: at least 1")
        fits = not self.whitened or self.model == "speednet"
        require(fits, f"--first-weights {self.first_weights} goes with speednet, not {self.model}")
        given = self.pretrained and self.first_weights != "drawn"
        require(not given, "--pretrained and --first-weights both set the first weights: give one of them")
        if not self.model.startswith("torchvision/"):
            require(not self.pretrained, f"--pretrained goes with --model torchvision/NAME, not with {self.model}")
        else:
            require(self.width is None, "--width applies to our own networks: leave it out with torchvision/NAME")
            require(self.stem == "auto", "--stem applies to our own ResNets: leave it out with torchvision/NAME")

    @property
    def whitened(self) -> bool:
        """Whether the first layer whitens patches of the training images."""
        return self.first_weights in ("whitened", "both")

    @property
    def identity(self) -> bool:
        """Whether convolutions first pass on what comes in."""
        return self.first_weights in ("identity", "both")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What it is trained on."""

    data: str = "auto"
    """auto (CIFAR-10, else digits), cifar10, cifar100, digits, synthetic, folder:PATH, hf:NAME_OR_PATH or pack:PATH."""
    data_root: Path = Path("data")
    """Folder in which named data sets are looked for and downloaded to."""
    image_size: int | None = None
    """Side of the square images the network sees, pixels. None: their own up to 64 pixels, else 224."""
    train_images: int | None = None
    """Use only the first so many training images. None: all."""
    test_images: int | None = None
    """Use only the first so many test images. None: all."""
    loading: Loading = "auto"
    """memory: decoded once, as one uint8 tensor; workers: decoded as needed. auto: memory to 64 pixels and 2 GiB."""
    workers: int | None = None
    """Decoding processes for each training process. None: its share of the cores."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded ends the run, or is left out and counted in the journal."""

    def __post_init__(self) -> None:
        known = self.data in NAMED_DATA or self.data.startswith(LOCATED_DATA)
        choices = ", ".join((*NAMED_DATA, "folder:PATH", "hf:NAME_OR_PATH", "pack:PATH"))
        require(known, f"--data {self.data} is unknown{nearest(self.data, NAMED_DATA) or '.'} Choose among {choices}")
        require(self.data not in LOCATED_DATA, f"--data {self.data} needs a place after the colon")
        require(self.image_size is None or self.image_size >= 8, "--image-size is at least 8 pixels")
        require(self.train_images is None or self.train_images > 0, "--train-images is at least 1")
        require(self.test_images is None or self.test_images > 0, "--test-images is at least 1")
        require(self.workers is None or self.workers >= 0, "--workers is 0 or more")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are varied. Every draw is a function of (seed, epoch, image), never of a process."""

    crop: Crop = "auto"
    """pad: shifted by up to the padding; resized: a random part (8 to 100 % of the area). auto: pad up to 64 pixels."""
    crop_padding: int | None = None
    """Padding of `--crop pad` on each side, pixels. None: an eighth of the image size."""
    padding_mode: Literal["zero", "reflect"] = "zero"
    """What the padding of `--crop pad` holds."""
    flip: Flip = "auto"
    """Mirror images left to right: at random, or alternating every epoch. auto: random, but none for digits."""
    cutout: int = 0
    """Side of a square blacked out at a random place, pixels. 0: none."""
    policy: Policy = "none"
    """torchvision's automatic augmentation, drawn anew for each image."""
    start_size: int | None = None
    """Side of training images at first, pixels. In 85 % of the run they grow to full size. None: they are it."""

    def __post_init__(self) -> None:
        require(self.crop_padding is None or self.crop_padding > 0, "--crop-padding is at least 1 pixel")
        pads = self.crop in ("auto", "pad")
        require(pads or self.crop_padding is None, f"--crop-padding goes with --crop pad, not {self.crop}")
        require(pads or self.padding_mode == "zero", f"--padding-mode goes with --crop pad, not {self.crop}")
        require(self.cutout >= 0, "--cutout is 0 or a number of pixels")
        require(self.start_size is None or self.start_size >= 8, "--start-size is at least 8 pixels")
