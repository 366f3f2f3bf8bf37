"""What must be the same for any number of processes: one launch for each number, looked at by several tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.launching import command, journal, run
from tests.ranks.worker import SCHEDULES

WORKER = Path(__file__).with_name("worker.py")
WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """60 images of several sizes, in two classes."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = draws.integers(60, 120, 2)
                pixels = draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def seen(tmp_path_factory, folder) -> dict[int, list[dict]]:
    """By number of processes, what each rank saw."""
    found = {}
    for world in WORLDS:
        out = tmp_path_factory.mktemp(f"world-{world}")
        run([*command(WORKER, world), str(out), str(folder)])
        ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]
        assert [rank["num_processes"] for rank in ranks] == [world] * world
        for policy in ("stop", "skip", "rollback"):
            ranks[0]["diverged"][policy]["journal"] = journal(out / policy / "run")
        found[world] = ranks
    return found


@pytest.mark.parametrize("loading", ["memory", "workers-0", "workers-2"])
@pytest.mark.parametrize("world", [2, 4])
def test_every_update_sees_the_same_images_with_the_same_augmentation(seen, loading, world):
    alone = seen[1][0]["images"][loading]
    together = [row for rank in seen[world] for row in rank["images"][loading]]
    together.sort(key=lambda row: row[0])  # by update; within one, ranks follow one another
    assert len(alone) == 2 * (len(alone) // 2) > 0
    assert len({digest for _, _, digest in alone}) > len(alone) / 2  # augmentation makes epochs differ
    assert together == alone


@pytest.mark.parametrize("world", WORLDS)
def test_the_processes_of_a_node_hold_images_in_memory_once(seen, world):
    assert [rank["sharing"] for rank in seen[world]] == [77] * world
    assert not list(Path("/dev/shm").glob("distrib-*"))  # noqa: S108


@pytest.mark.parametrize("world", WORLDS)
def test_what_one_rank_refuses_all_refuse(seen, world):
    assert [rank["refused"] for rank in seen[world]] == [f"no such folder on rank {world - 1}"] * world


@pytest.mark.parametrize("world", WORLDS)
def test_the_first_process_of_a_node_goes_before_the_others(seen, world):
    first, *others = (rank["turns"] for rank in seen[world])
    assert first == 0
    assert all(turn >= 1 for turn in others)


def test_workers_change_nothing(seen):
    assert seen[1][0]["images"]["workers-0"] == seen[1][0]["images"]["workers-2"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("micro", ["None", "5"])
def test_weights_depend_on_the_global_batch_alone(seen, world, micro):
    reference = seen[1][0]["learned"]["None"]
    for rank in seen[world]:
        found = rank["learned"][micro]
        assert found["updates"] == reference["updates"] == 6
        np.testing.assert_allclose(found["weights"], reference["weights"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["average"], reference["average"], rtol=1e-4, atol=1e-6)
        assert found["train_loss"] == pytest.approx(reference["train_loss"], rel=1e-5)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_hold_the_same_weights_to_the_last_bit(seen, world):
    first, *others = (rank["learned"]["5"]["weights"] for rank in seen[world])
    assert all(other == first for other in others)


@pytest.mark.parametrize("world", [2, 4])
def test_gradients_are_summed_over_processes_once_an_update(seen, world):
    for rank in seen[world]:
        assert rank["learned"]["5"]["summed"] == rank["learned"]["None"]["summed"] == 6


@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_counts_each_image_once(seen, world):
    assert 359 % 2  # neither the batch nor the number of processes divides the test images
    loss, top1, top5, count = seen[1][0]["learned"]["None"]["scores"]
    assert count == 359
    for rank in seen[world]:
        scores = rank["learned"]["None"]["scores"]
        assert scores[3] == 359
        np.testing.assert_allclose(scores, [loss, top1, top5, count], rtol=1e-4)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_torchs_own_whatever_the_number_of_processes(seen, world, name):
    for rank in seen[world]:
        rows, losses = rank["rates"][name]
        assert len(rows) == 16
        np.testing.assert_allclose([row[0] for row in rows], oracle(name, losses), rtol=1e-9)


def oracle(name: str, losses: list[float]) -> list[float]:
    """The rates of torch's own scheduler, stepped once an update: 4 epochs of 4 updates."""
    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
    warm = {"start_factor": 0.01, "end_factor": 1.0}
    if name == "plateau":
        made = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    elif name == "onecycle":
        made = schedulers.OneCycleLR(optimizer, max_lr=0.3, total_steps=16)
    elif name == "cosine":
        rise = schedulers.LinearLR(optimizer, total_iters=4, **warm)
        fall = schedulers.CosineAnnealingLR(optimizer, T_max=12, eta_min=0.001)
        made = schedulers.SequentialLR(optimizer, [rise, fall], milestones=[4])
    elif name == "restarts":
        made = schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=4, T_mult=2)
    elif name == "multistep":
        made = schedulers.MultiStepLR(optimizer, milestones=[8], gamma=0.1)
    else:
        made = schedulers.LinearLR(optimizer, total_iters=2, **warm)
    rates = []
    for update in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if name != "plateau":
            made.step()
        elif update % 4 == 3:
            made.step(losses[update // 4])
    return rates


def test_plateau_really_reduced_the_rate_in_this_test(seen):
    rows, _ = seen[1][0]["rates"]["plateau"]
    assert rows[-1][0] < rows[0][0]


@pytest.mark.parametrize("world", [2, 4])
def test_statistics_are_averaged_for_looking_and_stay_each_ranks_own(seen, world):
    ranks = [rank["statistics"] for rank in seen[world]]
    for name in ranks[0]["own"]:
        own = np.array([rank["own"][name] for rank in ranks], dtype=np.float32)
        assert np.ptp(own, axis=0).max() > 0  # each normalised by its own share
        assert [rank["after"][name] for rank in ranks] == [rank["own"][name] for rank in ranks]
        for rank in ranks:
            np.testing.assert_allclose(rank["saved"][name], own.mean(0), rtol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_training_goes_on_while_it_is_copied_for_a_checkpoint_but_changes_nothing_before(seen, world):
    found = seen[world][0]["saving"]
    assert found["order"] == ["saved", "computed, 0 written", "waited", "stepped, copied: True"]
    looked_at = {name for name in found["before"] if "running" not in name or world == 1}  # others' are in the mean
    assert len(looked_at) > 4
    assert {name: found["saved"][name] for name in looked_at} == {name: found["before"][name] for name in looked_at}


POLICIES = ("stop", "skip", "rollback")


def events(rank: dict, policy: str, kind: str) -> list[dict]:
    return [record for record in rank["diverged"][policy]["journal"] if record.get("event") == kind]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("world", WORLDS)
def test_an_update_that_is_not_a_number_on_one_rank_reaches_the_weights_of_none(seen, world, policy):
    found = [rank["diverged"][policy] for rank in seen[world]]
    assert all(one["weights"] == found[0]["weights"] for one in found)
    before = found[0]["weights"]  # of update 1, 2 ..., and after the last
    assert before[4] == before[5]
    assert all(before[k] != before[k + 1] for k in range(4))
    assert np.isfinite(np.concatenate([np.ravel(w) for step in before for w in step])).all()
    for one in found:
        assert all(np.isfinite(np.ravel(values)).all() for values in one["statistics"])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("world", WORLDS)
def test_its_rank_and_images_are_named(seen, world, policy):
    kind = "diverged" if policy == "stop" else "skip"
    (event,) = events(seen[world][0], policy, kind)
    assert (event["update"], event["ranks"], event["loss"]) == (5, [world - 1], None)
    assert len(set(event["images"])) == 16 / world
    alone = events(seen[1][0], policy, kind)[0]["images"]
    assert event["images"] == alone[-16 // world :]  # the last share


@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_stops_together_unless_told_to_go_on(seen, world):
    for rank in seen[world]:
        assert "update 5 is not finite: loss nan" in rank["diverged"]["stop"]["error"]
        assert len(rank["diverged"]["stop"]["weights"]) == 6 + 1  # it was seen at the next look, after update 6
        assert rank["diverged"]["skip"]["error"] == ""
        assert len(rank["diverged"]["skip"]["weights"]) == 10 + 1


@pytest.mark.parametrize("world", WORLDS)
def test_rolled_back_it_goes_on_from_the_checkpoint_with_the_next_batch(seen, world):
    before = seen[world][0]["diverged"]["rollback"]["weights"]
    (event,) = events(seen[world][0], "rollback", "rollback")
    assert (event["update"], event["checkpoint"]) == (6, 4)
    assert before[6] == before[4]  # update 7 starts where update 4 had ended
    assert before[7] != before[6]
    updates = [r["update"] for r in seen[world][0]["diverged"]["rollback"]["journal"] if r["kind"] == "update"]
    assert updates == list(range(1, 11))
    skipped = seen[world][0]["diverged"]["skip"]["weights"]
    assert skipped[6] != skipped[4]  # without it, update 6 counts
    assert events(seen[world][0], "skip", "rollback") == []
