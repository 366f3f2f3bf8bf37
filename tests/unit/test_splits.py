import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrib.images.decoding import ImageError
from distrib.images.sources import load
from distrib.images.splits import ArraySplit, FileSplit, Split, TableSplit
from distrib.settings import Data

# A checkpoint holds fingerprints: if they changed between versions, no run could go on.
GOLDEN = {
    "array": "f3ade49d1305237c974d54c85aa5169ce038cd37eb6a6bcec39a740965048665",
    "files": "5ec583f2f28c2d1133e37d767b267d3e102ed65adb86af98b04da16cbef23ee4",
    "5000 files": "a497a4c67de2227ba08fcd6a5fcfcfc8dcfd4300bfa2a051f770415804bdee67",
    "table": "c665a7872346a6faf859fc9a54bfddd3022e87ceb38686e7fc83df04bb3fb53f",
}

Cells = list[dict[str, Any] | None]


def array(images: int = 5000) -> ArraySplit:
    pixels = np.arange(images * 2 * 3 * 3, dtype=np.int64) * 7 % 251
    labels = np.arange(images, dtype=np.int64) % 3
    return ArraySplit("some", pixels.astype(np.uint8).reshape(images, 2, 3, 3), labels)


def files(root: Path = Path("/data"), names: tuple[str, ...] = ("cat/0.png", "dog/0.png", "cat/1.png")) -> FileSplit:
    parts = [name.split("/") for name in names]
    classes = sorted({folder for folder, _ in parts})
    labels = np.array([classes.index(folder) for folder, _ in parts])
    return FileSplit([root / name for name in classes], [file for _, file in parts], labels)


@pytest.fixture
def table() -> Callable[..., TableSplit]:
    """Makes a table of encoded images, without what decodes them."""
    from datasets import Dataset, Features, Image

    def make(cells: Cells, labels: list[int] | None = None, column: str = "image", name: str = "some") -> TableSplit:
        made = Dataset.from_dict({column: cells}, features=Features({column: Image(decode=False)}))
        classes = np.array(labels if labels is not None else [0] * len(cells), dtype=np.int64)
        return TableSplit(name, made, column, np.arange(len(cells)), classes)

    return make


def encoded(*lengths: int) -> Cells:
    return [{"bytes": bytes(length), "path": None} for length in lengths]


def changed(split: Any, **fields: Any) -> str:
    return dataclasses.replace(split, **fields).fingerprint()


def test_fingerprints_never_change_between_versions(table: Callable[..., TableSplit]) -> None:
    assert array().fingerprint() == GOLDEN["array"]
    assert files().fingerprint() == GOLDEN["files"]
    many = tuple(f"{'cat' if number % 3 else 'dog'}/{number}.png" for number in range(5000))
    assert files(names=many).fingerprint() == GOLDEN["5000 files"]
    rows: Cells = [*encoded(3, 5), {"bytes": None, "path": "/data/train/cat/7.png"}]
    assert table(rows, [0, 1, 0]).fingerprint() == GOLDEN["table"]


def test_pixels_shape_and_labels_decide_in_memory() -> None:
    split = array()
    here = split.fingerprint()
    for place in (0, 4095, 4096, 4999):
        pixels = split.pixels.copy()
        pixels[place, 1, 2, 0] ^= 1
        assert changed(split, pixels=pixels) != here
    assert changed(split, labels=np.roll(split.labels, 1)) != here
    assert changed(split, pixels=split.pixels.reshape(5000, 3, 2, 3)) != here
    assert changed(split, pixels=np.ascontiguousarray(split.pixels[::-1])) != here


def test_neither_name_nor_layout_in_memory_decide() -> None:
    split = array()
    planes = np.ascontiguousarray(split.pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)  # as CIFAR comes
    assert not planes.flags.c_contiguous
    assert changed(split, name="other", pixels=planes, labels=split.labels.astype(">i8")) == split.fingerprint()


def test_names_order_and_labels_decide_among_files() -> None:
    here = files().fingerprint()
    assert files(names=("cat/0.png", "dog/0.png", "cat/2.png")).fingerprint() != here
    assert files(names=("cat/0.png", "cow/0.png", "cat/1.png")).fingerprint() != here
    assert files(names=("dog/0.png", "cat/0.png", "cat/1.png")).fingerprint() != here
    assert changed(files(), labels=np.array([0, 1, 1])) != here


def test_files_may_move_and_need_not_be_there() -> None:
    assert files(Path("/elsewhere/on/this/disk")).fingerprint() == files().fingerprint()
    assert files(Path("train")).fingerprint() == files().fingerprint()


def test_names_that_are_no_text_are_told_apart() -> None:
    odd = [files(names=(f"cat/{name}.png", "dog/0.png", "cat/1.png")).fingerprint() for name in ("\udce9", "\udce8")]
    assert odd[0] != odd[1]


def test_lengths_names_and_labels_decide_in_a_table(table: Callable[..., TableSplit]) -> None:
    here = table(encoded(3, 5, 5)).fingerprint()
    assert table(encoded(3, 5, 6)).fingerprint() != here
    assert table(encoded(5, 3, 5)).fingerprint() != here
    assert table(encoded(3, 5, 5), [0, 0, 1]).fingerprint() != here
    assert table(encoded(3, 5, 5), column="photo").fingerprint() != here
    assert table(encoded(3, 5)).fingerprint() != here
    assert table([*encoded(3, 5), None]).fingerprint() != here
    named = [table([{"bytes": None, "path": f"/a/{name}.png"}]).fingerprint() for name in "xy"]
    assert named[0] != named[1]


def test_a_table_may_move(table: Callable[..., TableSplit]) -> None:
    split = table([{"bytes": None, "path": "/a/x.png"}, {"bytes": b"123", "path": "/a/y.png"}])
    moved = table([{"bytes": None, "path": "/b/c/x.png"}, {"bytes": b"123", "path": None}], name="other")
    assert moved.fingerprint() == split.fingerprint()


def test_only_the_rows_of_the_split_decide(table: Callable[..., TableSplit]) -> None:
    split = table(encoded(*range(20)), list(range(20)))
    odd = np.arange(20) % 2 == 1
    part = split.part(odd)
    assert part.labels.tolist() == list(range(1, 20, 2))
    assert part.where(1) == "row 3 of some, column 'image',"
    other = table([cell if keep else None for cell, keep in zip(encoded(*range(20)), odd, strict=True)])
    assert part.fingerprint() == dataclasses.replace(other.part(odd), labels=part.labels).fingerprint()
    assert part.fingerprint() != split.part(~odd).fingerprint()


@pytest.mark.parametrize("kind", ["array", "files", "table"])
def test_a_head_is_like_a_split_of_so_many(table: Callable[..., TableSplit], kind: str) -> None:
    def make(images: int) -> Split:
        if kind == "array":
            return array(images)
        if kind == "table":
            return table(encoded(*range(images)))
        return FileSplit([Path("/data/cat")], [f"{n}.png" for n in range(images)], np.zeros(images, dtype=np.int64))

    assert make(9).head(4).fingerprint() == make(4).fingerprint()
    assert len(make(9).head(4).labels) == 4
    assert make(9).head(4).head(2).fingerprint() == make(2).fingerprint()
    assert make(9).head(100).fingerprint() == make(9).fingerprint()
    assert len({make(count).fingerprint() for count in range(1, 9)}) == 8


def test_a_kind_is_not_taken_for_another(table: Callable[..., TableSplit]) -> None:
    empty = ArraySplit("", np.zeros((0, 0, 0, 3), dtype=np.uint8), np.zeros(0, dtype=np.int64))
    assert len({empty.fingerprint(), files().head(0).fingerprint(), table(encoded(1)).head(0).fingerprint()}) == 3


def test_a_data_set_keeps_its_fingerprint_where_it_is_moved_to(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "here" / split / name).mkdir(parents=True)
            (tmp_path / "here" / split / name / "0.png").write_bytes(b"any")

    def prints(root: Path) -> list[str]:
        data = load(f"folder:{root}", Data(data=f"folder:{root}"))
        return [data.train.fingerprint(), data.test.fingerprint()]

    before = prints(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert prints(tmp_path / "there") == before
    (tmp_path / "there" / "test" / "dog" / "0.png").rename(tmp_path / "there" / "test" / "dog" / "1.png")
    after = prints(tmp_path / "there")
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_row_that_cannot_be_read_names_itself(table: Callable[..., TableSplit]) -> None:
    class Broken:
        @property
        def data(self) -> "Broken":
            return self

        def column(self, _: str) -> "Broken":
            return self

        def __getitem__(self, row: int) -> None:
            raise OSError(f"the disk is gone, and row {row} with it")

    split = dataclasses.replace(table(encoded(1, 2)), table=Broken())
    with pytest.raises(ImageError, match="row 1 of some, column 'image', cannot be read: the disk is gone, and row 1"):
        split.image(1)


def test_a_damaged_path_in_a_table_names_its_row(table: Callable[..., TableSplit]) -> None:
    import pyarrow as pa
    from datasets import Dataset, Features, Image
    from datasets.table import InMemoryTable

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    cells = pa.StructArray.from_arrays([pa.array([None], pa.binary()), path], fields=list(kind))
    features = Features({"image": Image(decode=False)})
    made = Dataset(InMemoryTable(pa.table({"image": cells}, schema=features.arrow_schema)))
    split = dataclasses.replace(table(encoded(1)), table=made)
    with pytest.raises(ImageError, match="row 0 of some, column 'image', cannot be read"):
        split.image(0)
    assert len(split.fingerprint()) == 64
