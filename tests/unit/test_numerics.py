import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distrib.assembly import numerics_so_far
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.numerics import MIXED, changes, common, fingerprint, inexact_since, numerics_of
from distrib.settings import Compute, SettingsError

HERE = SimpleNamespace(device=torch.device("cpu"), is_main=True)
EXACT = Compute(exact=True)


def saved(folder: Path, numerics: object) -> Checkpoint:
    (folder / "update-000000007").mkdir()
    (folder / "update-000000007" / "state.json").write_text(json.dumps({"numerics": numerics}))
    return Checkpoint(folder / "update-000000007")


def test_a_fingerprint_survives_json_and_is_the_same_each_time() -> None:
    now = fingerprint(HERE, EXACT)
    assert json.loads(json.dumps(now)) == now == fingerprint(HERE, EXACT)
    assert {"torch", "device", "threads", "cpu", "instructions"} <= set(now)
    assert changes(now, now) == []


def test_threads_switches_and_compilation_show(monkeypatch: pytest.MonkeyPatch) -> None:
    now = fingerprint(HERE, EXACT)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert changes(now, fingerprint(HERE, EXACT)) == ["ONEDNN_MAX_CPU_ISA None is now AVX2"]
    monkeypatch.undo()
    assert changes(now, fingerprint(HERE, Compute(exact=True, compile="default"))) == ["compile None is now inductor"]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert changes(now, fingerprint(HERE, EXACT)) == [f"threads {before} is now {before + 1}"]
    finally:
        torch.set_num_threads(before)


def test_of_many_instructions_those_that_differ_are_named() -> None:
    assert changes({"instructions": "avx avx2 fma3"}, {"instructions": "amx_bf16 avx avx2"}) == [
        "CPU instructions: no fma3, amx_bf16"
    ]


def test_where_nothing_differs_the_run_goes_on(tmp_path: Path) -> None:
    before = [{"since": 0} | fingerprint(HERE, EXACT)]
    assert numerics_so_far(saved(tmp_path, before), EXACT, fingerprint(HERE, EXACT)) == before


def test_an_exact_run_is_refused_where_numbers_come_out_otherwise_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [{"since": 0} | fingerprint(HERE, EXACT) | {"torch": "1.0", "cpu": "Other"}]
    checkpoint = saved(tmp_path, before)
    with pytest.raises(
        SettingsError, match=r"--exact, but .*torch 1\.0 is now .*; cpu Other is now .*--accept-inexact"
    ):
        numerics_so_far(checkpoint, EXACT, fingerprint(HERE, EXACT))
    accepted = numerics_so_far(checkpoint, Compute(exact=True, accept_inexact=True), fingerprint(HERE, EXACT))
    assert accepted == [*before, {"since": 7} | fingerprint(HERE, EXACT)]
    assert "from now on the run is no longer exact" in capsys.readouterr().out


def test_a_fast_run_goes_on_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [{"since": 0} | fingerprint(HERE, Compute()) | {"cpu": "Other"}]
    assert len(numerics_so_far(saved(tmp_path, before), Compute(), fingerprint(HERE, Compute()))) == 2
    assert "cpu Other is now" in capsys.readouterr().out


def test_ranks_that_differ_are_remembered_and_the_run_is_not_exact(tmp_path: Path) -> None:
    one, other = fingerprint(HERE, EXACT), fingerprint(HERE, EXACT) | {"cpu": "Other", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    mixed = common([one, other, one])
    assert {name for name in mixed if mixed[name] == MIXED} == {"cpu", "ONEDNN_MAX_CPU_ISA"}
    assert common([one, one]) == one
    assert inexact_since(numerics_so_far(None, EXACT, mixed)) == 0
    with pytest.raises(SettingsError, match=f"cpu {MIXED} is now"):
        numerics_so_far(saved(tmp_path, [{"since": 0} | mixed]), EXACT, one)


def test_a_run_is_exact_until_its_numerics_change() -> None:
    one = fingerprint(HERE, EXACT)
    assert inexact_since([{"since": 0} | one]) is None
    assert inexact_since([{"since": 0} | one, {"since": 7} | one | {"cpu": "Other"}, {"since": 9} | one]) == 7


def test_kernels_chosen_by_timing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    with pytest.raises(SettingsError, match="TORCHINDUCTOR_MAX_AUTOTUNE would choose kernels by timing"):
        fingerprint(HERE, Compute(exact=True, compile="default"))
    assert fingerprint(HERE, EXACT)["TORCHINDUCTOR_MAX_AUTOTUNE"] == "1"


@pytest.mark.parametrize("numerics", [None, [], {}, "x", [1], [{}, 2]])
def test_a_state_that_says_nothing_is_refused(tmp_path: Path, numerics: object) -> None:
    with pytest.raises(SettingsError, match="does not say what its numbers were computed with"):
        numerics_of(saved(tmp_path, numerics))
