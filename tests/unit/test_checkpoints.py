import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint, Retention
from distrib.settings import SettingsError

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def state(update: int, top1: float | None = None) -> dict[str, object]:
    return {"update": update, "epoch": 0, "finished": False, "test_top1": top1, "data": {}}


def save(
    folder: Path,
    update: int,
    top1: float | None = None,
    keeps: Retention = Retention(newest=2),  # noqa: B008 - frozen
) -> Checkpoint:
    model = {"a": torch.full((3, 2), float(update)), "b": torch.arange(4)}
    optimizer = {"a/momentum_buffer": torch.ones(3, 2) * update}
    groups = {"model": model, "optimizer": optimizer, "average": {}}
    return checkpoints.save(folder, groups, state(update, top1), keeps)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def flip_last(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGES = [truncate, flip, Path.unlink]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = save(tmp_path, 5, 0.5)
    assert saved.path.name == "update-000000005"
    assert saved.fault() is None
    assert saved.state == state(5, 0.5)
    assert saved.update == 5
    assert torch.equal(saved.tensors("model")["a"], torch.full((3, 2), 5.0))
    assert torch.equal(saved.tensors("model")["b"], torch.arange(4))
    assert saved.tensors("average") == {}
    assert saved.tensors("nothing") == {}


def test_tensors_and_json_are_all_there_is(tmp_path: Path) -> None:
    assert names(save(tmp_path, 5).path) == sorted(FILES)
    content = (tmp_path / "update-000000005" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) - {"__metadata__"} == {"a", "b"}
    assert names(tmp_path) == ["update-000000005"]


def test_who_may_read_the_folder_may_read_its_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        saved = save(tmp_path, 5)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in saved.path.iterdir()} == {0o640}


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    for update in (9, 10):
        save(tmp_path, update)
    found, messages = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 10
    assert messages == []


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) == (None, [])
    assert checkpoints.best(tmp_path) is None
    assert checkpoints.every(tmp_path / "nowhere") == []


def test_two_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for update, top1 in enumerate([0.1, 0.9, 0.5, 0.6, None, 0.7], start=1):
        save(tmp_path, update, top1)
    assert names(tmp_path) == ["update-000000002", "update-000000005", "update-000000006"]
    best = checkpoints.best(tmp_path)
    assert best is not None
    assert best.state["update"] == 2


def test_as_many_stay_as_are_asked_for(tmp_path: Path) -> None:
    for update in range(1, 10):
        save(tmp_path, update, 0.5, Retention(newest=1, every=4))
    assert [c.update for c in checkpoints.every(tmp_path)] == [1, 4, 8, 9]  # the best, each fourth, the newest


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_pruned_for_one_that_does_not_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for update in (1, 2):
        save(tmp_path, update)

    def disk(path: Path) -> None:
        if path.name == name:
            flip_last(path)

    monkeypatch.setattr(checkpoints, "sync", disk)
    with pytest.raises(OSError, match=f"{name} does not read back"):
        save(tmp_path, 3)
    monkeypatch.undo()
    assert [c.update for c in checkpoints.every(tmp_path)] == [1, 2]
    assert checkpoints.newest(tmp_path)[0] == checkpoints.every(tmp_path)[1]


def test_killed_between_two_renames_the_first_of_one_update_comes_back(tmp_path: Path) -> None:
    before = save(tmp_path, 3, 0.1).path
    before.rename(before.with_name(f".before-{before.name}"))
    found, messages = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state == state(3, 0.1)
    assert messages == []
    assert names(tmp_path) == ["update-000000003"]


def test_the_earlier_of_equals_is_best(tmp_path: Path) -> None:
    save(tmp_path, 1, 0.5)
    save(tmp_path, 2, 0.5)
    best = checkpoints.best(tmp_path)
    assert best is not None
    assert best.state["update"] == 1


def test_of_equals_the_one_that_pruning_keeps_is_evaluated(tmp_path: Path) -> None:
    for update in range(1, 6):
        save(tmp_path, update, 0.5)
    assert [c.update for c in checkpoints.every(tmp_path)] == [1, 4, 5]
    assert checkpoints.whole(tmp_path) == checkpoints.best(tmp_path) == checkpoints.every(tmp_path)[0]


def test_without_scores_there_is_no_best(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert checkpoints.best(tmp_path) is None


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_an_older_one(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2).path / file)
    found, messages = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 1
    (message,) = messages
    assert "update-000000002" in message
    assert "damaged-update-000000002" in message
    assert names(tmp_path) == ["damaged-update-000000002", "update-000000001"]
    assert checkpoints.newest(tmp_path) == (found, [])


def test_if_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for update in (1, 2):
        flip(save(tmp_path, update).path / "model.safetensors")
    found, messages = checkpoints.newest(tmp_path)
    assert found is None
    assert len(messages) == 2


@pytest.mark.parametrize("missing", ["update", "epoch", "finished", "data"])
def test_a_state_that_lacks_what_a_run_needs_is_damage(tmp_path: Path, missing: str) -> None:
    rest = {name: value for name, value in state(1).items() if name != missing}
    saved = save(tmp_path, 1)
    (saved.path / "state.json").write_text(json.dumps(rest))
    manifest = json.loads((saved.path / "manifest.json").read_text())
    manifest["state.json"] = checkpoints.sha256(saved.path / "state.json")
    (saved.path / "manifest.json").write_text(json.dumps(manifest))
    fault = saved.fault()
    assert fault is not None
    assert missing in fault


def test_a_manifest_that_points_elsewhere_is_damage(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    manifest = json.loads((saved.path / "manifest.json").read_text())
    manifest["../update-000000001/model.safetensors"] = manifest["model.safetensors"]
    (saved.path / "manifest.json").write_text(json.dumps(manifest))
    assert saved.fault() is not None


def test_a_quick_look_sees_what_is_missing_or_cut_short_but_not_a_bit(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    assert saved.fault(hashes=False) is None
    flip_last(saved.path / "model.safetensors")
    assert saved.fault(hashes=False) is None
    assert saved.fault() is not None
    truncate(saved.path / "model.safetensors")
    assert saved.fault(hashes=False) is not None
    (saved.path / "model.safetensors").unlink()
    assert saved.fault(hashes=False) is not None


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", "", '{"model.safetensors": 3}'])
def test_a_manifest_that_vouches_for_nothing_is_damage(tmp_path: Path, manifest: str) -> None:
    saved = save(tmp_path, 1)
    (saved.path / "manifest.json").write_text(manifest)
    assert saved.fault() is not None


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_older_state_does_not_end_the_run_at_its_next_save(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(save(tmp_path, 1, 0.5).path / "state.json")
    save(tmp_path, 2, 0.4)
    found, _ = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 2


def test_the_same_update_saved_again_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 3, 0.1)
    assert save(tmp_path, 3, 0.2).state["test_top1"] == 0.2
    assert names(tmp_path) == ["update-000000003"]


def test_what_an_interruption_left_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".partial-update-000000002").mkdir()
    (tmp_path / ".partial-update-000000002" / "rubbish").write_text("half")
    found, messages = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 1
    assert messages == []
    assert "rubbish" not in names(save(tmp_path, 2).path)


def test_an_interrupted_save_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["update-000000001"]  # what was half written does not take the room
    found, _ = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.state["update"] == 1


def first(tensors: dict[str, torch.Tensor]) -> float:
    return tensors["a"][0, 0].item()


def test_weights_come_from_a_run_a_checkpoint_or_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    older, newer = save(folder, 1), save(folder, 2)
    assert first(checkpoints.weights(tmp_path)) == 2
    assert first(checkpoints.weights(older.path)) == 1
    assert first(checkpoints.weights(newer.path / "model.safetensors")) == 2
    save(folder, 3, 0.9)
    save(folder, 4, 0.8)
    assert first(checkpoints.weights(tmp_path)) == 3


@pytest.mark.parametrize("place", ["nowhere", ".", "text.safetensors", "run"])
def test_nonsense_has_no_weights(tmp_path: Path, place: str) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SettingsError, match="no weights in"):
        checkpoints.weights(tmp_path / place)


@pytest.mark.parametrize("file", ["state.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [*DAMAGES, flip_last])
def test_weights_of_a_damaged_best_come_from_another(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save(folder, 1, 0.5)
    damage(save(folder, 2, 0.9).path / file)
    assert first(checkpoints.weights(tmp_path)) == 1


def test_a_sum_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checkpoints.sha256(tmp_path / "file") == expected
