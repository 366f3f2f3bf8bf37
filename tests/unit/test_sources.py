import hashlib
import http.client
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrib.images.decoding import ImageError
from distrib.images.hashing import draw, key
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


def test_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digits, test = from_("digits"), np.arange(1797) % 5 == 4
    for split, chosen in ((digits.train, ~test), (digits.test, test)):
        assert (split.labels == labels[chosen]).all()
        assert (split.pixels[..., 0] == np.round(images[chosen].reshape(-1, 8, 8) * 255 / 16)).all()


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


def test_synthetic_images_are_the_pattern_of_their_class_and_noise() -> None:
    found = from_("synthetic", image_size=8, train_images=30, test_images=1).train
    place = np.arange(8 * 8 * 3, dtype=np.int64)
    for index, label in enumerate(found.labels.tolist()):
        expected = draw(key(label, 77), place, 128) + draw(key(0, index, 79), place, 128)
        assert np.array_equal(found.pixels[index].ravel(), expected)


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
        ({"train/cat": 0, "test/cat": 1}, "train has classes without images: cat. Remove their folders or fill them"),
        ({"train/cat": 1, "train/dog": 0, "train/emu": 0, "test/cat": 1}, "has classes without images: dog, emu"),
        ({"train/cat": 1, "test/cat": 0}, "test has no images"),
        ({"train/cat": 1, "test": 0}, "test has no images"),
        ({"train": 3, "test/cat": 1}, "train has no folders of classes"),
        ({"train/cat": 1, "test/Cat": 1}, "has classes that .*train has not: Cat"),
    ],
)
def test_an_unusable_tree_is_told(
    tree: Callable[[dict[str, int]], Path], folders: dict[str, int], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        from_(f"folder:{tree(folders)}")


def test_a_class_may_be_absent_from_the_test_images(tree: Callable[[dict[str, int]], Path]) -> None:
    found = from_(f"folder:{tree({'train/cat': 2, 'train/dog': 2, 'test/dog': 3})}")
    assert found.classes == ("cat", "dog")
    assert found.test.labels.tolist() == [1, 1, 1]


def test_what_begins_with_a_dot_is_neither_class_nor_image(tree: Callable[[dict[str, int]], Path]) -> None:
    root = tree({"train/cat": 2, "train/.ipynb_checkpoints": 1, "test/cat": 1, "test/.thumbnails": 1})
    (root / "train" / "cat" / "._0.png").write_bytes(b"what a Mac leaves behind")
    found = from_(f"folder:{root}")
    assert found.classes == ("cat",)
    assert len(found.train.labels) == 2


def test_only_files_and_links_are_images(tree: Callable[[dict[str, int]], Path]) -> None:
    root = tree({"train/cat": 2, "test/cat": 1})
    os.mkfifo(root / "train" / "cat" / "pipe.jpg")
    (root / "train" / "cat" / "folder.jpg").mkdir()
    (root / "train" / "cat" / "link.png").symlink_to(root / "test" / "cat" / "0.png")
    (root / "train" / "cat" / "loose.png").symlink_to(root / "gone.png")
    found = from_(f"folder:{root}")
    assert found.train.names == ["0.png", "1.png", "link.png", "loose.png"]
    assert found.train.image(2).size == (8, 8)
    with pytest.raises(ImageError, match=r"loose\.png"):
        found.train.image(3)


def test_a_file_in_the_place_of_a_folder_is_told(tree: Callable[[dict[str, int]], Path]) -> None:
    root = tree({"test/cat": 1})
    (root / "train").write_text("no folder")
    with pytest.raises(SettingsError, match=r"has no folder 'train': --data folder:.* should hold train/<class>/\*"):
        from_(f"folder:{root}")
    for place in (root / "train", root / "nowhere", root / ("long" * 100)):
        with pytest.raises(SettingsError, match=f"folder:.*{place.name}"):
            from_(f"folder:{place}")


@pytest.mark.parametrize("place", ["train", "train/cat", "test", "test/cat"])
def test_a_folder_that_may_not_be_read_is_told(
    tree: Callable[[dict[str, int]], Path], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = tree({"train/cat": 1, "test/cat": 1})
    scan = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path) == root / place:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SettingsError, match=f"cannot be read: .*Permission denied: .*{place}"):
        from_(f"folder:{root}")


@pytest.mark.parametrize("place", ["train", "train/dog", "test", "test/dog"])
def test_a_link_in_a_circle_is_told(tree: Callable[[dict[str, int]], Path], place: str) -> None:
    root = tree({name: 1 for name in ("train/cat", "test/cat") if not name.startswith(f"{place}/")})
    if (root / place).exists():
        (root / place).rename(root / "away")
    (root / place).symlink_to(Path(place).name)
    with pytest.raises(SettingsError, match=f"--data folder:{root} "):
        from_(f"folder:{root}")


def test_a_link_to_a_folder_above_is_not_followed_round(tree: Callable[[dict[str, int]], Path]) -> None:
    root = tree({"train/cat": 1, "test/cat": 1})
    (root / "train" / "cat" / "up").symlink_to(root / "train")
    assert len(from_(f"folder:{root}").train.labels) == 1


def test_a_class_whose_name_is_no_text_is_told(tree: Callable[[dict[str, int]], Path]) -> None:
    root = tree({"train/cat": 1, "test/cat": 1})
    (root / "train" / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(
        SettingsError, match=r"a class whose name is no text, 'caf\\udce9': rename its folder"
    ) as refusal:
        from_(f"folder:{root}")
    assert str(refusal.value).isascii()


@pytest.mark.parametrize("kind", ["folder", "hf"])
def test_a_home_of_nobody_is_told(kind: str) -> None:
    with pytest.raises(SettingsError, match="~nobody-of-that-name/images cannot be found"):
        from_(f"{kind}:~nobody-of-that-name/images")


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


def test_tables_that_name_their_classes_in_another_order_are_refused(table: Callable[..., str]) -> None:
    from datasets import ClassLabel

    table("train", columns(6, classes=3), label=ClassLabel(names=["cat", "dog", "emu"]))
    with pytest.raises(SettingsError, match=r"test.*\.parquet names the classes of 'label' emu, dog, cat, .* cat, dog"):
        from_(table("test", columns(5, classes=3), label=ClassLabel(names=["emu", "dog", "cat"])))


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
    with pytest.raises(SettingsError, match="needs a column of the type Image and a label column; it has"):
        from_(table("train", made))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, None], "row 2 of .*holds None"),
        ([0, 1, 0, -1], "row 3 of .*holds -1"),
        ([2.5, 1.0], r"row 0 of .*holds 2\.5"),
        (["cat", "dog"], "row 0 of .*holds 'cat'"),
        ([[0], [1]], r"row 0 of .*holds \[0\]"),
        ([0, 2**63], "row 1 of .*holds 9223372036854775808"),
    ],
)
def test_a_label_that_is_no_class_number_is_told(table: Callable[..., str], labels: list[Any], told: str) -> None:
    import pyarrow as pa

    column = pa.array(labels, type=pa.uint64() if 2**63 in labels else None)
    with pytest.raises(SettingsError, match=told):
        from_(table("train", columns(len(labels)) | {"label": column}))


def test_a_missing_name_among_class_names_is_told(table: Callable[..., str]) -> None:
    from datasets import ClassLabel

    made = columns(10) | {"label": [1, None] * 5}
    with pytest.raises(SettingsError, match=r"row 1 of .*holds None"):
        from_(table("train", made, label=ClassLabel(names=["cat", "dog"])))


def test_labels_of_no_possible_class_are_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="has the label 1000000000000 but only 9 training images"):
        from_(table("train", columns(10) | {"label": [10**12] * 10}))


def test_a_test_label_that_training_never_shows_is_told(table: Callable[..., str]) -> None:
    table("train", columns(10))
    with pytest.raises(
        SettingsError, match="test has the label 3, but the training images have 2 classes, from 0 to 1"
    ):
        from_(table("test", columns(10) | {"label": [3] * 10}))


def test_true_and_false_are_two_classes(table: Callable[..., str]) -> None:
    found = from_(table("train", columns(20) | {"label": [True, False] * 10}))
    assert found.classes == ("0", "1")
    assert found.train.labels.tolist()[:4] == [1, 0, 1, 0]


def test_test_images_without_labels_are_not_used(table: Callable[..., str]) -> None:
    table("train", columns(20))
    found = from_(table("test", columns(5) | {"label": [-1] * 5}))
    assert (len(found.train.labels), len(found.test.labels)) == (18, 2)


def test_too_few_images_to_set_any_aside_are_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="has no labelled test images, nor 10 of which one could be set aside"):
        from_(table("train", columns(9)))


def test_a_table_of_no_rows_is_told(table: Callable[..., str]) -> None:
    with pytest.raises(SettingsError, match="--data hf:"):
        from_(table("train", columns(0)))


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 but no footer"])
def test_a_file_that_is_no_parquet_is_told(table: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table" / "train.parquet").write_bytes(content)
    with pytest.raises(SettingsError, match=r"--data hf:.* cannot be loaded: .*[Pp]arquet"):
        from_(f"hf:{tmp_path / 'table'}")


def test_a_folder_without_data_is_told(table: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="doesn't contain any data files"):
        from_(f"hf:{tmp_path / 'table'}")


def test_rows_without_an_image_name_themselves(table: Callable[..., str], tmp_path: Path) -> None:
    import pyarrow as pa
    from datasets import Features, Image, Value
    from pyarrow import parquet

    os.mkfifo(tmp_path / "pipe.png")
    cells = [None, {}, {"bytes": b"words"}, *({"path": path} for path in (str(tmp_path / "pipe.png"), "gone.png", ""))]
    rows = pa.table(
        {"image": cells, "label": [0] * 6}, schema=Features({"image": Image(), "label": Value("int64")}).arrow_schema
    )
    parquet.write_table(rows, tmp_path / "table" / "train.parquet")
    found = from_(table("test", columns(5, classes=1))).train
    for row, reason in enumerate(["holds no image", "holds no image", "is not an image", "pipe", "gone", "no image"]):
        with pytest.raises(ImageError, match=f"row {row} of .*table/train, column 'image', .*{reason}"):
            found.image(row)


def test_a_damaged_test_image_is_no_reason_not_to_begin(tree: Callable[[dict[str, int]], Path], tmp_path: Path) -> None:
    root = tree({"train/cat": 12, "train/dog": 12, "test/cat": 2, "test/dog": 2})
    (root / "test" / "cat" / "0.png").write_bytes(b"not an image")
    found = from_(f"hf:{root}")
    assert found.classes == ("cat", "dog")
    with pytest.raises(ImageError, match=r"row 0 of .*/test, column 'image', file .*0\.png, is not an image"):
        found.test.image(0)
    assert found.test.image(1).size == (8, 8)


class Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))  # noqa: S301 - it would work
    trap.path.rmdir()
    return trap


@pytest.mark.parametrize("name", ["table.py", "loader.py", "__init__.py", "dataset_infos.py"])
def test_a_script_in_a_data_set_is_never_run(table: Callable[..., str], tmp_path: Path, trap: Trap, name: str) -> None:
    place = table("train", columns(20))
    (tmp_path / "table" / name).write_text(f"import os\nos.mkdir({str(trap.path)!r})\n")
    if name == "table.py":  # named like its folder: how data sets once said how to load them
        with pytest.raises(SettingsError, match=r"scripts are no longer supported, but found table\.py"):
            from_(place)
    else:
        assert len(from_(place).train.labels) == 18
    assert not trap.path.exists()


@pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "train.pt", "train.npy", "train.joblib"])
def test_a_pickle_in_a_data_set_is_never_opened(
    table: Callable[..., str], tmp_path: Path, trap: Trap, name: str
) -> None:
    (tmp_path / "table" / name).write_bytes(pickle.dumps(trap))
    (tmp_path / "table" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  builder_name: pandas\n---\n"
    )
    with pytest.raises(SettingsError, match="--data hf:"):
        from_(f"hf:{tmp_path / 'table'}")
    assert not trap.path.exists()


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


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a little CIFAR-10, whose sums are those that torchvision knows unless ``damaged`` names a file."""
    from torchvision.datasets import CIFAR10

    def write(damaged: str | None = None, instead: object = None) -> Path:
        folder = tmp_path / "root" / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        sums = {}
        for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]):
            entry: Any = {"data": np.full((2, 3072), number, dtype=np.uint8), "labels": [number, 0]}
            content = pickle.dumps({"label_names": list("abcdefghij")} if name == "batches.meta" else entry)
            sums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
            (folder / name).write_bytes(pickle.dumps(instead) if name == damaged else content)
        monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
        return folder.parent

    return write


@pytest.mark.usefixtures("unplugged")
def test_an_archive_with_the_right_sums_is_read(archive: Callable[..., Path]) -> None:
    root = archive()
    assert locate(Data(data="auto", data_root=root)) == "cifar10"
    found = from_("cifar10", data_root=root)
    assert found.classes == tuple("abcdefghij")
    assert found.train.labels.tolist() == [0, 0, 1, 0, 2, 0, 3, 0, 4, 0]
    assert found.train.pixels.shape == (10, 32, 32, 3)
    assert found.test.labels.tolist() == [5, 0]


@pytest.mark.usefixtures("unplugged")
@pytest.mark.parametrize("damaged", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_an_archive_with_other_sums_is_refused_before_it_is_unpickled(
    archive: Callable[..., Path], trap: Trap, damaged: str
) -> None:
    root = archive(damaged, trap)
    for look in (locate, lambda data: load("cifar10", data)):
        with pytest.raises(SettingsError, match=r"--data cifar10 is not in .*could not be downloaded"):
            look(Data(data="cifar10", data_root=root))
    assert locate(Data(data="auto", data_root=root)) == "digits"
    assert not trap.path.exists()


@pytest.mark.parametrize("name", ["auto", "cifar10", "cifar100"])
def test_a_data_root_that_is_a_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(SettingsError, match=r"--data-root .*data is a file: name a folder"):
        locate(Data(data=name, data_root=tmp_path / "data"))


@pytest.mark.parametrize(
    "error", [http.client.BadStatusLine("gibberish"), ConnectionResetError("gone"), TimeoutError()]
)
def test_a_strange_answer_from_the_network_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(SettingsError, match=r"--data cifar10 is not in .* could not be downloaded"):
        locate(Data(data="cifar10", data_root=tmp_path))


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
