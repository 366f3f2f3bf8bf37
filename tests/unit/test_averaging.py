import torch
from torch import nn

from distrib.learning.averaging import WeightAverage


def test_an_average_follows_faster_at_first_and_then_as_asked():
    network = nn.BatchNorm1d(1)
    values = (network.weight, network.running_mean)

    def hold(value: float) -> None:
        for tensor in values:
            torch.nn.init.constant_(tensor, value)

    hold(1.0)
    average, expected = WeightAverage(network, 0.3), 1.0
    for update, (value, decay) in enumerate([(2.0, 2 / 11), (-3.0, 3 / 12), (5.0, 0.3), (-4.0, 0.3)], 1):
        hold(value)
        average.update(update)
        expected = decay * expected + (1 - decay) * value
        for mean in (average.network.weight, average.network.running_mean):
            torch.testing.assert_close(mean.item(), expected, rtol=1e-5, atol=1e-6)
        assert [tensor.item() for tensor in values] == [value, value]
