"""Devices, number formats, and other small things."""

import pytest
import torch

from mingpt.utils import pick_device, pick_dtype, with_spread


def test_mean_with_spread():
    assert with_spread([50.0]) == "50.0" and with_spread([1.0, 3.0], sign="+") == "+2.0 ± 1.4" and with_spread([1, 2], 0) == "2 ± 1"


def test_devices_and_number_formats():
    cpu = pick_device("cpu")
    assert cpu == torch.device("cpu") and pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16) and pick_dtype("float16", cpu) is torch.float16
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used here"):
        pick_device("cuda:77")


def test_auto_is_float32_without_bfloat16_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert pick_dtype("auto", torch.device("cpu")) is torch.bfloat16
