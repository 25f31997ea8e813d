"""Batch norm over processes: outputs, gradients and running statistics are those of one large batch."""

import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import nn

import warm
from statshift._core import processes
from statshift._core.errors import InputError
from statshift.norms import synchronisation
from statshift.norms.synchronisation import synchronised

pytestmark = pytest.mark.usefixtures("one_thread")

NORMS = {
    "plain": nn.BatchNorm2d,
    "no affine terms": partial(nn.BatchNorm2d, affine=False),
    "an average over all batches": partial(nn.BatchNorm2d, momentum=None),
    "momentum and eps": partial(nn.BatchNorm2d, momentum=0.3, eps=0.1),
    "no statistics": partial(nn.BatchNorm2d, track_running_stats=False),
    "activation": partial(BatchNormAct2d, act_layer=nn.SiLU),
    "one dimension": nn.BatchNorm1d,
    "three dimensions": nn.BatchNorm3d,
    "torch's own": nn.SyncBatchNorm,
}


def build(kind):
    norm = NORMS[kind](3).double()
    if norm.weight is not None:
        norm.weight.data.copy_(torch.tensor([0.5, 1.5, -1.0]))
        norm.bias.data.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return norm


def whole_batches(kind):
    generator = torch.Generator().manual_seed(1)
    sides = {"one dimension": (), "three dimensions": (2, 3, 2)}.get(kind, (4, 4))
    scale = torch.linspace(0.5, 2, 8, dtype=torch.float64).view(-1, *[1] * (len(sides) + 1))
    return [torch.randn(8, 3, *sides, generator=generator, dtype=torch.float64) * scale + 1 for _ in range(2)]


def passed(norm, batches, share):
    """Return what a norm makes of two batches, the gradients of a loss, and its buffers."""
    outputs, found = [], []
    for batch in batches:
        features = batch.clone().requires_grad_()
        output = norm(features)
        wanted = [features, *norm.parameters()]
        loss = (output * torch.linspace(-1, 2, 8, dtype=torch.float64)[share].view(-1, *[1] * (batch.ndim - 1))).sin()
        found.append(torch.autograd.grad(loss.mean(), wanted))
        outputs.append(output.detach())
    return outputs, found, [buffer.clone() for buffer in norm.buffers()]


def one_process(kind):
    norm = build("plain" if kind == "torch's own" else kind)
    return passed(norm, whole_batches(kind), slice(8))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", NORMS)
def test_two_processes_that_see_the_same_are_a_batch_of_twice_that(kind, monkeypatch):
    """Without a group their mean is one's own, so this one plays both."""
    monkeypatch.setattr(synchronisation, "join", lambda: (0, 2))
    halves = [batch[:4] for batch in whole_batches(kind)]
    norm, plain = build(kind), build("plain" if kind == "torch's own" else kind)
    with synchronised([norm]):
        outputs, _, buffers = passed(norm, halves, slice(4))
    expected = [plain(torch.cat([half, half])).detach()[:4] for half in halves]
    close(outputs, expected)
    close(buffers, list(plain.buffers()))


def test_alone_nothing_is_changed():
    norm = build("plain")
    with synchronised([norm]):
        assert "forward" not in vars(norm)


def test_norms_are_as_found_afterwards_even_if_something_is_raised(monkeypatch):
    monkeypatch.setattr(synchronisation, "join", lambda: (0, 2))
    norm = build("plain")
    features = whole_batches("plain")[0]
    with pytest.raises(RuntimeError), synchronised([norm]):
        norm(features.expand(2, 8, 3, 4, 4)[:, :, :2])
    assert "forward" not in vars(norm)
    norm.eval()
    expected = norm(features)
    with synchronised([norm]):
        assert torch.equal(norm(features), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_float32_moments(dtype, monkeypatch):
    monkeypatch.setattr(synchronisation, "join", lambda: (0, 2))
    features = whole_batches("plain")[0].to(dtype) + 100  # whose squares float16 does not hold
    norm = build("plain").float()
    with synchronised([norm]):
        output = norm(features)
    assert output.dtype == dtype
    rate = 0.1 * features.double().mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean.double(), rate, rtol=1e-5, atol=0)


def test_a_norm_of_an_unknown_kind_is_refused(monkeypatch):
    class Own(nn.BatchNorm2d):
        act = nn.ReLU()

        def forward(self, features):
            return super().forward(features) + 1

    norms = [build("plain"), Own(3)]
    with synchronised(norms):  # alone it may do what it likes
        pass
    monkeypatch.setattr(synchronisation, "join", lambda: (0, 2))
    with pytest.raises(InputError, match="a norm of type Own over 2 processes"), synchronised(norms):
        pass
    assert "forward" not in vars(norms[0])


def test_timms_own_synchronised_norm_is_known(monkeypatch):
    monkeypatch.setattr(synchronisation, "join", lambda: (0, 2))
    norm = SyncBatchNormAct(3).double()
    norm.act, norm.drop = nn.SiLU(), nn.Identity()
    features = whole_batches("plain")[0]
    with synchronised([norm]):
        output = norm(features)
    close(output, nn.functional.silu(nn.BatchNorm2d(3).double()(features)))


def work(folder):
    rank, world = processes.join()
    share = slice(4 * rank, 4 * rank + 4)
    found = {"world": world}
    for kind in NORMS:
        norm = build(kind)
        with synchronised([norm]):
            found[kind] = passed(norm, [batch[share] for batch in whole_batches(kind)], share)
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    ended = warm.run(tmp_path, file=__file__, count=2)
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["world"] == second["world"] == 2
    for kind in NORMS:
        outputs, gradients, buffers = one_process(kind)
        for number in range(2):
            close(torch.cat([first[kind][0][number], second[kind][0][number]]), outputs[number])
            ours, *weights = gradients[number]
            parts = [found[kind][1][number] for found in (first, second)]
            close(torch.cat([part[0] for part in parts]) / 2, ours)  # the mean over twice as many
            for own, others, expected in zip(parts[0][1:], parts[1][1:], weights, strict=True):
                close((own + others) / 2, expected)
        for found in (first, second):
            close(found[kind][2], buffers)


if __name__ == "__main__":
    warnings.simplefilter("error")
    work(sys.argv[1])
