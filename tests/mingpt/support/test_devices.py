"""Devices, number formats, seeds, and other small things."""

import random

import numpy as np
import pytest
import torch

from mingpt.support.devices import pick_device, pick_dtype, set_seed
from mingpt.support.tables import with_spread


def test_mean_with_spread():
    assert (
        with_spread([50.0]) == "50.0"
        and with_spread([1.0, 3.0], sign="+") == "+2.0 ± 1.4"
        and with_spread([1, 2], 0) == "2 ± 1"
    )


def test_devices_and_number_formats():
    cpu = pick_device("cpu")
    assert cpu == torch.device("cpu") and pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16) and pick_dtype("float16", cpu) is torch.float16
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used here"):
        pick_device("cuda:77")


@pytest.mark.parametrize("name", ["meta", "hpu", "opengl", "cpu:-1", "", "x" * 10**5, None])
def test_a_device_that_cannot_compute_is_one_line(name):
    with pytest.raises(ValueError, match="cannot be used here .*; try --device cpu") as error:
        pick_device(name)
    assert "\n" not in str(error.value) and str(error.value).startswith("device ")


def test_a_seed_of_more_than_64_bits_is_one_line():
    for seed in (99999999999999999999, 2**64, -(2**63) - 1, 1.5, "1", None, 10**5000):
        with pytest.raises(
            ValueError, match=r"seed is .*; it must be a whole number from -2\*\*63 to 2\*\*64 - 1"
        ) as error:
            set_seed(seed)
        assert len(str(error.value)) < 200
    for seed in (-1, 0, 2**64 - 1, -(2**63)):
        set_seed(seed)
        first = torch.rand(3), random.random(), np.random.rand()
        set_seed(seed)
        again = torch.rand(3), random.random(), np.random.rand()
        assert torch.equal(first[0], again[0]) and first[1:] == again[1:]


def test_auto_is_float32_without_bfloat16_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)  # torch 2.6 has none
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert pick_dtype("auto", torch.device("cpu")) is torch.bfloat16
