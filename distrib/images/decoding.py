"""From a file's bytes to an RGB image of the size the network sees."""

import io
import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from distrib.images.hashing import draw

Pixels = npt.NDArray[np.uint8]

# What Pillow may take a file for. It knows many more kinds, and would start Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
MOST_PIXELS = 2**28 // 3  # of an image: 256 MiB in memory; a few bytes of a file can ask for any number
CROP_SHARE = 224 / 256  # evaluation keeps the middle of an image whose short side is a little larger
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random-resized crop: Szegedy et al., arXiv:1409.4842
_FINE = 2**24  # steps of a drawn fraction


class ImageError(Exception):
    """An image that cannot be used; the message names its file or row."""

    everywhere = False
    """Whether all ranks raise it together, so that one of them is enough to say so."""


def rgb(source: bytes | Path, where: str) -> Image.Image:
    """Decode an image to RGB, whatever its mode: grayscale, palette, alpha and CMYK become RGB; of several, the first.

    Raises:
        ImageError: it cannot be decoded; names ``where``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like, which nothing here looks at
            return _decoded(source, where)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{where} is not an image of a kind that is read here ({', '.join(FORMATS)})") from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes each of Pillow's decoders raises its own kinds
        raise ImageError(f"{where} cannot be decoded: {error} ({type(error).__name__})") from None


def _decoded(source: bytes | Path, where: str) -> Image.Image:
    if isinstance(source, Path) and not source.is_file():  # to open a pipe would wait for whoever writes to it
        raise ImageError(f"{where} is not a regular file, or is gone")
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
        if not 0 < image.width * image.height <= MOST_PIXELS:  # as it says itself; nothing is decoded yet
            raise ImageError(f"{where} has {image.width} x {image.height} pixels; 1 to {MOST_PIXELS:,} are decoded")
        return _to_rgb(image, where)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow would clip all but the darkest 256 of 65,536 grays
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"{where} has grays of 32 bits, of which none is known to be white: save it with 8 or 16 bits")
    if "transparency" in image.info:  # a palette's transparent colours, which Pillow warns about otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


def crop_share(size: int) -> float:
    """Share of an image's short side that is kept for a network that sees ``size`` pixels, of 1.

    Small images have no margin to spare: there it is all.
    """
    return CROP_SHARE if size > 64 else 1.0


def centre(image: Image.Image, size: int) -> Image.Image:
    """Scale the short side and keep the central square: (size, size). Images of that size stay as they are."""
    if image.size == (size, size):
        return image
    kept = min(image.size) * crop_share(size)
    left, top = (image.width - kept) / 2, (image.height - kept) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + kept, top + kept))


def resized_crop(image: Image.Image, size: int, folded: int, index: int) -> Image.Image:
    """A random part of 8 to 100 % of the area and 3:4 to 4:3, scaled to (size, size), drawn for ``index``."""

    def fraction(attempt: int, purpose: int) -> float:
        return draw(folded + 16 * attempt + purpose, index, _FINE) / _FINE

    for attempt in range(10):
        area = image.width * image.height * (AREA[0] + (AREA[1] - AREA[0]) * fraction(attempt, 0))
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = math.exp(low + (high - low) * fraction(attempt, 1))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = int(fraction(attempt, 2) * (image.width - width + 1))
            top = int(fraction(attempt, 3) * (image.height - height + 1))
            box = (left, top, left + width, top + height)
            return image.resize((size, size), Image.Resampling.BILINEAR, box)
    return centre(image, size)


def pixels(image: Image.Image) -> Pixels:
    """The image as a (height, width, 3) uint8 array of its own."""
    return np.array(image, dtype=np.uint8)
