"""From a file's bytes to an RGB image, or to the part of it that the network sees."""

import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from distrib.images.cropping import Choose, Pixels, scaled

# What Pillow may take a file for. It knows many more kinds, and would start Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
JPEG = b"\xff\xd8\xff"  # how such a file begins
MOST_PIXELS = 2**28 // 3  # of an image: 256 MiB in memory; a few bytes of a file can ask for any number


class ImageError(Exception):
    """An image that cannot be used; the message names its file or row."""

    everywhere = False
    """Whether all ranks raise it together, so that one of them is enough to say so."""


def together(message: str) -> ImageError:
    """An error that all ranks are about to raise."""
    error = ImageError(message)
    error.everywhere = True
    return error


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


def cropped(source: bytes | Path, where: str, choose: Choose, size: int) -> Pixels:
    """The part of an encoded image that ``choose`` picks, scaled to (size, size, 3).

    JPEG is decoded by libjpeg-turbo with its fastest arithmetic, and no larger than needed: where the part is at least
    twice as large as it is to be, the cosines give an image of half, a quarter or an eighth of its sides at once.

    Raises:
        ImageError: it cannot be decoded; names ``where``.
    """
    content = source if isinstance(source, bytes) else _content(source, where)
    if content.startswith(JPEG):
        try:
            return _cropped_jpeg(content, choose, size)
        except ValueError:  # of a kind that it does not know, or damaged: Pillow has the last word
            pass
    image = rgb(content, where)
    return scaled(pixels(image), choose(image.width, image.height), size)


def _content(path: Path, where: str) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{where} cannot be read: {error.strerror}") from None
    raise ImageError(f"{where} is not a regular file, or is gone")


def _cropped_jpeg(content: bytes, choose: Choose, size: int) -> Pixels:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    if colours not in ("YCbCr", "Gray") or not 0 < width * height <= MOST_PIXELS:
        raise ValueError(colours)
    box = choose(width, height)
    factor = next(factor for factor in (8, 4, 2, 1) if min(box[2:]) >= factor * size or factor == 1)
    found = simplejpeg.decode_jpeg(
        content,
        fastdct=True,
        fastupsample=True,
        min_height=-(-height // factor),
        min_width=-(-width // factor),
    )
    left, top, wide, high = (side // factor for side in box)
    return scaled(found, (left, top, wide, high), size)


def pixels(image: Image.Image) -> Pixels:
    """The image as a (height, width, 3) uint8 array of its own."""
    return np.array(image, dtype=np.uint8)
