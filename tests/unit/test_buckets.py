import itertools

import pytest
import torch
from torch import nn

from distrib.learning import exact
from distrib.learning.exact import in_buckets


def parameters(*sizes: int, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes]


def sizes(buckets: list[list[nn.Parameter]]) -> list[list[int]]:
    return [[p.numel() for p in bucket] for bucket in buckets]


def test_a_bucket_is_full_once_it_has_its_number_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BUCKET", 10)
    made = parameters(4, 5, 3, 2, 50, 1)
    buckets = list(in_buckets(made))
    assert sizes(buckets) == [[4, 5, 3], [2, 50], [1]]
    assert all(a is b for a, b in zip(itertools.chain(*buckets), made, strict=True))


def test_a_bucket_is_of_one_data_type() -> None:
    mixed = [*parameters(1, 2), *parameters(3, dtype=torch.float64), *parameters(4)]
    assert sizes(list(in_buckets(mixed))) == [[1, 2], [3], [4]]
    assert list(in_buckets([])) == []
