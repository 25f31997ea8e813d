"""In which layout a training runs: channels last, but contiguous where gradients of gradients are taken on a CPU."""

import pytest
import torch
from torch import nn

from statshift.data import load_data
from statshift.hardening.batch import takes_channels_last
from statshift.hardening.harden import harden
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("method", "last"), [("ligs", False), ("standard", True), ("adversarial", True)])
def test_convolutions_meet_the_layout_that_suits_the_method(method, last):
    model, met = load_model("cifar:resnet20", model_args={"width": 0.25}), []

    def look(conv, inputs):
        if torch.is_grad_enabled() and len(inputs[0]) == 8:
            met.append([one.is_contiguous() for one in (inputs[0], conv.weight)])

    deep = [one for one in model.modules() if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3)]
    for conv in deep:
        conv.register_forward_pre_hook(look)
    options = HardenOptions(method=method, training=TrainingOptions(1, 8, 0.01, augment="none"))
    harden(model, load_data("digits:train", limit=8), options, device="cpu", trace=False)
    assert len(met) >= len(deep)
    assert met == [[not last, not last]] * len(met)
    assert all(conv.weight.is_contiguous() for conv in deep)


def test_a_gpu_has_channels_last_whatever_the_method():
    ligs, standard = (HardenOptions(method=name).chosen for name in ("ligs", "standard"))
    answers = [takes_channels_last(one, torch.device(kind)) for one in (ligs, standard) for kind in ("cpu", "cuda")]
    assert answers == [False, True, True, True]
