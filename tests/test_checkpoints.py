"""Checkpoints: every common layout loads, whatever does not fit or is more than data is refused."""

import hashlib
import os
import re
import struct
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from statshift._core.errors import InputError
from statshift.models import load_weights, save_weights, weights_hash


def network(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.fixture
def source():
    torch.manual_seed(1)
    source = network()
    source(torch.rand(8, 3, 4, 4))  # running statistics that no fresh network has
    return source


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".tar", ".safetensors"])
def test_every_suffix_loads_the_same_weights(suffix, source, tmp_path):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    target = network()
    load_weights(target, path)
    assert weights_hash(target) == weights_hash(source)


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"net": {f"module._orig_mod.model.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {"0.bias": torch.zeros(4)}, "state_dict_ema": state, "args": Namespace(lr=0.1)},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {  # as torchvision's training writes it
            "model": {"0.bias": torch.zeros(4)},
            "model_ema": {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
        },
    ],
)
def test_nesting_and_prefixes_are_seen_through(layout, source, tmp_path):
    target = network()
    load_weights(target, saved(tmp_path / "weights.pt", layout(source.state_dict())))
    assert weights_hash(target) == weights_hash(source)


def test_prefix_that_is_the_networks_own_stays(source, tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

    target = Holder()
    state = {f"module.model.{name}": value for name, value in source.state_dict().items()}
    load_weights(target, saved(tmp_path / "weights.pt", state))
    assert weights_hash(target.model) == weights_hash(source)


def test_missing_batch_counter_is_tolerated(source, tmp_path):
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    target = network()
    load_weights(target, saved(tmp_path / "weights.pt", state))
    assert torch.equal(target[1].running_var, source[1].running_var)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(source, tmp_path):
    state = source.state_dict()
    del state["0.bias"]
    state["fc.weight"] = torch.zeros(2)
    state["1.weight"] = torch.zeros(9)
    target = network()
    before = weights_hash(target)
    expected = "missing: 0.bias; unexpected: fc.weight; of another shape: 1.weight (9,) in the file, (4,) in the model."
    with pytest.raises(InputError, match=re.escape(expected)):
        load_weights(target, saved(tmp_path / "weights.pt", state))
    assert weights_hash(target) == before


def test_long_lists_are_cut(source, tmp_path):
    path = saved(tmp_path / "weights.pt", source.state_dict())
    with pytest.raises(InputError, match=r"unexpected: 1.weight, 1.bias, 1.running_mean and 2 more\.$"):
        load_weights(nn.Sequential(nn.Conv2d(3, 4, 1)), path)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"], ids=["numpy 1", "numpy 2"])
def test_numbers_of_numpy_are_data(core, source, tmp_path):
    content = {"state_dict": source.state_dict(), "best": [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(1)]}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    written = (tmp_path / "old.pth.tar").read_bytes()
    assert b"numpy._core.multiarray\nscalar" in written
    (tmp_path / "old.pth.tar").write_bytes(written.replace(b"numpy._core", core))
    target = network()
    load_weights(target, tmp_path / "old.pth.tar")
    assert weights_hash(target) == weights_hash(source)


class Intruder:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_is_more_than_data_is_refused_and_not_run(zipped, tmp_path):
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    content = {"state_dict": {}, "extra": Intruder(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"more than data \(it asks for \w+\.mkdir\); save its state_dict alone"):
        load_weights(network(), path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [({"args": SimpleNamespace()}, "types.SimpleNamespace"), (nn.Linear(2, 2), "torch.nn.modules.linear.Linear")],
)
def test_the_object_that_a_checkpoint_asks_for_is_named(content, wanted, tmp_path):
    with pytest.raises(InputError, match=f"asks for {wanted}\\)") as caught:
        load_weights(network(), saved(tmp_path / "weights.pt", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], {}])
def test_file_without_a_state_dict(content, tmp_path):
    with pytest.raises(InputError, match="to hold a state dict, but"):
        load_weights(network(), saved(tmp_path / "weights.pt", content))


@pytest.mark.parametrize(("name", "text"), [("map.json", '{"ant": 0}'), ("weights.pth", "<!DOCTYPE html>\n<html>")])
def test_text_is_no_checkpoint(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"^Expected `weights` to be a checkpoint .*, but .*{name} is none\.$"):
        load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 0.5])
def test_truncated_file(suffix, kept, source, tmp_path):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(InputError, match=f"weights{suffix}") as caught:
        load_weights(network(), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "absent.pt"])
def test_what_is_no_file(name, tmp_path):
    with pytest.raises(InputError, match=r"`weights` to be a checkpoint file, but .* is not a file"):
        load_weights(network(), tmp_path / name)


def test_hash_is_of_names_types_shapes_and_bytes():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    known = weights_hash(layer)
    content = b"weight torch.float32 (2, 2)" + struct.pack("<4f", 1, 2, 3, 4)
    assert known == hashlib.sha256(content).hexdigest()[:16]
    assert weights_hash(layer.double()) != known
    assert weights_hash(layer.float()) == known
    with torch.no_grad():
        layer.weight[0, 0] += 2**-22
    assert weights_hash(layer) != known
    assert weights_hash(nn.Sequential(layer)) != weights_hash(layer)


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path):
    metadata = {f"name {number}": '\u00e9 \u4e00 "quoted" \n' * number for number in range(12)}
    files = []
    for turn, given in enumerate([metadata, metadata, dict(reversed(metadata.items()))]):
        torch.manual_seed(0)
        save_weights(network(), tmp_path / f"{turn}.safetensors", given)
        files.append((tmp_path / f"{turn}.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]
    assert int.from_bytes(files[0][:8], "little") % 8 == 0
    torch.manual_seed(0)
    with safe_open(tmp_path / "0.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", **metadata}
        for name, value in network().state_dict().items():
            assert torch.equal(opened.get_tensor(name), value)
