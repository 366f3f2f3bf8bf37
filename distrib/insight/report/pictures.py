"""Images of a report, inside the page."""

import base64
import io
import math

from PIL import Image

SHOWN = 96  # pixels of a side in which an image is kept, at most
TILE = 32  # pixels of a side of an image on the sheet
COLUMNS = 40  # of the sheet


def picture(image: Image.Image) -> str:
    """One image, at its size but at most 96 pixels, as the address of itself (``data:``)."""
    if max(image.size) > SHOWN:
        image = image.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return _address(image, quality=85)


def sheet(images: list[Image.Image]) -> str:
    """Small images side by side in rows of :data:`COLUMNS`, as one address."""
    whole = Image.new("RGB", (COLUMNS * TILE, max(math.ceil(len(images) / COLUMNS), 1) * TILE))
    for number, image in enumerate(images):
        tile = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
        whole.paste(tile, (number % COLUMNS * TILE, number // COLUMNS * TILE))
    return _address(whole, quality=70)


def _address(image: Image.Image, *, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
