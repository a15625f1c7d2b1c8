"""Weights in and out: the same numbers as transformers in both directions, one clear line for every damaged file."""

import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mingpt.interpret.hooks import record
from mingpt.model import GPT, GPTConfig
from mingpt.pretrained import gpt2 as pretrained
from mingpt.pretrained.gpt2 import SafeTensors, write_safetensors
from mingpt.support.checkpoints import save_torch
from projects.birthplace.variants import Synthesizer

CLOSE = dict(rtol=1e-4, atol=1e-4)
SHAPES = [  # vocab_size, context, layers, heads, width, tied
    (31, 24, 3, 4, 32, True),
    (17, 9, 2, 3, 15, False),
    (50, 33, 1, 7, 28, True),
    (23, 16, 4, 1, 8, False),
    (11, 40, 2, 5, 40, True),
]


def small_gpt(seed: int = 0, **changes) -> GPT:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**dict(vocab_size=31, block_size=24, n_layer=3, n_head=4, n_embd=32), **changes}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers", reason="transformers is not installed")
    module.utils.logging.disable_progress_bar()
    return module


def their_gpt(transformers, V, T, n_layer, n_head, C, tied):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V,
            n_positions=T,
            n_layer=n_layer,
            n_head=n_head,
            n_embd=C,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def assert_same_model(ours: GPT, theirs) -> None:
    V, T, n_layer = ours.config.vocab_size, ours.config.block_size, ours.config.n_layer
    idx = torch.randint(V, (3, T))
    with record(ours, ["drop", "h.*", "ln_f", "h.*.attn.pattern"]) as seen:
        logits, _ = ours(idx)
    expected = theirs(idx, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(logits, expected.logits, **CLOSE)
    torch.testing.assert_close(seen.stack("h.*.attn.pattern"), torch.stack(expected.attentions), **CLOSE)
    hidden = [seen["drop"], *(seen[f"h.{layer}"] for layer in range(n_layer - 1)), seen["ln_f"]]
    assert len(hidden) == len(expected.hidden_states)
    for a, b in zip(hidden, expected.hidden_states):
        torch.testing.assert_close(a, b, **CLOSE)
    prompt = idx[:, : T // 3]
    new = T - T // 3
    greedy = theirs.generate(prompt, max_new_tokens=new, do_sample=False, attention_mask=torch.ones_like(prompt))
    assert torch.equal(ours.generate(prompt, new), greedy)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_transformers_writes_is_the_same_model_here(transformers, shape, tmp_path):
    theirs = their_gpt(transformers, *shape)
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    assert (ours.lm_head.weight is ours.transformer.wte.weight) == shape[-1] and not ours.training
    assert_same_model(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_here_is_the_same_model_in_transformers(transformers, shape, tmp_path):
    V, T, n_layer, n_head, C, tied = shape
    ours = small_gpt(vocab_size=V, block_size=T, n_layer=n_layer, n_head=n_head, n_embd=C, tie_weights=tied)
    ours.save_pretrained(tmp_path)
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    assert_same_model(ours, theirs.eval())


def test_shards_old_files_and_files_without_the_prefix_are_read(transformers, tmp_path):
    theirs = their_gpt(transformers, *SHAPES[0])
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    config = (tmp_path / "sharded" / "config.json").read_text()
    state = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    state |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24).tril(), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    for name, prefix in (("old", "transformer."), ("bare", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        named = {name if name.startswith("lm_head") else prefix + name: value for name, value in state.items()}
        save_torch(tmp_path / name / "pytorch_model.bin", named)
    del state["lm_head.weight"]
    save_torch(tmp_path / "bare" / "weights.pt", state)
    for source in ("sharded", "old", "bare", "bare/weights.pt"):
        assert_same_model(GPT.from_pretrained(tmp_path / source), theirs)


def test_a_file_of_transformers_own_library_and_ours_are_alike(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).half(),
        "c": torch.randn(2, 1, 3).bfloat16(),
        "d": torch.empty(0, 4),
        "e": torch.tensor(2.5),
    }
    write_safetensors(tmp_path / "ours", tensors)
    safetensors.save_file(tensors, tmp_path / "theirs")
    read = [safetensors.load_file(tmp_path / "ours"), SafeTensors(tmp_path / "theirs"), SafeTensors(tmp_path / "ours")]
    for file in read:
        assert set(file) == set(tensors)
        for name, tensor in tensors.items():
            assert file[name].dtype == tensor.dtype and torch.equal(file[name], tensor)


def test_round_trip_and_dtypes(tmp_path):
    model = small_gpt()
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path, dropout=0.25)
    assert again.config == GPTConfig(**{**vars(model.config), "dropout": 0.25})
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    model.bfloat16().save_pretrained(tmp_path / "half")
    half, whole = (GPT.from_pretrained(tmp_path / "half", dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for name, value in model.state_dict().items():
        assert half.state_dict()[name].dtype == torch.bfloat16 and torch.equal(half.state_dict()[name], value)
        assert whole.state_dict()[name].dtype == torch.float32 and torch.equal(whole.state_dict()[name], value.float())
    assert half.lm_head.weight is half.transformer.wte.weight


def test_a_loaded_model_trains_and_its_file_stays_as_it_is(tmp_path):
    model, idx = small_gpt(), torch.randint(31, (2, 24))
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = GPT.from_pretrained(tmp_path)
    for m in (model, loaded):
        optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            m(idx, idx)[1].backward()
            optimizer.step()
    torch.testing.assert_close(loaded(idx)[0], model(idx)[0], rtol=1e-3, atol=1e-3)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    loaded.save_pretrained(tmp_path)  # over the file that its parameters are mapped from
    torch.testing.assert_close(GPT.from_pretrained(tmp_path)(idx)[0], loaded(idx)[0])


def test_without_a_config_the_shapes_of_a_published_size_are_recognised(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.PUBLISHED, "gpt-nano", ("main", None))
    for tied in (True, False):
        model = small_gpt(n_layer=3, n_head=3, n_embd=48, tie_weights=tied)
        model.save_pretrained(tmp_path)
        (tmp_path / "config.json").unlink()
        assert GPT.from_pretrained(tmp_path / "model.safetensors").config == model.config
    small_gpt().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="no published GPT-2 has 3 layers of width 32.*put a config.json beside"):
        GPT.from_pretrained(tmp_path)


def test_a_published_model_is_downloaded_once(tmp_path, monkeypatch):
    name = "gpt-nano"
    monkeypatch.setitem(pretrained.PUBLISHED, name, ("main", None))
    monkeypatch.setenv("MINGPT_CACHE", str(tmp_path / "cache"))
    model = GPT(GPTConfig.from_name(name))
    model.save_pretrained(tmp_path / "served" / name)  # a mirror has a folder for each model
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "served")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MINGPT_MIRROR", f"http://127.0.0.1:{server.server_port}")
        first = GPT.from_pretrained(name)
        server.shutdown()
    second = GPT.from_pretrained(name)  # the server is gone
    for loaded in (first, second):
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------------
# Bad files


def file_of(path, header, data: bytes = b"", length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(shape=(2,), first=0, last=8, dtype="F32") -> dict:
    return dict(dtype=dtype, shape=list(shape), data_offsets=[first, last])


@pytest.mark.parametrize(
    "header, data, message",
    [
        ({"a": tensor([10**9] * 9, 0, 8)}, bytes(8), "is larger than any file"),
        ({"a": tensor([7, 10**400], 0, 8)}, bytes(8), "is larger than any file"),
        ({"a" * 10**5: tensor(dtype="F7")}, b"", "aaa.... has dtype 'F7'"),
        ({"a": tensor()}, b"1234567", "describes 8 bytes of data, and the file holds 7; it may be cut off"),
        ({"a": tensor()}, b"123456789", "describes 8 bytes of data, and the file holds 9"),
        ({"a": tensor(), "b": tensor(first=4, last=12)}, b"1" * 12, "tensor 'b' begins at byte 4 of the data, where 8"),
        (
            {"a": tensor(), "b": tensor(first=12, last=20)},
            b"1" * 20,
            "tensor 'b' begins at byte 12 of the data, where 8",
        ),
        ({"a": tensor(first=8, last=0)}, b"", "does not fill its bytes 8 to 0"),
        ({"a": tensor(shape=(3,))}, b"1" * 8, "tensor 'a' of F32 .3. does not fill its bytes 0 to 8"),
        ({"a": tensor(shape=(2**40, 2**40))}, b"1" * 8, "is larger than any file"),
        ({"a": tensor((0, 2**47, 2**47), 0, 0)}, b"", "is larger than any file"),
        ({"a": tensor((2**47, 2**47, 0), 0, 0)}, b"", "is larger than any file"),
        ({"a": tensor(shape=(2**40,))}, b"1" * 8, "does not fill"),
        ({"a\n\x1b[2J": tensor(dtype="F7")}, b"", r"tensor 'a.n.x1b.2J' has dtype 'F7'"),
        ({"a": tensor(shape=(-2,))}, b"1" * 8, "has shape .-2. and"),
        ({"a": tensor(shape=(True, 2))}, b"1" * 8, "has shape .True, 2. and"),
        ({"a": tensor(dtype="C64", shape=(1,))}, b"1" * 8, "tensor 'a' has dtype 'C64'; only F64, F32, F16, BF16, I64"),
        ({"a": tensor(dtype=["F32"])}, b"1" * 8, "tensor 'a' has dtype .'F32'.;"),
        ({"a": dict(dtype="F32", shape=[2])}, b"1" * 8, "data_offsets None"),
        ({"a": 5}, b"", "has dtype None"),
        (b"[1, 2]", b"", "the header is not valid .it is not an object"),
        (b'{"a": ', b"", "the header is not valid .Expecting value"),
        (b"\xff\xfe{}", b"", "the header is not valid .'utf-8' codec"),
        (b'{"a": 1, "a": 2}', b"", "a name occurs twice"),
        (b'{"a": ' + b"[" * 100_000, b"", "the header is not valid"),
        (b'{"a": ' + b"9" * 10_000 + b"}", b"", "tensor 'a'|the header is not valid"),
    ],
)
def test_a_damaged_safetensors_file_is_one_line(tmp_path, header, data, message):
    path = file_of(tmp_path / "x.safetensors", header, data)
    with pytest.raises(ValueError, match=message) as error:
        SafeTensors(path)
    assert str(error.value).startswith(f"{path}: ") and str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "a header of 0 bytes does not fit into the file's 0"),
        (b"\x08\0\0\0", "does not fit into the file's 4"),
        (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808 bytes does not fit into the file's 10"),
        (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes does not fit"),
        (struct.pack("<Q", 1 << 25) + b" " * (1 << 25), "a header of 33554432 bytes; at most 16777216 are read"),
    ],
)
def test_a_wrong_header_length_is_one_line(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SafeTensors(tmp_path / "x.safetensors")


def test_a_header_of_odd_length_is_read_all_the_same(tmp_path):
    values = torch.tensor([1.5, -2.0])
    header = json.dumps({"a": tensor()}).encode()
    header += b" " * (1 - len(header) % 2)
    assert len(header) % 2, "so that no number begins at a multiple of its size"
    assert torch.equal(SafeTensors(file_of(tmp_path / "x", header, values.numpy().tobytes()))["a"], values)


@pytest.mark.parametrize("cut", [0, 5, 100, 3000, -1])
def test_a_truncated_model_is_refused(tmp_path, cut):
    small_gpt().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match="model.safetensors: not a safetensors file that can be read"):
        GPT.from_pretrained(tmp_path)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"wte.weight": Malicious()}))
    torch.save({"wte.weight": Malicious()}, tmp_path / "zipped.pt")
    for source in (tmp_path, tmp_path / "zipped.pt"):
        with pytest.raises(ValueError, match="not a file of parameters that can be loaded safely"):
            GPT.from_pretrained(source)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "state, message",
    [
        ({1: torch.zeros(2)}, "holds something else than a dictionary of tensors"),
        ({"wte.weight": torch.zeros(2, 3, dtype=torch.int64)}, "wte.weight is a tensor of torch.int64"),
        ({"wte.weight": torch.zeros(2, 3).to_sparse()}, "wte.weight is a tensor of torch.float32, torch.sparse_coo"),
    ],
)
def test_a_pickle_of_other_tensors_is_refused(state, message, tmp_path):
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_type="llama"), "model_type is 'llama'; only 'gpt2' is GPT-2"),
        (dict(model_type=None), "model_type is None"),
        (dict(activation_function="relu"), "activation_function is 'relu'; only 'gelu_new' or 'gelu_pytorch_tanh'"),
        (dict(n_inner=64), "n_inner is 64; only None or 128"),
        (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
        (dict(n_head=5), "config.json: n_embd is 32, which 5 heads do not divide"),
        (dict(n_head="4"), "config.json: n_head is '4'; it must be a whole number"),
        (dict(n_layer=10**9), "has n_layer 3, and its config.json says 1000000000"),
        (dict(n_embd=10**12, n_head=1), "has n_embd 32, and its config.json says"),
        (dict(vocab_size=32), "has vocab_size 31, and its config.json says 32"),
        (dict(n_positions=25), "has block_size 24, and its config.json says 25"),
        (dict(tie_word_embeddings=False), "1 missing: lm_head.weight"),
    ],
)
def test_a_config_of_another_model_is_one_line(tmp_path, changes, message):
    small_gpt().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message) as error:
        GPT.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_one_line(tmp_path, text):
    small_gpt().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json:(1: not JSON| not JSON that can| has to be one JSON object)"):
        GPT.from_pretrained(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path):
    model = small_gpt()
    model.save_pretrained(tmp_path)
    tensors = dict(SafeTensors(tmp_path / "model.safetensors"))
    tensors["transformer.h.1.crossattention.q.weight"] = torch.zeros(3)
    tensors["transformer.h.2.mlp.c_fc.weight"] = tensors["transformer.h.2.mlp.c_fc.weight"].T.contiguous()
    del tensors["transformer.ln_f.bias"], tensors["transformer.h.0.ln_1.weight"]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        GPT.from_pretrained(tmp_path)
    message = str(error.value)
    assert "2 missing: transformer.h.0.ln_1.weight, transformer.ln_f.bias" in message
    assert "1 not expected: transformer.h.1.crossattention.q.weight" in message
    assert "1 of another shape: transformer.h.2.mlp.c_fc.weight (32, 128), not (128, 32)" in message


def test_a_tied_config_with_another_head_is_refused(tmp_path):
    small_gpt(tie_weights=False).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    with pytest.raises(ValueError, match="lm_head.weight is not its wte.weight"):
        GPT.from_pretrained(tmp_path)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such folder or file, and no published model is called so .gpt2,"):
        GPT.from_pretrained("gpt3")
    with pytest.raises(ValueError, match="the folder holds none of model.safetensors"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="weights.pt: not a file of parameters"):
        GPT.from_pretrained(tmp_path / "weights.pt")
    save_torch(tmp_path / "weights.pt", {"wte.weight": [1, 2]})
    with pytest.raises(ValueError, match="holds something else than a dictionary of tensors"):
        GPT.from_pretrained(tmp_path / "weights.pt")
    save_torch(tmp_path / "weights.pt", {"encoder.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="no matrices called wte.weight and wpe.weight, so it is no GPT-2"):
        GPT.from_pretrained(tmp_path / "weights.pt")
    for index in ('{"weight_map": {"a": "../other.safetensors"}}', "{}", '{"weight_map": 3}', "["):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ValueError, match="index.json:(1: not JSON| not an index of files of weights)"):
            GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [dict(positions="rotary"), dict(qk_norm=True)])
def test_what_gpt2_does_not_have_is_not_written(tmp_path, changes):
    with pytest.raises(ValueError, match="knows neither rotary positions nor qk_norm"):
        small_gpt(**changes).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    small_gpt().save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="a is torch.complex64; F64, F32, F16, BF16, .* can be written"):
        write_safetensors(tmp_path / "model.safetensors", {"a": torch.zeros(2, dtype=torch.complex64)})
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from Linux's /proc")
def test_loading_needs_little_more_memory_than_the_model(tmp_path, environment):
    GPT(GPTConfig(vocab_size=20000, block_size=64, n_layer=4, n_head=8, n_embd=512)).save_pretrained(tmp_path)
    script = """
import sys
import torch
from mingpt.model import GPT
import mingpt.pretrained.gpt2

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = memory("VmRSS")
model = GPT.from_pretrained(sys.argv[1])
size = sum(p.numel() * p.element_size() for p in model.parameters())
mapped = (memory("VmHWM") - before) / size
sum(float(p.sum()) for p in model.parameters())
print(mapped, (memory("VmHWM") - before) / size)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, check=True, capture_output=True, text=True
    )
    mapped, used = map(float, run.stdout.split())
    assert mapped < 0.3 and 0.9 < used < 1.3, "next to nothing until the weights are used, then their size"


# ----------------------------------------------------------------------------------------------------------------------
# What other programs write


def logits_of(state: dict, n_head: int, idx, exact_gelu: bool):
    """A GPT in plain functions, from matrices (out, in) by the names of minGPT and nanoGPT;
    no bias where there is none.
    """

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state.get(f"{name}.bias"))

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    x = state["transformer.wte.weight"][idx] + state["transformer.wpe.weight"][: idx.size(1)]
    B, T, C = x.shape
    layer = 0
    while f"transformer.h.{layer}.ln_1.weight" in state:
        name = f"transformer.h.{layer}"
        q, k, v = (
            linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)
        )
        scores = q @ k.transpose(-2, -1) * (C // n_head) ** -0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C), f"{name}.attn.c_proj")
        hidden = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = x + linear(F.gelu(hidden, approximate="none" if exact_gelu else "tanh"), f"{name}.mlp.c_proj")
        layer += 1
    return linear(norm(x, "transformer.ln_f"), "lm_head")


def nano_state(bias: bool, tied: bool, std: float = 0.3) -> dict:
    """3 layers of width 24, 21 tokens, 16 positions, as nanoGPT's and minGPT's modules name and shape them."""
    shapes = {"transformer.wte": (21, 24), "transformer.wpe": (16, 24), "transformer.ln_f": (24,), "lm_head": (21, 24)}
    for n in range(3):
        shapes |= {
            f"transformer.h.{n}.{name}": shape
            for name, shape in {
                "ln_1": (24,),
                "attn.c_attn": (72, 24),
                "attn.c_proj": (24, 24),
                "ln_2": (24,),
                "mlp.c_fc": (96, 24),
                "mlp.c_proj": (24, 96),
            }.items()
        }
    state = {f"{name}.weight": std * torch.randn(shape) for name, shape in shapes.items()}
    if bias:
        state |= {
            f"{name}.bias": std * torch.randn(shape[0])
            for name, shape in shapes.items()
            if name not in ("transformer.wte", "transformer.wpe", "lm_head")
        }
    if tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


MODEL_ARGS = dict(n_layer=3, n_head=4, n_embd=24, block_size=16, bias=False, vocab_size=21, dropout=0.1)


@pytest.mark.parametrize("bias, prefix", [(False, "_orig_mod."), (True, ""), (True, "module._orig_mod.")])
def test_a_checkpoint_of_nanogpt_is_the_same_model_but_for_the_form_of_gelu(bias, prefix, tmp_path):
    state, idx = nano_state(bias, tied=True), torch.randint(21, (2, 16))
    torch.save(
        {
            "model": {prefix + name: value for name, value in state.items()},
            "optimizer": {"state": {}},
            "model_args": {**MODEL_ARGS, "bias": bias},
            "iter_num": 5,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare_char"},
        },
        tmp_path / "ckpt.pt",
    )
    for source in (tmp_path, tmp_path / "ckpt.pt"):
        with pytest.warns(UserWarning, match="ckpt.pt: nanoGPT's exact GELU becomes GPT-2's tanh form"):
            model = GPT.from_pretrained(source)
        assert (
            model.config.tie_weights
            and model.lm_head.weight is model.transformer.wte.weight
            and model.config.n_head == 4
        )
        torch.testing.assert_close(model(idx)[0], logits_of(state, 4, idx, exact_gelu=False), **CLOSE)
        torch.testing.assert_close(model(idx)[0], logits_of(state, 4, idx, exact_gelu=True), rtol=0.01, atol=0.01)
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(GPT.from_pretrained(tmp_path / "ours")(idx)[0], model(idx)[0])


def test_a_state_dict_of_mingpt_needs_its_number_of_heads(tmp_path):
    state, idx = nano_state(bias=True, tied=False), torch.randint(21, (2, 16))
    masks = {f"transformer.h.{n}.attn.bias": torch.ones(1, 1, 16, 16).tril() for n in range(3)}
    torch.save(state | masks, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model.pt: a state_dict as minGPT saves it; .* from_pretrained\(..., n_head=6\)"
    ):
        GPT.from_pretrained(tmp_path / "model.pt")
    model = GPT.from_pretrained(tmp_path, n_head=3)
    torch.testing.assert_close(model(idx)[0], logits_of(state, 3, idx, exact_gelu=False), **CLOSE)
    (tmp_path / "config.json").write_text(
        json.dumps({"system": {"seed": 1}, "model": {"model_type": None, "n_head": 3}})
    )
    assert GPT.from_pretrained(tmp_path).config == model.config
    (tmp_path / "config.json").write_text(json.dumps({"model": {"model_type": "gpt-mini", "n_head": None}}))
    assert GPT.from_pretrained(tmp_path).config.n_head == 6
    for n_head, message in ((4, "says n_head 6, and n_head=4"), (0, "n_head is 0"), ("3", "n_head is '3'")):
        with pytest.raises(ValueError, match=message):
            GPT.from_pretrained(tmp_path, n_head=n_head)
    ours = small_gpt(tie_weights=False)
    save_torch(tmp_path / "ours.pt", {f"_orig_mod.{name}": value for name, value in ours.state_dict().items()})
    (tmp_path / "config.json").unlink()
    again = GPT.from_pretrained(tmp_path / "ours.pt", n_head=4)
    assert again.config == ours.config and torch.equal(again(idx)[0], ours(idx)[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_head": None}, "ckpt.pt: model_args: n_head is None; it must be a whole number"),
        ({"n_head": 5}, "ckpt.pt: model_args: n_embd is 24, which 5 heads do not divide"),
        ({"n_layer": 4}, "has n_layer 3, and its model_args says 4"),
        ({"bias": "no"}, "model_args: bias is 'no'; it must be true or false"),
    ],
)
def test_wrong_arguments_in_a_nanogpt_checkpoint_are_one_line(changes, message, tmp_path):
    torch.save({"model": nano_state(False, True), "model_args": {**MODEL_ARGS, **changes}}, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning) if "n_layer" in changes else nullcontext():
        GPT.from_pretrained(tmp_path)


def test_a_mingpt_of_2020_and_a_checkpoint_of_a_trainer_are_named(tmp_path):
    torch.save({"tok_emb.weight": torch.zeros(3, 2), "pos_emb": torch.zeros(1, 3, 2)}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="old.pt: a minGPT of 2020"):
        GPT.from_pretrained(tmp_path / "old.pt")
    save_torch(tmp_path / "checkpoint.pt", {"model": nano_state(True, False), "iter_num": 3})
    with pytest.raises(ValueError, match="checkpoint.pt: holds something else .*save the model's state_dict"):
        GPT.from_pretrained(tmp_path / "checkpoint.pt")


def test_both_readers_take_the_same_tensors(tmp_path):
    model, idx = small_gpt(), torch.randint(31, (2, 24))
    model.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_bytes()
    double = {name: value.double() for name, value in SafeTensors(tmp_path / "model.safetensors").items()}
    for kind in (torch.uint8, torch.bool, torch.int64, torch.float32):
        for write, file in ((write_safetensors, "model.safetensors"), (save_torch, "pytorch_model.bin")):
            folder = tmp_path / f"{kind}-{file}"
            folder.mkdir()
            (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + config)
            masks = {
                f"module._orig_mod.transformer.h.{n}.attn.bias": torch.ones(1, 1, 24, 24).tril().to(kind)
                for n in range(3)
            }
            write(folder / file, masks | {f"module._orig_mod.{name}": value for name, value in double.items()})
            assert torch.equal(GPT.from_pretrained(folder)(idx)[0], model(idx)[0])
            write(folder / file, double | {"transformer.wpe.weight": double["transformer.wpe.weight"].to(torch.int64)})
            with pytest.raises(ValueError, match="transformer.wpe.weight is a tensor of torch.int64"):
                GPT.from_pretrained(folder)


def test_pickled_shards_are_read(tmp_path):
    model, idx = small_gpt(), torch.randint(31, (2, 24))
    model.save_pretrained(tmp_path)
    tensors = dict(SafeTensors(tmp_path / "model.safetensors"))
    files = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(tensors)}
    for file in set(files.values()):
        save_torch(tmp_path / file, {name: value.clone() for name, value in tensors.items() if files[name] == file})
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    del tensors
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(GPT.from_pretrained(tmp_path)(idx)[0], model(idx)[0])
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match="pytorch_model-00002-of-00002.bin: no such file"):
        GPT.from_pretrained(tmp_path)


def test_names_of_a_file_are_short_and_printable_in_messages(tmp_path):
    model = small_gpt()
    for name in ("x" * 100_000, "\x1b[2J\nerror: none", "h.0." + "\n" * 500):
        save_torch(tmp_path / "w.pt", model.state_dict() | {name: torch.zeros(2)})
        with pytest.raises(ValueError, match="1 not expected") as error:
            GPT.from_pretrained(tmp_path / "w.pt", n_head=4)
        assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_tensors_that_share_memory_in_a_file_are_apart_in_the_model(tmp_path):
    state = small_gpt(tie_weights=False).state_dict()
    state["transformer.h.1.ln_1.weight"] = state["transformer.h.0.ln_1.weight"]
    state["transformer.h.1.ln_1.bias"] = torch.zeros(1).expand(32)
    torch.save(state, tmp_path / "w.pt")
    model = GPT.from_pretrained(tmp_path / "w.pt", n_head=4)
    before = model.transformer.h[0].ln_1.weight.clone()
    with torch.no_grad():
        model.transformer.h[1].ln_1.weight.add_(1)
        model.transformer.h[1].ln_1.bias[0] = 1
    assert torch.equal(model.transformer.h[0].ln_1.weight, before) and model.transformer.h[1].ln_1.bias.sum() == 1


# ----------------------------------------------------------------------------------------------------------------------
# What is no GPT-2


def adapted(model):
    model.transformer.h[0].mlp.adapter = nn.Linear(32, 2)


def retyped(model):
    class OtherNorm(nn.LayerNorm):
        def forward(self, x):
            return x

    model.transformer.ln_f = OtherNorm(32)


def retied(model):
    model.transformer.h[0].mlp.c_fc.weight = model.transformer.h[1].mlp.c_fc.weight


def resized(model):
    model.transformer.wte.weight = nn.Parameter(torch.zeros(40, 32))


@pytest.mark.parametrize(
    "change, message",
    [
        (adapted, "not expected: transformer.h.0.mlp.adapter.weight"),
        (retyped, "its transformer.ln_f is OtherNorm"),
        (retied, "transformer.h.1.mlp.c_fc.weight is the same tensor as transformer.h.0.mlp.c_fc.weight"),
        (resized, r"transformer.wte.weight \(40, 32\), not \(31, 32\)"),
        (
            lambda model: torch.nn.utils.parametrize.register_parametrization(
                model.transformer.h[0].mlp.c_fc, "weight", nn.Identity()
            ),
            "not expected: transformer.h.0.mlp.c_fc.parametrizations.weight.original",
        ),
        (lambda model: setattr(model.transformer.ln_f, "eps", 1e-3), "its transformer.ln_f is LayerNorm.*eps=0.001"),
        (lambda model: model.to("meta"), "on meta"),
        (lambda model: model.to(torch.complex64), "is a tensor of torch.complex64"),
    ],
)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_what_is_no_gpt2_is_not_written(change, message, tmp_path):
    model = small_gpt()
    change(model)
    with pytest.raises(ValueError, match=message) as error:
        model.save_pretrained(tmp_path / "folder")
    assert "\n" not in str(error.value) and not (tmp_path / "folder").exists()


def test_a_synthesizer_is_not_written(tmp_path):
    model = Synthesizer(GPTConfig(vocab_size=31, block_size=24, n_layer=2, n_head=4, n_embd=32))
    with pytest.raises(ValueError, match="this Synthesizer is no GPT-2: .*missing: transformer.h.0.attn.c_attn.weight"):
        model.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="a Linear is no GPT"):
        pretrained.save(nn.Linear(2, 2), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    small_gpt().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this Synthesizer is no GPT-2"):
        Synthesizer.from_pretrained(tmp_path)


def test_a_head_that_was_untied_is_written_and_read_back(tmp_path):
    model, idx = small_gpt(), torch.randint(31, (2, 24))
    model.lm_head.weight = nn.Parameter(torch.randn(31, 32))
    model.save_pretrained(tmp_path)
    assert torch.equal(GPT.from_pretrained(tmp_path)(idx)[0], model(idx)[0])
    model.lm_head.weight = model.transformer.wte.weight
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert torch.equal(again(idx)[0], model(idx)[0]) and again.lm_head.weight is again.transformer.wte.weight


def test_compiled_and_wrapped_models_are_written_by_their_own_names(tmp_path):
    model, idx = small_gpt(), torch.randint(31, (2, 24))
    expected = model(idx)[0]
    model.transformer.h[1] = torch.compile(model.transformer.h[1])
    model.transformer.h[2].mlp = torch.compile(model.transformer.h[2].mlp)
    for number, wrapped in enumerate((model, torch.compile(model), nn.DataParallel(model))):
        pretrained.save(wrapped, tmp_path / str(number))
        assert not any("_orig_mod" in name for name in SafeTensors(tmp_path / str(number) / "model.safetensors"))
        assert torch.equal(GPT.from_pretrained(tmp_path / str(number))(idx)[0], expected)
    small_gpt().double().save_pretrained(tmp_path / "double")
    assert GPT.from_pretrained(tmp_path / "double", dtype=torch.float64).lm_head.weight.dtype == torch.float64
