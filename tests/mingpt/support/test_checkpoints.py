"""Dictionaries of tensors on disk: whole, undamaged, without code; and fingerprints of content."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mingpt.support.checkpoints import fingerprint, load_torch, save_torch


def test_a_dictionary_round_trips_and_anything_else_is_refused(tmp_path):
    save_torch(tmp_path / "p", {"a": torch.arange(3), "b": "text"})
    loaded = load_torch(tmp_path / "p")
    assert loaded["b"] == "text" and torch.equal(loaded["a"], torch.arange(3)) and len(loaded) == 2
    whole = (tmp_path / "p").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04junk"):
        (tmp_path / "p").write_bytes(damaged)
        with pytest.raises(ValueError, match="p: not a file of parameters that can be loaded safely"):
            load_torch(tmp_path / "p")
    with pytest.raises(ValueError, match="no such file"):
        load_torch(tmp_path / "q")


def test_a_flipped_bit_is_found(tmp_path):
    weight = torch.ones(1000)
    torch.save({"weight": weight}, tmp_path / "torch")  # by another program: without a hash of the content
    save_torch(tmp_path / "ours", {"weight": weight})
    one, other = np.float32(1.0).tobytes(), np.float32(1.5).tobytes()
    for name in ("torch", "ours"):
        data = (tmp_path / name).read_bytes()
        at = data.index(one * 1000) + 400
        (tmp_path / name).write_bytes(data[:at] + other + data[at + 4 :])
        with pytest.raises(ValueError, match=f"{name}: .*data/0 is damaged: the checksum differs"):
            load_torch(tmp_path / name)


def test_content_that_is_not_what_was_saved_is_found(tmp_path):
    """The old format of torch.save has no checksums: there the hash of the content finds a flipped bit."""
    save_torch(tmp_path / "p", {"weight": torch.ones(1000)})
    saved = torch.load(tmp_path / "p", weights_only=True)
    saved["weight"][100] = 1.5
    torch.save(saved, tmp_path / "p", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "p")
    with pytest.raises(ValueError, match="it is damaged: the hash of its content differs"):
        load_torch(tmp_path / "p")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    save_torch(tmp_path / "p", {"weight": torch.ones(10)})
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *mode: real("/dev/full" if mode == ("wb",) else path, *mode))
    with pytest.raises(OSError, match=r"No space left on device: '.*p'"):
        save_torch(tmp_path / "p", {"weight": torch.zeros(100_000)})
    monkeypatch.undo()
    assert load_torch(tmp_path / "p")["weight"].sum() == 10 and os.listdir(tmp_path) == ["p"]


def test_a_fingerprint_is_of_the_content(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").write_text("text")
    assert fingerprint(tmp_path / "a") == fingerprint(Path(tmp_path / "b")) != fingerprint("text")
    assert fingerprint({"x": 1, "y": [2.0, None]}) == fingerprint({"y": (2.0, None), "x": 1})
    weight = torch.arange(6.0).view(2, 3)
    assert fingerprint(weight) == fingerprint(weight.t().contiguous().t())
    values = [
        "",
        "1",
        b"1",
        1,
        1.0,
        True,
        None,
        [],
        {},
        [1, [2]],
        [[1], 2],
        ["ab", "c"],
        ["a", "bc"],
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {1: "a"},
        weight,
        weight.view(3, 2),
        weight.half(),
        weight.int(),
        weight + 1e-6,
        weight[:0],
        torch.tensor(1.0),
        weight.numpy().astype(np.uint16),
        weight.numpy(),
        weight.bfloat16(),
        weight > 2,
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    with pytest.raises(TypeError, match="a object has no fingerprint"):
        fingerprint([object()])
