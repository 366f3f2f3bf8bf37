import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from distrib.images.decoding import ImageError, centre, pixels, resized_crop, rgb
from distrib.images.hashing import key


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return pixels(rgb(content, "here"))


def photo() -> Image.Image:
    ramp = np.linspace(0, 255, 24 * 20 * 3).reshape(20, 24, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def test_a_picture_without_loss_comes_out_as_it_went_in() -> None:
    found = decoded(encoded(photo()))
    assert found.shape == (20, 24, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(photo()))
    assert found.flags.writeable


def test_grayscale_becomes_three_equal_channels() -> None:
    found = decoded(encoded(Image.new("L", (5, 4), 77)))
    assert found.shape == (4, 5, 3)
    assert (found == 77).all()


def test_one_bit_becomes_black_and_white() -> None:
    assert (decoded(encoded(Image.new("1", (5, 4), 1))) == 255).all()
    assert (decoded(encoded(Image.new("1", (5, 4), 0))) == 0).all()


def test_sixteen_bit_gray_keeps_its_shade() -> None:
    found = decoded(encoded(Image.fromarray(np.full((4, 5), 32768, dtype=np.uint16))))
    assert found.shape == (4, 5, 3)
    assert (abs(found.astype(int) - 128) <= 1).all()


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert (decoded(encoded(image)) == (200, 100, 50)).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 128])])
def test_a_palette_with_transparency_is_looked_up(transparency: int | bytes) -> None:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert (decoded(encoded(image, transparency=transparency)) == (200, 100, 50)).all()


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (200, 100, 50, 128)), ("LA", (90, 128))])
def test_alpha_is_dropped(mode: str, colour: tuple[int, ...]) -> None:
    found = decoded(encoded(Image.new(mode, (5, 4), colour)))
    assert (found == (colour[:3] if mode == "RGBA" else (90, 90, 90))).all()


def test_cmyk_becomes_plausible_colours() -> None:
    red = decoded(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red.shape == (16, 16, 3)
    assert red[..., 0].min() > 200
    assert red[..., 1:].max() < 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_names_its_place(kind: str) -> None:
    content = encoded(photo().resize((200, 200)), kind)
    with pytest.raises(ImageError, match="row 5"):
        rgb(content[: len(content) // 2], "row 5")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image_names_its_place(content: bytes) -> None:
    with pytest.raises(ImageError, match="row 5"):
        rgb(content, "row 5")


def test_a_file_that_is_not_there_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    with pytest.raises(ImageError, match=r"gone\.png"):
        rgb(path, str(path))


def test_a_file_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "here.png"
    photo().save(path)
    assert np.array_equal(pixels(rgb(path, "here")), np.asarray(photo()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@examples(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), length=st.integers(1, 4))
def test_damage_is_an_image_error_or_nothing(kind: str, place: int, value: int, length: int) -> None:
    content = bytearray(encoded(photo(), kind))
    place %= len(content)
    content[place : place + length] = bytes([value] * length)
    with contextlib.suppress(ImageError):
        assert rgb(bytes(content), "here").mode == "RGB"


@pytest.mark.parametrize("size", [(8, 8), (100, 60), (1, 500), (500, 1), (1, 1), (333, 65)])
@pytest.mark.parametrize("side", [8, 64, 65, 96])
def test_centre_and_resized_crop_give_squares(size: tuple[int, int], side: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    assert centre(image, side).size == (side, side)
    for index in range(20):
        assert resized_crop(image, side, key(1, 2, 3), index).size == (side, side)


def test_an_image_of_the_size_stays_as_it_is() -> None:
    square = photo().resize((96, 96))
    assert np.array_equal(pixels(centre(square, 96)), pixels(square))


def test_centre_keeps_the_middle() -> None:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = 255
    found = pixels(centre(Image.fromarray(wide), 16))
    assert (found[:, 1:-1] == 255).all()
    assert found.min() > 200  # the filter looks a little beyond the edge


def test_centre_leaves_a_margin_only_of_larger_images() -> None:
    framed = np.full((256, 256, 3), 255, dtype=np.uint8)
    framed[16:240, 16:240] = 0
    assert pixels(centre(Image.fromarray(framed), 224)).max() == 0
    assert pixels(centre(Image.fromarray(framed), 64)).max() == 255


def test_resized_crop_is_a_function_of_key_and_index() -> None:
    image = photo().resize((120, 90))

    def cropped(seed: int, index: int) -> bytes:
        return resized_crop(image, 32, key(seed, 0), index).tobytes()

    assert cropped(0, 5) == cropped(0, 5)
    assert len({cropped(0, index) for index in range(20)}) == 20
    assert cropped(0, 5) != cropped(1, 5)


def test_resized_crops_cover_8_to_100_percent_in_ratios_of_3_to_4() -> None:
    class Spy:
        width, height = 400, 400

        def resize(self, _size: object, _filter: object, box: tuple[int, int, int, int]) -> None:
            boxes.append(box)

    boxes: list[tuple[int, int, int, int]] = []
    for index in range(500):
        resized_crop(Spy(), 32, key(0), index)  # type: ignore[arg-type]
    widths = np.array([right - left for left, _, right, _ in boxes])
    heights = np.array([bottom - top for _, top, _, bottom in boxes])
    areas, ratios = widths * heights / 400**2, widths / heights
    assert len(boxes) == 500
    assert all(0 <= l < r <= 400 and 0 <= t < b <= 400 for l, t, r, b in boxes)  # noqa: E741
    assert 0.075 < areas.min() < 0.12
    assert 0.85 < areas.max() <= 1
    assert 0.73 < ratios.min() < 0.79
    assert 1.27 < ratios.max() < 1.36
