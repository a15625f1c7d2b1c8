"""GPT-2's weights in and out: published ones, and those that other programs wrote.

    model = GPT.from_pretrained("gpt2")           # downloads 0.5 GB once; also gpt2-medium, gpt2-large, gpt2-xl
    model = GPT.from_pretrained("my/folder")      # config.json and model.safetensors (or pytorch_model.bin)
    model = GPT.from_pretrained("ckpt.pt")        # nanoGPT's
    model = GPT.from_pretrained("model.pt", n_head=6)  # minGPT's, or a state_dict of ours, which do not tell the heads
    model.save_pretrained("my/other/folder")      # what transformers.GPT2LMHeadModel.from_pretrained loads

No code is ever run from a file: pickled ones go through torch's weights_only reader.
"""

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mingpt.model import GPT, PRESETS, GPTConfig
from mingpt.pretrained.safetensors import DTYPES, SafeTensors, write_safetensors
from mingpt.support.checkpoints import load_torch
from mingpt.support.files import cache_folder, read_json, short, short_name, write_json

# name -> (revision, sha256 of model.safetensors where it is known)
PUBLISHED = {
    "gpt2": (
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-medium": ("6dcaa7a952f72f9298047fd5137cd6e4f05f41da", None),
    "gpt2-large": ("32b71b12589c2f8d625668d2335a01cac3249519", None),
    "gpt2-xl": (
        "15ea56dee5df4983c59b2538573817e1667135e2",
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
}
# What a folder is looked through for, in this order. The last two are what nanoGPT and minGPT call theirs.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ckpt.pt",
    "model.pt",
)
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # GPT-2 stores these (in, out); nn.Linear is (out, in)
MASKS = (".attn.bias", ".attn.masked_bias")  # buffers that old files hold among the weights
WRAPPERS = {
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}  # modules around a module, by name
LAYER_NORM_EPSILON = 1e-5


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The name and the shape of each tensor of a GPT-2, as our model holds them."""
    V, T, C = config.vocab_size, config.block_size, config.n_embd
    layer = {
        "ln_1.weight": (C,),
        "ln_1.bias": (C,),
        "attn.c_attn.weight": (3 * C, C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,),
        "ln_2.bias": (C,),
        "mlp.c_fc.weight": (4 * C, C),
        "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (C, 4 * C),
        "mlp.c_proj.bias": (C,),
    }
    return {
        "transformer.wte.weight": (V, C),
        "transformer.wpe.weight": (T, C),
        **{f"transformer.h.{n}.{name}": shape for n in range(config.n_layer) for name, shape in layer.items()},
        "transformer.ln_f.weight": (C,),
        "transformer.ln_f.bias": (C,),
        "lm_head.weight": (V, C),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Reading


@dataclass
class Weights:
    """The tensors of a file, by the names that our model gives them, and what the file says about the model."""

    path: Path
    tensors: Mapping[str, Tensor]  # by the file's names
    names: dict[str, str]  # our name -> the file's
    config: GPTConfig | None = None
    told_by: str = "config.json"  # where the config is from
    linear: bool = False  # matrices are (out, in), as minGPT, nanoGPT and we have them, not (in, out) as GPT-2's files

    def __getitem__(self, name: str) -> Tensor:
        """A view of a stored tensor as our model holds it."""
        stored = self.tensors[self.names[name]]
        return stored.T if not self.linear and name.endswith(TRANSPOSED) and stored.ndim == 2 else stored


def load(
    cls: type[GPT],
    source: str | os.PathLike,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    n_head: int | None = None,
) -> GPT:
    """A model of class `cls` with the weights of `source`, in evaluation mode.

    Arguments:
        source: the name of a published model (a key of `PUBLISHED`), kept in $MINGPT_CACHE, by default ~/.cache/mingpt;
            or a folder with config.json and model.safetensors, pytorch_model.bin or the index of several such files, or
            with a checkpoint of nanoGPT (ckpt.pt) or minGPT (model.pt); or one such file, or a state_dict of our own.
            Without a config.json beside the weights, their shapes must be those of a published size.
        dtype: of the parameters. Where it is the file's, they are the file's own bytes, mapped into memory as they are
            touched: loading takes no time, and a page takes memory of its own when it is written to. The matrices that
            GPT-2 stores as (in, out) are then transposed views, not contiguous. In another dtype all are contiguous
            copies.
        dropout: for training on; a file's own is not taken over.
        n_head: the number of heads, where the file does not tell: no shape depends on it.

    Without biases (nanoGPT's bias=False) they are 0 here, which is the same model. nanoGPT's exact GELU is GPT-2's tanh
    form here, which is nearly the same; a warning says so.

    Raises ValueError where the source is missing or damaged, is no GPT-2, or holds other tensors than the model has.
    """
    weights = _find(source)
    config = _agreed_config(weights, n_head)
    expected = tensor_shapes(config)
    if config.tie_weights:
        del expected["lm_head.weight"]
        weights.names.pop("lm_head.weight", None)
    no_biases = weights.linear and not any(name.endswith(".bias") for name in weights.names)
    stored = {name: shape for name, shape in expected.items() if not (no_biases and name.endswith(".bias"))}
    problems = _differences(stored, {name: weights[name].shape for name in weights.names})
    if problems:
        raise ValueError(f"{weights.path}: the tensors are not those of this GPT-2: {problems}")
    with _Uninitialised():
        model = cls(replace(config, dropout=dropout))
    if cls is not GPT:
        _check_is_gpt2(model)
    memory = set()
    for name, shape in expected.items():  # one after another: of a file in another dtype, one tensor is in memory
        module, _, attribute = name.rpartition(".")
        value = weights[name] if name in stored else torch.zeros(shape, dtype=dtype)
        same = value.dtype == dtype
        value = _apart(value, memory) if same else value.to(dtype, memory_format=torch.contiguous_format)
        setattr(model.get_submodule(module), attribute, nn.Parameter(value))
    if config.tie_weights:
        model.lm_head.weight = model.transformer.wte.weight
    return model.eval()


class _Uninitialised(TorchFunctionMode):
    """Leaves new parameters as they are in memory: drawing 124 million numbers, to replace them, would take seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _apart(value: Tensor, memory: set[int]) -> Tensor:
    """`value`, or a copy where it shares memory with a tensor before it, or with itself: training would change both."""
    storage = value.untyped_storage()
    if storage.data_ptr() in memory or storage.nbytes() < value.numel() * value.element_size():
        return value.contiguous().clone()
    memory.add(storage.data_ptr())
    return value


def _find(source: str | os.PathLike) -> Weights:
    """The weights that `source` means, and their config if there is one. Downloads what is published."""
    try:
        path = Path(source)
    except TypeError:
        raise ValueError(
            f"a {type(source).__name__} is no source of weights; give a name, a folder or a file"
        ) from None
    if str(source) in PUBLISHED and not path.exists():
        from mingpt.pretrained.download import fetch  # here, as few programs download

        revision, sha256 = PUBLISHED[str(source)]
        hosts = (
            ["huggingface.co", "hf-mirror.com"] if sha256 else ["huggingface.co"]
        )  # a mirror only if we can check it
        urls = [f"https://{host}/openai-community/{source}/resolve/{revision}/model.safetensors" for host in hosts]
        name = f"{source}/model.safetensors"  # on a mirror too: four models have a file called model.safetensors
        config = GPTConfig.from_name(str(source))
        file = fetch(
            urls,
            cache_folder() / name,
            sha256,
            description=name,
            mirror_name=name,
            check=SafeTensors,
            largest=_largest_file(config),
        )
        weights = _open(file)
        weights.config = config
        return weights
    if path.is_dir():
        files = [path / name for name in FILES]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise ValueError(f"{source}: the folder holds none of {', '.join(FILES)}")
    elif not path.is_file():
        raise ValueError(
            f"{source}: no such folder or file, and no published model is called so ({', '.join(PUBLISHED)})"
        )
    weights, beside = _open(path), path.with_name("config.json")
    if weights.config is None and beside.is_file():
        weights.config = _read_config(beside, weights)
    return weights


def _open(path: Path) -> Weights:
    """The weights of a file or of an index, whatever wrote them."""
    tensors = _open_shards(path) if path.name.endswith(".index.json") else _open_file(path)
    nanogpt = isinstance(tensors.get("model"), dict) and isinstance(tensors.get("model_args"), dict)
    arguments = tensors["model_args"] if nanogpt else None
    tensors = tensors["model"] if nanogpt else tensors
    _check_tensors(tensors, path)
    names = _our_names(tensors, path)
    weights = Weights(path, tensors, names)
    if "transformer.h.0.attn.c_attn.weight" in names and "transformer.wte.weight" in names:
        matrix, table = weights.tensors[names["transformer.h.0.attn.c_attn.weight"]], weights["transformer.wte.weight"]
        weights.linear = matrix.ndim == table.ndim == 2 and matrix.shape == (3 * table.size(1), table.size(1))
    if nanogpt:
        weights.config, weights.told_by = _nanogpt_config(arguments, weights), "model_args"
        warnings.warn(
            f"{path}: nanoGPT's exact GELU becomes GPT-2's tanh form of it here; an activation differs by up to 5e-4",
            stacklevel=5,
        )
    return weights


def _open_file(path: Path) -> Mapping[str, Tensor]:
    """What a file holds: tensors by name, or a checkpoint with such a dictionary in it."""
    if path.suffix == ".safetensors":
        return SafeTensors(path)
    state = load_torch(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dictionary of tensors")
    return state


def _open_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index names. Those of safetensors are mapped into memory."""
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    files = list(files.values()) if isinstance(files, dict) else []
    for file in files:
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]*\.(safetensors|bin|pt|pth)", file):
            raise ValueError(f"{path}: not an index of files of weights beside it ({short(file)})")
    if not files:
        raise ValueError(f"{path}: not an index of files of weights (it has no weight_map)")
    tensors = {}
    for file in sorted(set(files)):
        for name, value in _open_file(path.with_name(file)).items():
            if name in tensors:
                raise ValueError(f"{path}: two of its files hold {short(name)}")
            tensors[name] = value
    return tensors


def _check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """ValueError unless all are plain arrays of floating-point numbers, the attention masks of old files excepted."""
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path}: holds something else than a dictionary of tensors ({short(name)}: a "
                f"{type(value).__name__}); of a checkpoint, save the model's state_dict in a file of its own"
            )
        if not name.endswith(MASKS) and not _is_plain(value):
            raise ValueError(
                f"{path}: {short_name(name)} is a tensor of {value.dtype}, {value.layout}, on {value.device}; "
                "weights are plain arrays of floating-point numbers"
            )


def _is_plain(value: Tensor) -> bool:
    """Whether it is an array of floating-point numbers, all of them there."""
    return (
        value.dtype in DTYPES.values()
        and value.is_floating_point()
        and value.layout == torch.strided
        and not value.is_meta
    )


def _our_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, str]:
    """Our name -> the file's.

    Files differ in whether they say "transformer." in front, and in what wrapped the model.
    """
    if "tok_emb.weight" in tensors and "pos_emb" in tensors:
        raise ValueError(
            f"{path}: a minGPT of 2020 (tok_emb, blocks), which computes queries, keys and values by three "
            "matrices; join them into c_attn and rename the rest as minGPT has done since 2022"
        )
    names = {}
    for stored in tensors:
        if not stored.endswith(MASKS):
            name = _unwrapped(stored)
            name = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
            if name in names:
                raise ValueError(f"{path}: holds both {short_name(names[name])} and {short_name(stored)}")
            names[name] = stored
    return names


def _unwrapped(name: str) -> str:
    """A name without the parts that torch.compile and data parallelism put into it: module._orig_mod.lm_head.weight."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _read_config(path: Path, weights: Weights) -> GPTConfig | None:
    """transformers' config.json, or minGPT's, as a GPTConfig. ValueError if it describes what our model is not."""
    given = read_json(path)
    if not isinstance(given, dict):
        raise ValueError(f"{path}: has to be one JSON object, as transformers writes it")
    if "model_type" not in given and isinstance(given.get("model"), dict) and weights.linear:
        return _mingpt_config(given["model"], path, weights)
    n_embd = given.get("n_embd")
    required = dict(
        model_type=("gpt2",),
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        layer_norm_epsilon=(LAYER_NORM_EPSILON,),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True, False),
        n_inner=(None, 4 * n_embd if type(n_embd) is int else None),
    )
    for field, allowed in required.items():
        if given.get(field, allowed[0]) not in allowed or (field == "model_type" and field not in given):
            raise ValueError(
                f"{path}: {field} is {short(given.get(field))}; only {' or '.join(map(short, allowed))} "
                f"is GPT-2 as it is built here"
            )
    if "n_positions" not in given and "n_ctx" in given:
        given["n_positions"] = given["n_ctx"]
    return _config(
        path,
        {**given, "block_size": given.get("n_positions")},
        dict(block_size="n_positions"),
        tie_weights=bool(given.get("tie_word_embeddings", True)),
    )


def _mingpt_config(given: dict, path: Path, weights: Weights) -> GPTConfig | None:
    """The config that minGPT writes beside its model.pt: a preset's name, or the numbers.

    None if it tells no n_head.
    """
    preset = given.get("model_type")
    n_head = PRESETS[preset]["n_head"] if isinstance(preset, str) and preset in PRESETS else given.get("n_head")
    if n_head is None:
        return None
    return _config(path, {**_sizes(weights), "n_head": n_head}, {}, tie_weights=_is_tied(weights))


def _nanogpt_config(given: dict, weights: Weights) -> GPTConfig:
    """The `model_args` of nanoGPT's checkpoint as a GPTConfig."""
    if type(given.get("bias", True)) is not bool:
        raise ValueError(f"{weights.path}: model_args: bias is {short(given['bias'])}; it must be true or false")
    return _config(f"{weights.path}: model_args", given, {}, tie_weights=_is_tied(weights))


def _config(place, given: Mapping, called: Mapping[str, str], tie_weights: bool) -> GPTConfig:
    """A GPTConfig of the numbers in `given`.

    ValueError, with the place and what it calls a field, if one is no number.
    """
    fields = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
    for field in fields:
        if type(given.get(field)) is not int:
            raise ValueError(
                f"{place}: {called.get(field, field)} is {short(given.get(field))}; it must be a whole number"
            )
    try:
        return GPTConfig(*(given[field] for field in fields), tie_weights=tie_weights)
    except ValueError as error:
        raise ValueError(f"{place}: {str(error)[:200]}") from None


def _sizes(weights: Weights) -> dict[str, int]:
    """The sizes that the shapes tell. ValueError if there are no embeddings to tell them."""
    tables = [
        weights[name] if name in weights.names else None
        for name in ("transformer.wte.weight", "transformer.wpe.weight")
    ]
    if any(table is None or table.ndim != 2 for table in tables):
        raise ValueError(f"{weights.path}: has no matrices called wte.weight and wpe.weight, so it is no GPT-2")
    layers = [re.match(r"transformer\.h\.([0-9]{1,4})\.", name) for name in weights.names]
    return dict(
        n_layer=1 + max((int(layer[1]) for layer in layers if layer), default=-1),
        n_embd=tables[0].size(1),
        vocab_size=tables[0].size(0),
        block_size=tables[1].size(0),
    )


def _is_tied(weights: Weights) -> bool:
    """Whether the output layer is the table of token embeddings."""
    if "lm_head.weight" not in weights.names or "transformer.wte.weight" not in weights.names:
        return "lm_head.weight" not in weights.names
    head, table = weights["lm_head.weight"], weights["transformer.wte.weight"]
    if _same_memory(head, table):  # equal to itself, NaN and all
        return True
    return head.dtype == table.dtype and torch.equal(head, table)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a is b or (
        a.numel() > 0
        and a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and not a.is_meta
    )


def _agreed_config(weights: Weights, n_head: int | None) -> GPTConfig:
    """The file's config, or one made from the shapes of its tensors.

    Checked against them before a model of that size is built.
    """
    path, config, sizes = weights.path, weights.config, _sizes(weights)
    if n_head is not None and (type(n_head) is not int or n_head < 1):
        raise ValueError(f"n_head is {short(n_head)}; it must be a whole number of at least 1")
    if config is None:
        config = _config(path, {**sizes, "n_head": n_head or _published_heads(weights, sizes)}, {}, _is_tied(weights))
    if n_head is not None and n_head != config.n_head:
        raise ValueError(
            f"{path}: its {weights.told_by} says n_head {config.n_head}, and n_head={n_head} was asked for; "
            "leave that out"
        )
    for field, value in sizes.items():
        if getattr(config, field) != value:
            raise ValueError(
                f"{path}: has {field} {value}, and its {weights.told_by} says {short(getattr(config, field))}"
            )
    if config.tie_weights and not _is_tied(weights):
        raise ValueError(
            f"{path}: its lm_head.weight is not its wte.weight, and its config.json says that they "
            f"are tied (tie_word_embeddings)"
        )
    return config


def _published_heads(weights: Weights, sizes: Mapping[str, int]) -> int:
    """The number of heads of the published GPT-2 that has these sizes."""
    for name, preset in PRESETS.items():
        if name in PUBLISHED and (preset["n_layer"], preset["n_embd"]) == (sizes["n_layer"], sizes["n_embd"]):
            return preset["n_head"]
    kind = "a state_dict as minGPT saves it; " if weights.linear else ""
    raise ValueError(
        f"{weights.path}: {kind}no published GPT-2 has {sizes['n_layer']} layers of width {sizes['n_embd']}, and "
        f"weights do not tell their number of heads; give it, as in from_pretrained(..., n_head=6), or put a "
        f"config.json beside the file"
    )


def _differences(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
    """In what the names and shapes of both differ, in one line; "" if in nothing."""
    wrong = {
        "missing": [name for name in expected if name not in found],
        "not expected": [short_name(name) for name in found if name not in expected],
        "of another shape": [
            f"{name} {tuple(found[name])}, not {shape}"
            for name, shape in expected.items()
            if tuple(found.get(name, shape)) != shape
        ],
    }
    return "; ".join(
        f"{len(names)} {problem}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for problem, names in wrong.items()
        if names
    )


# ----------------------------------------------------------------------------------------------------------------------
# Writing


def save(model: GPT, folder: str | os.PathLike) -> None:
    """Write config.json and model.safetensors to `folder`, each atomically, as transformers' GPT2LMHeadModel has them.

    What is written is read back as the same model: whether the head is tied is seen from the model, not from its
    config.
    Raises ValueError, before it writes anything, for what GPT-2 does not have: rotary positions, normalised queries and
    keys, other modules or tensors, tensors that are tied to one another. (What a subclass of GPT does in its own
    `forward`
    cannot be seen.)
    """
    model = _core(model)
    config = model.config
    if config.positions != "learned" or config.qk_norm:
        raise ValueError("GPT-2's format knows neither rotary positions nor qk_norm; save the state_dict instead")
    _check_is_gpt2(model)
    tensors = {_unwrapped(name): tensor for name, tensor in model.state_dict().items()}
    tied = _same_memory(tensors["lm_head.weight"], tensors["transformer.wte.weight"])
    if tied:
        del tensors["lm_head.weight"]
    _check_values(tensors)
    dtype = next(iter(tensors.values())).dtype
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    # The transposes are views: each is made contiguous when its turn comes to be written.
    tensors = {name: tensor.T if name.endswith(TRANSPOSED) else tensor for name, tensor in tensors.items()}
    write_safetensors(Path(folder) / "model.safetensors", tensors)
    end_of_text = 50256 if config.vocab_size > 50256 else None
    write_json(
        Path(folder) / "config.json",
        dict(
            architectures=["GPT2LMHeadModel"],
            model_type="gpt2",
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            activation_function="gelu_new",
            layer_norm_epsilon=LAYER_NORM_EPSILON,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            tie_word_embeddings=tied,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            dtype=str(dtype).removeprefix("torch."),
        ),
    )


def _largest_file(config: GPTConfig) -> int:
    """Bytes that a published file has at most: its float32 numbers and masks, and a quarter more."""
    width, positions = config.n_embd, config.block_size
    layer = 12 * width**2 + 13 * width + positions**2  # weights, biases and norms, and a mask
    return 5 * ((config.vocab_size + positions + 2) * width + config.n_layer * layer)


def _core(model: nn.Module) -> GPT:
    """The GPT in the modules that torch.compile and data parallelism put around it. ValueError if there is none."""
    core = model
    while not isinstance(core, GPT):
        inner = (
            [module for name, module in core.named_children() if name in WRAPPERS]
            if isinstance(core, nn.Module)
            else []
        )
        if not inner:
            raise ValueError(f"a {type(model).__name__} is no GPT; only a GPT can be written in GPT-2's format")
        core = inner[0]
    return core


def _check_is_gpt2(model: GPT) -> None:
    """ValueError unless the model's modules and the shapes of its tensors are those of a GPT of its config."""
    found = {_unwrapped(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = _differences(tensor_shapes(model.config), found)
    if problems:
        raise ValueError(f"this {type(model).__name__} is no GPT-2: {problems}; save its state_dict instead")
    with _Uninitialised():
        plain = dict(GPT(replace(model.config, n_layer=1)).named_modules())  # all layers are alike
    for name, module in {
        _unwrapped(name): module for name, module in model.named_modules(remove_duplicate=False)
    }.items():
        meant = plain.get(re.sub(r"^transformer\.h\.\d+", "transformer.h.0", name))
        # `extra_repr` is what a module of torch says about its computation: sizes, epsilon, padding.
        if name and (
            type(module) is not type(meant)
            or not isinstance(module, nn.Dropout)
            and module.extra_repr() != meant.extra_repr()
        ):
            raise ValueError(
                f"this {type(model).__name__} is no GPT-2: its {name} is {short_name(str(module))}, where GPT-2 "
                f"has {short_name(str(meant))}; save its state_dict instead"
            )


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless each is an array of floating-point numbers of its own."""
    memory = {}
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise ValueError(
                f"{name} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}; GPT-2's format "
                "holds plain arrays of floating-point numbers"
            )
        first = memory.setdefault(tensor.data_ptr(), name)
        if first != name:
            raise ValueError(
                f"{name} is the same tensor as {first}, and GPT-2's format ties nothing but the head; save the "
                "state_dict instead"
            )
