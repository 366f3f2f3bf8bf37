import contextlib
import io
import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from distrib.images import decoding
from distrib.images.cropping import Box, Pixels, centre, random_box, scaled
from distrib.images.decoding import MOST_PIXELS, ImageError, cropped, pixels, rgb
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


def random_part(image: Image.Image, size: int, folded: int, index: int) -> Pixels:
    return scaled(pixels(image), random_box(image.width, image.height, folded=folded, index=index), size)


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


def test_sixteen_bit_gray_of_a_pgm_keeps_its_shade() -> None:
    shades = np.array([[0, 128, 32768, 65535]], dtype=">u2")
    found = decoded(b"P5\n4 1\n65535\n" + shades.tobytes())
    assert found[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize(("mode", "shade"), [("F", 0.5), ("I", 70_000)])
def test_shades_without_a_known_white_are_refused(mode: str, shade: float) -> None:
    with pytest.raises(ImageError, match=r"row 5 has grays of 32 bits.*save it with 8 or 16"):
        rgb(encoded(Image.new(mode, (4, 4), shade), "TIFF"), "row 5")


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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_a_regular_file_is_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "x.jpg"  # to open the pipe, or to read the device to its end, would take for ever
    make(path)
    with pytest.raises(ImageError, match=r"x\.jpg is not a regular file"):
        rgb(path, str(path))


def test_a_socket_is_no_image(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(tmp_path):
        listening.bind("x.jpg")
        with pytest.raises(ImageError, match=r"x\.jpg is not a regular file"):
            rgb(Path("x.jpg"), "x.jpg")


def test_links_that_lead_nowhere_or_in_a_circle_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "loose.jpg").symlink_to("gone.jpg")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    for name in ("loose.jpg", "round.jpg"):
        with pytest.raises(ImageError, match=name):
            rgb(tmp_path / name, name)


def test_a_file_that_may_not_be_read_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here.png"
    photo().save(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"here\.png cannot be decoded: .*Permission denied"):
        rgb(path, "here.png")


def claiming(width: int, height: int) -> bytes:
    """A PNG of that size, by its header, which holds no pixels at all."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MOST_PIXELS
    with pytest.raises(ImageError, match=r"row 5 .*[Pp]ixels"):
        rgb(claiming(*size), "row 5")


def test_the_most_pixels_are_decoded_and_one_row_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 100)
    assert decoded(encoded(Image.new("RGB", (10, 10)))).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="here has 10 x 11 pixels; 1 to 100 are decoded"):
        decoded(encoded(Image.new("RGB", (10, 11))))


@pytest.mark.parametrize("content", [claiming(0, 0), claiming(0, 5), b"P6\n0 0\n255\n", b"P5\n5 0\n255\n"])
def test_an_image_of_no_pixels_is_none(content: bytes) -> None:
    with pytest.raises(ImageError, match="row 5"):
        rgb(content, "row 5")


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1)])
def test_a_thin_image_becomes_a_square(size: tuple[int, int]) -> None:
    image = rgb(encoded(Image.new("RGB", size, (9, 8, 7))), "here")
    for square in (pixels(centre(image, 96)), random_part(image, 96, key(0), 0)):
        assert (square == (9, 8, 7)).all()
        assert square.shape == (96, 96, 3)


def test_no_other_program_is_started_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(drawing)).format == "EPS"  # which Pillow would have Ghostscript draw
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(ImageError, match="row 5 is not an image of a kind that is read here"):
        rgb(drawing, "row 5")


@pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "TGA", "PDF"])
def test_other_kinds_of_images_are_not_read(kind: str) -> None:
    with pytest.raises(ImageError, match=r"row 5 is not an image of a kind that is read here \(JPEG, "):
        rgb(encoded(photo(), kind), "row 5")


def quietly(content: bytes) -> Image.Image:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        image = rgb(content, "here")
    assert [str(warning.message) for warning in heard] == []
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("junk", [b"Exif\0\0" + b"II*\0" + b"\xff" * 40, b"Exif\0\0MM\0*", b"\xff" * 9, b"Exif\0\0"])
def test_junk_beside_the_pixels_neither_matters_nor_warns(kind: str, junk: bytes) -> None:
    spoilt = {} if kind == "TIFF" else {"exif": junk}  # a TIFF's own directory is of the same form
    found = quietly(encoded(photo(), kind, icc_profile=junk, **spoilt))
    assert np.array_equal(pixels(found), decoded(encoded(photo(), kind)))


def test_a_jpeg_with_a_damaged_list_of_pictures_is_quiet() -> None:
    content = encoded(photo(), "MPO", save_all=True, append_images=[photo()])
    place = content.index(b"MPF\0") + 8
    assert quietly(content[:place] + b"\xff" * 8 + content[place + 8 :]).size == (24, 20)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_picture(kind: str) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in colours)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=others, **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert (decoded(content) == colours[0]).all()


ODD = [struct.error, IndexError, TypeError, KeyError, zlib.error, EOFError, RuntimeError, OverflowError, MemoryError]
ODD += [RecursionError, SyntaxError, ValueError, AssertionError, AttributeError, UserWarning, ZeroDivisionError]


@pytest.mark.parametrize("kind", ODD)
def test_whatever_a_decoder_raises_names_the_place(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("a strange reason")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ImageError, match=f"row 5 cannot be decoded: .*a strange reason.* \\({kind.__name__}\\)"):
        rgb(encoded(photo()), "row 5")


def test_an_interruption_is_not_taken_for_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rgb(encoded(photo()), "row 5")


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
        assert random_part(image, side, key(1, 2, 3), index).shape == (side, side, 3)


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


def test_a_random_part_is_a_function_of_key_and_index() -> None:
    image = photo().resize((120, 90))

    def part(seed: int, index: int) -> bytes:
        return random_part(image, 32, key(seed, 0), index).tobytes()

    assert part(0, 5) == part(0, 5)
    assert len({part(0, index) for index in range(20)}) == 20
    assert part(0, 5) != part(1, 5)


def test_random_parts_cover_8_to_100_percent_in_ratios_of_3_to_4() -> None:
    left, top, widths, heights = np.array([random_box(400, 400, folded=key(0), index=n) for n in range(500)]).T
    areas, ratios = widths * heights / 400**2, widths / heights
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + widths <= 400).all()
    assert (top + heights <= 400).all()
    assert 0.075 < areas.min() < 0.12
    assert 0.85 < areas.max() <= 1
    assert 0.73 < ratios.min() < 0.79
    assert 1.27 < ratios.max() < 1.36


def photograph(width: int, height: int) -> Image.Image:
    """Smooth, as photographs are: what JPEG does to it is little."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("box", [(0, 0, 400, 300), (37, 21, 200, 150), (300, 200, 64, 64), (10, 0, 33, 300)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_part_is_what_pillow_makes_of_it(kind: str, box: Box) -> None:
    image = photograph(400, 300)
    left, top, width, height = box
    wanted = image.resize((48, 48), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    found = cropped(encoded(image, kind, quality=95), "here", lambda *_: box, 48)
    difference = np.abs(found.astype(int) - np.asarray(wanted))
    assert difference.mean() < (1 if kind == "PNG" else 3)
    assert difference.max() < (3 if kind == "PNG" else 16)


@pytest.mark.parametrize(("side", "decoded"), [(300, 300), (200, 300), (150, 150), (76, 150), (75, 75), (37, 38)])
def test_jpeg_is_decoded_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch, side: int, decoded: int) -> None:
    sizes = []
    monkeypatch.setattr(decoding, "scaled", lambda image, box, _: sizes.append((image.shape, box)))
    cropped(encoded(photograph(400, 300), "JPEG"), "here", lambda width, height: (0, 0, width, height), side)
    [((height, width, _), box)] = sizes
    assert height == decoded
    assert width == decoded * 4 // 3
    assert box[2] <= width
    assert box[3] <= height


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_each_kind_of_jpeg_is_cropped(mode: str) -> None:
    content = encoded(photograph(400, 400).convert(mode), "JPEG", quality=95)
    whole = pixels(rgb(content, "here").resize((64, 64), Image.Resampling.BILINEAR))
    found = cropped(content, "here", lambda *_: (0, 0, 400, 400), 64)
    assert np.abs(found.astype(int) - whole).mean() < 3


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(500)])
def test_no_part_of_what_is_no_image(content: bytes) -> None:
    with pytest.raises(ImageError, match="row 5"):
        cropped(content, "row 5", lambda *_: (0, 0, 1, 1), 8)


def test_no_part_of_a_truncated_photograph() -> None:
    content = encoded(photograph(400, 300), "JPEG")
    with pytest.raises(ImageError, match="row 5"):
        cropped(content[: len(content) // 2], "row 5", lambda *_: (0, 0, 100, 100), 8)


def test_no_part_of_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg is not a regular file"):
        cropped(tmp_path / "gone.jpg", str(tmp_path / "gone.jpg"), lambda *_: (0, 0, 1, 1), 8)
