import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrib.images.sources import load, locate
from distrib.images.splits import ArraySplit
from distrib.settings import Data, SettingsError


def picture(shade: int, size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), (shade, 0, 0))


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """Makes folders of so many tiny images."""

    def grow(folders: dict[str, int]) -> Path:
        for name, count in folders.items():
            (tmp_path / name).mkdir(parents=True)
            for shade in range(count):
                picture(shade).save(tmp_path / name / f"{shade}.png")
        return tmp_path

    return grow


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a local data set of parquet files."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "table"
    folder.mkdir()

    def write(split: str, columns: dict[str, list[Any]], **features: Any) -> str:
        made = datasets.Dataset.from_dict(columns)
        for name, feature in features.items():
            made = made.cast_column(name, feature)
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return f"hf:{folder}"

    return write


def from_(place: str, **more: Any) -> Any:
    return load(place, Data(data=place, **more))


def columns(count: int, classes: int = 2) -> dict[str, list[Any]]:
    return {"image": [picture(shade) for shade in range(count)], "label": [n % classes for n in range(count)]}


def test_digits_are_1797_of_ten_classes() -> None:
    digits = from_("digits")
    assert digits.classes == tuple("0123456789")
    assert (len(digits.train.labels), len(digits.test.labels)) == (1438, 359)
    assert digits.train.pixels.shape == (1438, 8, 8, 3)
    assert digits.train.pixels.dtype == np.uint8
    assert digits.train.pixels.max() == 255
    assert set(digits.test.labels.tolist()) == set(range(10))
    assert not digits.mirrored


def test_no_digit_is_in_both_splits() -> None:
    digits = from_("digits")
    train = {image.tobytes() for image in digits.train.pixels}
    assert not train & {image.tobytes() for image in digits.test.pixels}


def test_digits_show_their_classes() -> None:
    digits = from_("digits")
    flat = digits.train.pixels[..., 0].reshape(len(digits.train.labels), -1).astype(float)
    centres = np.stack([flat[digits.train.labels == digit].mean(0) for digit in range(10)])
    seen = digits.test.pixels[..., 0].reshape(len(digits.test.labels), -1)
    guesses = np.linalg.norm(seen[:, None] - centres, axis=2).argmin(1)
    assert (guesses == digits.test.labels).mean() > 0.8


def test_synthetic_images_are_the_same_twice_and_of_the_size_asked_for() -> None:
    first, second = (from_("synthetic", image_size=12, train_images=40, test_images=20) for _ in range(2))
    assert first.train.pixels.shape == (40, 12, 12, 3)
    assert first.test.pixels.shape == (20, 12, 12, 3)
    assert np.array_equal(first.train.pixels, second.train.pixels)
    assert np.array_equal(first.train.labels, second.train.labels)
    assert not np.array_equal(first.train.pixels[:20], first.test.pixels)
    assert len(first.classes) == 10


def test_more_synthetic_images_begin_with_the_same_ones() -> None:
    few, many = (from_("synthetic", image_size=8, train_images=count, test_images=1) for count in (10, 30))
    assert np.array_equal(few.train.pixels, many.train.pixels[:10])
    assert np.array_equal(few.train.labels, many.train.labels[:10])


def test_only_the_first_images_are_used_if_asked() -> None:
    whole, part = from_("digits"), from_("digits", train_images=30, test_images=7)
    assert np.array_equal(part.train.pixels, whole.train.pixels[:30])
    assert np.array_equal(part.test.labels, whole.test.labels[:7])
    assert part.classes == whole.classes


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_a_folder_tree_gives_classes_in_order_of_name(tree: Callable[[dict[str, int]], Path], test: str) -> None:
    root = tree({"train/dog": 3, "train/cat": 2, f"{test}/cat": 1, f"{test}/dog": 4})
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "readme.txt").write_text("no class")
    found = from_(f"folder:{root}")
    assert found.classes == ("cat", "dog")
    assert found.train.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.test.labels.tolist() == [0, 1, 1, 1, 1]
    assert np.asarray(found.train.image(4))[0, 0].tolist() == [2, 0, 0]
    assert found.train.where(4) == str(root / "train" / "dog" / "2.png")
    assert from_(f"folder:{root}", train_images=2).train.labels.tolist() == [0, 1]  # some of every class


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"test/cat": 1}, "no folder 'train'"),
        ({"train/cat": 1}, "no folder 'test'"),
        ({"train/cat": 1, "test/cat": 1, "test/emu": 1}, "has classes that .*train has not: emu"),
        ({"train/cat": 0, "test/cat": 1}, "train has no images"),
        ({"train/cat": 1, "test/cat": 0}, "test has no images"),
    ],
)
def test_an_unusable_tree_is_told(
    tree: Callable[[dict[str, int]], Path], folders: dict[str, int], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        from_(f"folder:{tree(folders)}")


def test_a_table_with_class_names_and_a_test_split(table: Callable[..., str]) -> None:
    from datasets import ClassLabel

    names = ClassLabel(names=["cat", "dog", "emu"])
    table("train", columns(6, classes=3), label=names)
    found = from_(table("test", columns(3, classes=3), label=names))
    assert found.classes == ("cat", "dog", "emu")
    assert found.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(found.test.labels) == 3
    assert np.asarray(found.train.image(5))[0, 0].tolist() == [5, 0, 0]
    assert "row 5" in found.train.where(5)


def test_a_table_without_class_names_or_test_split_sets_every_tenth_aside(table: Callable[..., str]) -> None:
    found = from_(table("train", columns(40, classes=4)))
    assert found.classes == ("0", "1", "2", "3")
    assert (len(found.train.labels), len(found.test.labels)) == (36, 4)
    shades = [np.asarray(found.test.image(row))[0, 0, 0] for row in range(4)]
    assert shades == [9, 19, 29, 39]
    assert np.asarray(found.train.image(9))[0, 0, 0] == 10
    assert len(from_(table("train", columns(40)), train_images=5).train.labels) == 5


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_table_without_a_column_is_told(table: Callable[..., str], missing: str) -> None:
    made = columns(10)
    del made[missing]
    with pytest.raises(SettingsError, match="needs an image and a label column; it has"):
        from_(table("train", made))


def test_a_table_whose_labels_are_words_is_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="label"):
        from_(table("train", columns(10) | {"label": ["cat", "dog"] * 5}))


def test_a_table_with_a_missing_label_is_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="label"):
        from_(table("train", columns(10) | {"label": [0, None] * 5}))


def test_a_table_without_a_train_split_is_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="no split 'train', only test"):
        from_(table("test", columns(10)))


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such folder"):
        from_(f"hf:{tmp_path / 'nowhere'}")


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("unplugged")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_named_data_that_cannot_be_had_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        locate(Data(data=name, data_root=tmp_path / "data"))
    message = str(refusal.value)
    for needle in (f"--data {name}", str(tmp_path / "data"), "--data-root", "--data digits", "no network"):
        assert needle in message
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("unplugged")
def test_a_damaged_copy_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(SettingsError, match="--data cifar10"):
        locate(Data(data="cifar10", data_root=tmp_path))


@pytest.mark.usefixtures("unplugged")
def test_auto_alone_falls_back_on_digits(tmp_path: Path) -> None:
    assert locate(Data(data="auto", data_root=tmp_path)) == "digits"


@pytest.mark.parametrize("name", ["digits", "synthetic", "folder:x", "hf:x"])
def test_other_names_stand_for_themselves(name: str) -> None:
    assert locate(Data(data=name)) == name


def test_a_row_names_itself() -> None:
    split = ArraySplit("some", np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64))
    assert split.where(1) == "image 1 of some"
