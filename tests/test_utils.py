"""Files that are never half-written, errors of one line, devices and number formats."""

import os
import random

import numpy as np
import pytest
import torch

from mingpt.checkpoints import load_torch, save_torch
from mingpt.command import one_line_errors
from mingpt.files import atomic_path, read_text, write_json, write_text
from mingpt.utils import pick_device, pick_dtype, set_seed, with_spread


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError):
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["file.txt"]


def test_mean_with_spread():
    assert with_spread([50.0]) == "50.0" and with_spread([1.0, 3.0], sign="+") == "+2.0 ± 1.4" and with_spread([1, 2], 0) == "2 ± 1"


def test_writing_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_json(path, {"Zürich": 1})
    assert read_text(path) == '{\n  "Zürich": 1\n}\n'
    write_text(path, "new")
    assert read_text(path) == "new"


def test_text_is_read_with_any_line_ends_and_with_a_byte_order_mark(tmp_path):
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(tmp_path / "f") == "one\ntwo\n"


def test_unreadable_text_is_named_with_its_line(tmp_path):
    (tmp_path / "f").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(ValueError, match=r"f:2: not UTF-8 text \(byte 8\)"):
        read_text(tmp_path / "f")
    with pytest.raises(ValueError, match="missing: no such file"):
        read_text(tmp_path / "missing")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_text(tmp_path)


def test_parameters_round_trip_and_refuse_anything_else(tmp_path):
    save_torch(tmp_path / "p", {"a": torch.arange(3), "b": "text"})
    loaded = load_torch(tmp_path / "p")
    assert loaded["b"] == "text" and torch.equal(loaded["a"], torch.arange(3))
    whole = (tmp_path / "p").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04junk"):
        (tmp_path / "p").write_bytes(damaged)
        with pytest.raises(ValueError, match="p: not a file of parameters that can be loaded safely"):
            load_torch(tmp_path / "p")
    with pytest.raises(ValueError, match="no such file"):
        load_torch(tmp_path / "q")


def test_a_users_mistake_ends_in_one_line_and_a_bug_does_not(monkeypatch, capsys):
    monkeypatch.delenv("MINGPT_TRACEBACK", raising=False)
    for mistake in (ValueError, OSError, FloatingPointError):
        with pytest.raises(SystemExit) as ended, one_line_errors():
            raise mistake("no such thing")
        assert ended.value.code == 2 and capsys.readouterr().err == "error: no such thing\n"
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a bug")


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
        with pytest.raises(ValueError, match=r"seed is .*; it must be a whole number from -2\*\*63 to 2\*\*64 - 1") as error:
            set_seed(seed)
        assert len(str(error.value)) < 200
    for seed in (-1, 0, 2**64 - 1, -(2**63)):
        set_seed(seed)
        first = torch.rand(3), random.random(), np.random.rand()
        set_seed(seed)
        again = torch.rand(3), random.random(), np.random.rand()
        assert torch.equal(first[0], again[0]) and first[1:] == again[1:]


def test_auto_is_float32_without_bfloat16_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert pick_dtype("auto", torch.device("cpu")) is torch.bfloat16
