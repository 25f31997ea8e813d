"""One context, and one thread, rectifies a model at a time."""

import gc
import threading

import pytest
import torch
from torch import nn

from statshift import InputError, RectifiedStream, rectified, rectify, sweep
from statshift.adapting.rectify import rewrite
from statshift.norms.layers import _LENT

pytestmark = pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # images of noise are alike

FIRST = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
SECOND = FIRST * 0.5
REFUSED = r"^The model is already being rectified, its layer (.*) at least, by another context or thread"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).eval()


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_second_context_is_refused_and_the_first_goes_on(model):
    found, wanted = state_of(model), rectify(model, FIRST, "replace").state_dict()
    with rectified(model, FIRST, "replace"):
        with pytest.raises(InputError, match=REFUSED.replace("(.*)", "1")), rectified(model, SECOND):
            pass
        assert same(model, wanted)
    assert same(model, found)
    with rectified(model, FIRST, "replace"):
        assert same(model, wanted)


def test_contexts_that_overlap_leave_the_model_as_found(model):
    found = state_of(model)
    first, second = rectified(model, FIRST), rectified(model, SECOND)
    first.__enter__()
    with pytest.raises(InputError, match=REFUSED):
        second.__enter__()
    first.__exit__(None, None, None)
    assert same(model, found)


def test_a_part_that_two_models_share_is_refused_too(model):
    other = nn.Sequential(model[0], model[1])
    with rectified(model, FIRST), pytest.raises(InputError, match=REFUSED), rectified(other, FIRST):
        pass


@pytest.mark.parametrize(
    "change", [lambda model: rewrite(model, SECOND, "replace"), lambda model: sweep(model, lambda: [SECOND])]
)
def test_within_a_context_its_own_thread_may_write_and_another_may_not(model, change):
    found, told = state_of(model), []

    def other():
        with pytest.raises(InputError, match=REFUSED):
            change(model)
        told.append(True)

    with rectified(model, FIRST):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        change(model)
        with pytest.raises(InputError, match=REFUSED), rectified(model, FIRST):
            pass
    assert told == [True]
    assert same(model, found)


def test_after_a_failure_the_model_is_free_again(model):
    with pytest.raises(InputError, match="not finite"), rectified(model, FIRST * torch.nan):
        pass
    stream = RectifiedStream(model)
    with pytest.raises(InputError, match="fails on images"):
        stream(torch.zeros(2, 5, 6, 6))
    stream(FIRST)
    with rectified(model, FIRST):
        pass


def test_nothing_is_kept_of_a_model_that_is_gone(model):
    generator = rectified(model, FIRST)
    generator.__enter__()
    assert len(_LENT) == 2
    del model, generator
    gc.collect()
    assert not len(_LENT)
