"""The safetensors format: named tensors in a file that cannot run code and that is mapped into memory, not read.

    write_safetensors("weights.safetensors", {"a": torch.zeros(2)})
    SafeTensors("weights.safetensors")["a"]

A file is: the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape, place), and the
tensors'
bytes one after another.
"""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mingpt.support.files import atomic_path, short, short_name

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LARGEST_HEADER = 1 << 24  # bytes; 580 tensors take 0.1 MB; parsing the 100 MB that the format allows takes gigabytes
MOST_DIMENSIONS = 8  # of a tensor
LARGEST_SIZE = 1 << 48  # elements, were sizes of 0 left out; torch counts in 63 bits, strides of empty tensors too


class SafeTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for.

    `file[name]` maps that tensor's part of the file into memory and nothing else; what is written to it stays in
    memory. The file must not be overwritten in place while such a tensor lives (replacing it, as `save_pretrained`
    does, is fine, except on Windows, which refuses to).

    Raises ValueError unless the header describes the file exactly: every byte in one tensor, of a dtype in `DTYPES`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(8)
                length = int.from_bytes(head, "little")
                if len(head) < 8 or not 2 <= length <= size - 8:
                    self._refuse(f"a header of {length} bytes does not fit into the file's {size}; it may be cut off")
                if length > LARGEST_HEADER:
                    self._refuse(f"a header of {length} bytes; at most {LARGEST_HEADER} are read")
                header = file.read(length)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from None
        self._start = 8 + length
        self._entries = self._checked(header, size - self._start)

    def _checked(self, header: bytes, data_size: int) -> dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]:
        """The header as name -> (dtype, shape, first byte, byte after the last), counted from the end of the header."""
        try:
            pairs = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
            if not isinstance(pairs, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            self._refuse(f"the header is not valid ({short_name(str(error))})")
        pairs.pop("__metadata__", None)
        entries = {}
        for name, entry in pairs.items():
            fields = entry if isinstance(entry, dict) else {}
            dtype, shape, offsets = (fields.get(field) for field in ("dtype", "shape", "data_offsets"))
            if dtype not in tuple(DTYPES):
                self._refuse(f"tensor {short(name)} has dtype {short(dtype)}; only {', '.join(DTYPES)} are read")
            if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
                self._refuse(f"tensor {short(name)} has shape {short(shape)} and data_offsets {short(offsets)}")
            if (
                len(shape) > MOST_DIMENSIONS
                or math.prod(min(max(side, 1), LARGEST_SIZE) for side in shape) >= LARGEST_SIZE
            ):
                self._refuse(f"tensor {short(name)} of shape {short(shape)} is larger than any file")
            if math.prod(shape) * DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
                self._refuse(
                    f"tensor {short(name)} of {dtype} {short(shape)} does not fill its bytes {short(offsets[0])} to "
                    f"{short(offsets[1])}"
                )
            entries[name] = DTYPES[dtype], tuple(shape), *offsets
        end = 0
        for name, (_, _, first, last) in sorted(entries.items(), key=lambda item: item[1][2:]):
            if first != end:
                self._refuse(
                    f"tensor {short(name)} begins at byte {short(first)} of the data, where {short(end)} was expected"
                )
            end = last
        if end != data_size:
            self._refuse(
                f"the header describes {short(end)} bytes of data, and the file holds {data_size}; it may be cut off"
            )
        return entries

    def _refuse(self, reason: str):
        raise ValueError(f"{self.path}: not a safetensors file that can be read: {reason}; get it again")

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape, first, last = self._entries[name]
        if first == last:
            return torch.empty(shape, dtype=dtype)
        begin = self._start + first
        page = begin - begin % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            part = mmap.mmap(file.fileno(), self._start + last - page, access=mmap.ACCESS_COPY, offset=page)
        if (begin - page) % dtype.itemsize:  # a header of odd length: the only tensors that have to be copied
            part = bytearray(part[begin - page :])
            page = begin
        return torch.frombuffer(part, dtype=dtype, count=math.prod(shape), offset=begin - page).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _counts(value) -> bool:
    """Whether `value` is a list of integers, none negative. (True is an int to Python, not to us.)"""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors`, of the dtypes in `DTYPES`, to `path`, atomically, without a copy of more than one."""
    names, header, end = {dtype: name for name, dtype in DTYPES.items()}, {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise ValueError(f"{short_name(name)} is {tensor.dtype}; {', '.join(DTYPES)} can be written")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = dict(dtype=names[tensor.dtype], shape=list(tensor.shape), data_offsets=[begin, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every tensor begins where its numbers may begin
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
