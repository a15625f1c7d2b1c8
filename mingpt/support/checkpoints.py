"""Dictionaries of tensors on disk, and the fingerprint by which two values are known to be the same.

save_torch("out/run/checkpoint.pt", {"model": model.state_dict()})
load_torch("out/run/checkpoint.pt")["model"]
fingerprint(Path("wiki.txt"))                  # of the content, not of the name
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mingpt.support.files import atomic_path, read_json, sha256_of, write_json

CONTENT_HASH = "sha256 of the rest"  # a key of what `save_torch` writes


def save_torch(path: str | os.PathLike, value: dict) -> None:
    """torch.save of a dictionary, atomically, with a hash of its content that `load_torch` checks."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save({**value, CONTENT_HASH: fingerprint(value)}, watched)
        except RuntimeError:  # torch hides the reason: a full disk, for instance
            if watched.error is None:
                raise
            raise watched.error from None


class _Watched:
    """A file that remembers the error which a write ended in."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load_torch(path: str | os.PathLike):
    """What `save_torch`, or torch.save, wrote, on the CPU. Loads tensors and plain values only, never code.

    ValueError for a file that is missing, is no such file, or is damaged: the archive's checksums are compared, and the
    hash of the content where there is one.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"its part {damaged} is damaged: the checksum differs")
        value = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(value, dict) and isinstance(expected := value.pop(CONTENT_HASH, None), str):
            if fingerprint(value) != expected:
                raise ValueError("it is damaged: the hash of its content differs")
        return value
    except Exception as error:  # torch.load raises many types for a damaged or malicious file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a file of parameters that can be loaded safely ({reason})") from None


def fingerprint(value) -> str:
    """The SHA-256, in hex, of a value's content: two of them are equal exactly if the values are.

    For text, bytes, numbers, None, tensors, arrays, and dictionaries (in any order) and sequences of these; a Path
    stands for the content of its file. TypeError for anything else.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value) -> None:
    """Add a value to a digest, each with its type and length in front, so that no two values feed the same bytes."""

    def tagged(tag: str, data) -> None:
        digest.update(f"{tag} {len(data)}:".encode())
        digest.update(data)

    if isinstance(value, str):
        tagged("str", value.encode("utf-8", errors="surrogatepass"))
    elif isinstance(value, (bytes, bytearray)):
        tagged("bytes", value)
    elif isinstance(value, os.PathLike):
        tagged("file", sha256_of(value).encode())
    elif value is None or isinstance(value, (bool, int, float)):
        tagged(type(value).__name__, repr(value).encode())
    elif isinstance(value, torch.Tensor):
        tagged(
            f"tensor {value.dtype} {tuple(value.shape)}",
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(),
        )
    elif isinstance(value, np.ndarray):
        tagged(f"array {value.dtype.str} {value.shape}", np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}:".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, str(key))):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"sequence {len(value)}:".encode())
        for item in value:
            _feed(digest, item)
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")


# ----------------------------------------------------------------------------------------------------------------------
# Results


def write_sealed(path: str | os.PathLike, result: dict) -> None:
    """Write a dictionary of plain values as JSON with a hash of its content, by which `read_sealed` knows it again."""
    result = json.loads(json.dumps(result))  # as it will be read: lists for tuples, strings for keys
    write_json(path, {**result, CONTENT_HASH: fingerprint(result)})


def read_sealed(path: str | os.PathLike) -> dict:
    """What `write_sealed` wrote, so that nobody who reads it has to ask whether values are missing or of other types.

    ValueError for a file that is missing, or that anything else wrote or changed.
    """
    result = read_json(path)
    expected = result.pop(CONTENT_HASH, None) if isinstance(result, dict) else None
    try:
        unchanged = expected is not None and fingerprint(result) == expected
    except RecursionError:
        unchanged = False
    if not unchanged:
        raise ValueError(
            f"{path}: not a result that this program wrote, or changed since"
            if expected is not None
            else f"{path}: not a result that this program wrote"
        )
    return result
