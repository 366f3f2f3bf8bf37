"""With ``--exact`` the number of processes changes no bit: one launch for each number, looked at by several tests."""

import json
from pathlib import Path

import pytest

from tests.launching import command, run
from tests.ranks.exact_worker import CASES

WORKER = Path(__file__).with_name("exact_worker.py")
WORLDS = (1, 2, 4)


@pytest.fixture(scope="module", params=["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def found(request, tmp_path_factory) -> dict[int, dict]:
    """By number of processes, what came of each case."""
    worlds = {}
    for world in WORLDS:
        out = tmp_path_factory.mktemp(f"world-{world}")
        # Other threads than exact runs take: they are not to show.
        run([*command(WORKER, world), str(out), request.param], OMP_NUM_THREADS="2" if world == 1 else "1")
        worlds[world] = json.loads((out / "found.json").read_text())
        assert worlds[world]["world"] == world
    return worlds


@pytest.mark.parametrize("case", [*CASES, "dropout"])
@pytest.mark.parametrize("world", WORLDS[1:])
def test_weights_optimizer_average_and_statistics_are_the_same_on_every_rank_of_any_world(found, case, world):
    alone = found[1][case]["ranks"][0]
    assert set(alone) >= {"network", "optimizer"}
    assert found[world][case]["ranks"] == [alone] * world


@pytest.mark.parametrize("case", [*CASES, "dropout"])
@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_loss_norm_and_score_is_the_same(found, case, world):
    kinds = [row["kind"] for row in found[1][case]["journal"]]
    assert (kinds.count("update"), kinds.count("epoch")) == (8, 2)
    assert found[world][case]["journal"] == found[1][case]["journal"]
    assert found[world][case]["progress"] == found[1][case]["progress"]


def test_the_cases_differ_from_one_another(found):
    networks = [found[1][case]["ranks"][0]["network"] for case in [*CASES, "dropout"]]
    assert len(set(networks)) == len(networks)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_fast_runs_are_told_apart(found, world):
    """What the tests above would see if nothing were done for them."""
    networks = [rank["network"] for rank in found[world]["fast"]["ranks"]]
    assert len(set(networks)) == world  # each has the statistics of its own share
    assert found[world]["fast"]["journal"] != found[1]["fast"]["journal"]
