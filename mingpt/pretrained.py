"""GPT-2's weights in and out: the safetensors format, its older siblings, and what transformers calls things.

    model = GPT.from_pretrained("gpt2")           # downloads 0.5 GB once; also gpt2-medium, gpt2-large, gpt2-xl
    model = GPT.from_pretrained("my/folder")      # config.json and model.safetensors (or pytorch_model.bin)
    model.save_pretrained("my/other/folder")      # what transformers.GPT2LMHeadModel.from_pretrained loads

A safetensors file is: the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape, place), and
the tensors' bytes one after another. No code is ever run from a file: pickled ones go through torch's weights_only
reader.
"""

import json
import math
import mmap
import os
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mingpt.checkpoints import load_torch
from mingpt.files import atomic_path, write_json
from mingpt.model import GPT, PRESETS, GPTConfig

# name -> (revision, sha256 of model.safetensors where it is known)
PUBLISHED = {
    "gpt2": ("607a30d783dfa663caf39e06633721c8d4cfcd7e",
             "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "gpt2-medium": ("main", None),
    "gpt2-large": ("main", None),
    "gpt2-xl": ("main", None),
}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LARGEST_HEADER = 1 << 24  # bytes; 580 tensors take 0.1 MB; parsing the 100 MB that the format allows takes gigabytes
MOST_DIMENSIONS = 8  # of a tensor
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # GPT-2 stores these (in, out); nn.Linear is (out, in)
MASKS = (".attn.bias", ".attn.masked_bias")  # buffers that old files hold among the weights


# ----------------------------------------------------------------------------------------------------------------------
# Safetensors


class SafeTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for.

    `file[name]` maps that tensor's part of the file into memory and nothing else; what is written to it stays in
    memory. The file must not be overwritten in place while such a tensor lives (replacing it, as `save_pretrained`
    does, is fine, except on Windows, which refuses to).

    Raises ValueError unless the header describes the file exactly: every byte in one tensor, dtypes F32, F16 or BF16.
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
            self._refuse(f"the header is not valid ({str(error)[:80]})")
        pairs.pop("__metadata__", None)
        entries = {}
        for name, entry in pairs.items():
            fields = entry if isinstance(entry, dict) else {}
            dtype, shape, offsets = (fields.get(field) for field in ("dtype", "shape", "data_offsets"))
            if dtype not in tuple(DTYPES):
                self._refuse(f"tensor {_short(name)} has dtype {_short(dtype)}; only {', '.join(DTYPES)} are read")
            if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
                self._refuse(f"tensor {_short(name)} has shape {_short(shape)} and data_offsets {_short(offsets)}")
            if len(shape) > MOST_DIMENSIONS or max(shape, default=0) >= 1 << 48:  # their product could take hours
                self._refuse(f"tensor {_short(name)} of shape {_short(shape)} is larger than any file")
            if math.prod(shape) * DTYPES[dtype].itemsize != offsets[1] - offsets[0]:
                self._refuse(f"tensor {_short(name)} of {dtype} {shape} does not fill its bytes {offsets[0]} to {offsets[1]}")
            entries[name] = DTYPES[dtype], tuple(shape), *offsets
        end = 0
        for name, (_, _, first, last) in sorted(entries.items(), key=lambda item: item[1][2:]):
            if first != end:
                self._refuse(f"tensor {_short(name)} begins at byte {first} of the data, where {end} was expected")
            end = last
        if end != data_size:
            self._refuse(f"the header describes {end} bytes of data, and the file holds {data_size}; it may be cut off")
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


def _short(value) -> str:
    """A value from a file as it may stand in an error message of one line."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."


def _unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _counts(value) -> bool:
    """Whether `value` is a list of integers, none negative. (True is an int to Python, not to us.)"""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` (float32, float16 or bfloat16) to `path`, atomically, without a copy of more than one."""
    names, header, end = {dtype: name for name, dtype in DTYPES.items()}, {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise ValueError(f"{name} is {tensor.dtype}; {', '.join(DTYPES)} can be written")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = dict(dtype=names[tensor.dtype], shape=list(tensor.shape), data_offsets=[begin, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every tensor begins where its numbers may begin
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


# ----------------------------------------------------------------------------------------------------------------------
# GPT-2


def load(cls: type[GPT], source: str | os.PathLike, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> GPT:
    """A model of class `cls` with the weights of `source`, in evaluation mode.

    Arguments:
        source: the name of a published model (a key of `PUBLISHED`), kept in $MINGPT_CACHE, by default ~/.cache/mingpt;
            or a folder with config.json and model.safetensors, its index, or pytorch_model.bin; or one such file.
            Without a config.json beside the weights, their shapes must be those of a published size.
        dtype: of the parameters. Where it is the file's, they are the file's own bytes, mapped into memory as they are
            touched: loading takes no time, and a page takes memory of its own when it is written to. The matrices that
            GPT-2 stores as (in, out) are then transposed views, not contiguous. In another dtype all are contiguous
            copies.
        dropout: for training on; a file's own is not taken over.

    Raises ValueError where the source is missing or damaged, is no GPT-2, or holds other tensors than the model has.
    """
    path, config = _find(source)
    weights = _open_weights(path)
    names = _our_names(weights, path)
    config = _agree(config, weights, names, path)
    with _Uninitialised():
        model = cls(replace(config, dropout=dropout))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_weights:
        del expected["lm_head.weight"]
    _compare(expected, {name: _ours(name, weights[stored]).shape for name, stored in names.items()}, path)
    for name in expected:  # one after another, so that only one tensor of a file in another dtype is in memory
        module, _, attribute = name.rpartition(".")
        value = _ours(name, weights[names[name]])
        value = value if value.dtype == dtype else value.to(dtype, memory_format=torch.contiguous_format)
        setattr(model.get_submodule(module), attribute, torch.nn.Parameter(value))
    if config.tie_weights:
        model.lm_head.weight = model.transformer.wte.weight
    return model.eval()


class _Uninitialised(TorchFunctionMode):
    """Leaves new parameters as they are in memory: drawing 124 million numbers, to replace them, would take seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def save(model: GPT, folder: str | os.PathLike) -> None:
    """Write config.json and model.safetensors to `folder`, each atomically, as transformers' GPT2LMHeadModel has them.

    Raises ValueError for what GPT-2 does not have: rotary positions, normalised queries and keys.
    """
    config = model.config
    if config.positions != "learned" or config.qk_norm:
        raise ValueError("GPT-2's format knows neither rotary positions nor qk_norm; save the state_dict instead")
    tensors = {name: tensor for name, tensor in model.state_dict().items()
               if not (config.tie_weights and name == "lm_head.weight")}
    # The transposes are views: each is made contiguous when its turn comes to be written.
    tensors = {name: tensor.T if name.endswith(TRANSPOSED) else tensor for name, tensor in tensors.items()}
    write_safetensors(Path(folder) / "model.safetensors", tensors)
    end_of_text = 50256 if config.vocab_size > 50256 else None
    write_json(Path(folder) / "config.json", dict(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=config.vocab_size,
        n_positions=config.block_size, n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head,
        activation_function="gelu_new", layer_norm_epsilon=1e-5, resid_pdrop=config.dropout, embd_pdrop=config.dropout,
        attn_pdrop=config.dropout, tie_word_embeddings=config.tie_weights, bos_token_id=end_of_text,
        eos_token_id=end_of_text, dtype=str(next(model.parameters()).dtype).removeprefix("torch.")))


def _find(source: str | os.PathLike) -> tuple[Path, GPTConfig | None]:
    """The file of weights that `source` means, and its config if there is one. Downloads what is published."""
    path = Path(source)
    if str(source) in PUBLISHED and not path.exists():
        from mingpt.download import fetch  # here, as few programs download

        revision, sha256 = PUBLISHED[str(source)]
        hosts = ["huggingface.co", "hf-mirror.com"] if sha256 else ["huggingface.co"]  # a mirror only if we can check it
        urls = [f"https://{host}/openai-community/{source}/resolve/{revision}/model.safetensors" for host in hosts]
        cache = Path(os.environ.get("MINGPT_CACHE") or Path.home() / ".cache" / "mingpt")
        name = f"{source}/model.safetensors"  # on a mirror too: four models have a file called model.safetensors
        file = fetch(urls, cache / name, sha256, description=name, mirror_name=name)
        return file, GPTConfig.from_name(str(source))
    if path.is_dir():
        files = [path / name for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise ValueError(f"{source}: the folder holds none of {', '.join(file.name for file in files)}")
    elif not path.is_file():
        raise ValueError(f"{source}: no such folder or file, and no published model is called so "
                         f"({', '.join(PUBLISHED)})")
    config = path.with_name("config.json")
    return path, _read_config(config) if config.is_file() else None


def _read_config(path: Path) -> GPTConfig:
    """transformers' config.json as a GPTConfig. ValueError if it describes what our model is not."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({str(error)[:80]})") from None
    n_embd = given.get("n_embd")
    required = dict(model_type=("gpt2",), activation_function=("gelu_new", "gelu_pytorch_tanh"),
                    layer_norm_epsilon=(1e-5,), scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,),
                    add_cross_attention=(False,), tie_word_embeddings=(True, False),
                    n_inner=(None, 4 * n_embd if type(n_embd) is int else None))
    for field, allowed in required.items():
        if given.get(field, allowed[0]) not in allowed or (field == "model_type" and field not in given):
            raise ValueError(f"{path}: {field} is {given.get(field)!r}; only {' or '.join(map(repr, allowed))} "
                             f"is GPT-2 as it is built here")
    if "n_positions" not in given and "n_ctx" in given:
        given["n_positions"] = given["n_ctx"]
    for field in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"):
        if type(given.get(field)) is not int:
            raise ValueError(f"{path}: {field} is {given.get(field)!r}; it must be a whole number")
    try:
        return GPTConfig(given["vocab_size"], given["n_positions"], given["n_layer"], given["n_head"], n_embd,
                         tie_weights=given.get("tie_word_embeddings", True))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _agree(config: GPTConfig | None, weights: Mapping[str, Tensor], names: dict[str, str], path: Path) -> GPTConfig:
    """The config, seen to fit the file before a model of that size is built; made from the file's shapes if it is None.

    Where lm_head.weight is tied to wte.weight, it is taken off `names`.
    """
    table, positions = (names.get(f"transformer.{name}.weight") for name in ("wte", "wpe"))
    if table is None or positions is None or weights[table].ndim != 2 or weights[positions].ndim != 2:
        raise ValueError(f"{path}: has no matrices called wte.weight and wpe.weight, so it is no GPT-2")
    layers = [re.match(r"transformer\.h\.(\d{1,4})\.", name) for name in names]
    size = dict(n_layer=1 + max((int(layer[1]) for layer in layers if layer), default=-1),
                n_embd=weights[table].size(1), vocab_size=weights[table].size(0), block_size=weights[positions].size(0))
    head = names.get("lm_head.weight")
    tied = head is None or torch.equal(weights[head], weights[table])
    if config is None:
        heads = [preset["n_head"] for name, preset in PRESETS.items() if name in PUBLISHED
                 and (preset["n_layer"], preset["n_embd"]) == (size["n_layer"], size["n_embd"])]
        if not heads:
            raise ValueError(f"{path}: no published GPT-2 has {size['n_layer']} layers of width {size['n_embd']}, and "
                             f"weights do not tell their number of heads; put a config.json beside the file")
        config = GPTConfig(n_head=heads[0], tie_weights=tied, **size)
    for field, value in size.items():
        if getattr(config, field) != value:
            raise ValueError(f"{path}: has {field} {value}, and its config.json says {getattr(config, field)}")
    if config.tie_weights:
        if not tied:
            raise ValueError(f"{path}: its lm_head.weight is not its wte.weight, and its config.json says that they "
                             f"are tied (tie_word_embeddings)")
        names.pop("lm_head.weight", None)
    return config


def _open_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, by their names there. A safetensors index stands for the files it lists."""
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return SafeTensors(path)
    state = load_torch(path)
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(value, Tensor)
                                              for name, value in state.items()):
        raise ValueError(f"{path}: holds something else than a dictionary of tensors")
    for name, value in state.items():
        if not name.endswith(MASKS) and (not value.is_floating_point() or value.layout != torch.strided or value.is_meta):
            raise ValueError(f"{path}: {name} is a tensor of {value.dtype}, {value.layout}, on {value.device}; weights are plain "
                             "arrays of floating-point numbers")
    return state


def _open_shards(path: Path) -> Mapping[str, Tensor]:
    try:
        files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        if any(Path(file).name != file for file in files):
            raise ValueError("it names files in other folders")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not an index of safetensors files ({str(error)[:80]})") from None
    return ChainMap(*(SafeTensors(path.with_name(file)) for file in sorted(files)))


def _our_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, str]:
    """Our name -> the file's. Files differ in whether they say "transformer." in front."""
    names = {}
    for stored in weights:
        if not stored.endswith(MASKS):
            name = stored if stored.startswith(("transformer.", "lm_head.")) else f"transformer.{stored}"
            if name in names:
                raise ValueError(f"{path}: holds both {names[name]} and {stored}")
            names[name] = stored
    return names


def _ours(name: str, stored: Tensor) -> Tensor:
    """A view of a stored tensor as our model holds it."""
    return stored.T if name.endswith(TRANSPOSED) and stored.ndim == 2 else stored


def _compare(expected: Mapping[str, tuple], found: Mapping[str, tuple], path: Path) -> None:
    """ValueError unless the names and shapes of both are the same."""
    wrong = {
        "missing": [name for name in expected if name not in found],
        "not expected": [name for name in found if name not in expected],
        "of another shape": [f"{name} {tuple(found[name])}, not {shape}" for name, shape in expected.items()
                             if tuple(found.get(name, shape)) != shape],
    }
    problems = [f"{len(names)} {problem}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
                for problem, names in wrong.items() if names]
    if problems:
        raise ValueError(f"{path}: the tensors are not those of this GPT-2: {'; '.join(problems)}")
