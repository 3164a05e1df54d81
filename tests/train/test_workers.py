from __future__ import annotations

import torch

from napari_deblur.train.workers import Workers


def _parameters():
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1, 2, 2))]
    for index, parameter in enumerate(parameters[:2]):
        parameter.grad = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape) + index
    return parameters


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers = Workers.from_environment(torch.device("cpu"))
    assert workers.leads
    assert workers.count == 1
    parameters = _parameters()
    before = [parameter.grad for parameter in parameters]
    workers.average_gradients(parameters)
    assert all(parameter.grad is kept for parameter, kept in zip(parameters, before, strict=True))
    assert workers.agree((3.5, 1.0), torch.device("cpu")) == (3.5, 1.0)


def test_gradients_become_their_mean_over_the_processes(monkeypatch):
    # The other process holds three times our gradients, so the sum is four times and the mean twice.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(4))
    parameters, expected = _parameters(), _parameters()
    Workers(rank=1, count=2).average_gradients(parameters)
    for parameter, other in zip(parameters[:2], expected[:2], strict=True):
        torch.testing.assert_close(parameter.grad, 2 * other.grad)
    assert parameters[2].grad is None
    assert not Workers(rank=1, count=2).leads
