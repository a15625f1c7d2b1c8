"""The model: the same numbers on every path, causality, initialisation, the loss, and a public implementation."""

import copy
import itertools
import math

import pytest
import torch

from mingpt import fast
from mingpt import model as model_file
from mingpt.fast.attention import batched_attention, fast_attention, fused_attention
from mingpt.generate import KVCache
from mingpt.model import GPT, PRESETS, GPTConfig, attention

SMALL = dict(vocab_size=31, block_size=24, n_layer=3, n_head=4, n_embd=32)


def small_gpt(**changes) -> GPT:
    """A small model with weights large enough that every part of it matters."""
    gpt = GPT(GPTConfig(**{**SMALL, **changes}))
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return gpt.eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, SMALL["vocab_size"], shape)


ARCHITECTURES = [
    dict(positions=p, qk_norm=n, tie_weights=t)
    for p, n, t in itertools.product(("learned", "rotary"), (False, True), (False, True))
]


def batched_where_it_can(q, k, v, mask, dropout):
    return (
        batched_attention(q, k, v, dropout)
        if mask is None and q.size(2) == k.size(2)
        else attention(q, k, v, mask, dropout)
    )


@pytest.fixture
def take(monkeypatch):
    """`take("plain")`: models compute attention in that way from now on."""

    def take(way: str) -> None:
        monkeypatch.setattr(fast, "_on", way != "plain")
        kernels = {"batched": batched_where_it_can, "fused": fused_attention}
        monkeypatch.setattr(model_file, "fast_attention", kernels.get(way, fast_attention))

    return take


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_fast_ways_match_the_plain_one_forward_and_backward(architecture, take):
    gpt, idx, targets = small_gpt(**architecture), tokens(3, 20), tokens(3, 20)
    take("plain")
    logits, loss = gpt(idx, targets)
    expected = torch.autograd.grad(loss, gpt.parameters())
    for way in ("fast", "batched", "fused"):
        take(way)
        fast_logits, fast_loss = gpt(idx, targets)
        torch.testing.assert_close(fast_logits, logits, rtol=1e-4, atol=1e-4)
        for gradient, of_plain in zip(torch.autograd.grad(fast_loss, gpt.parameters()), expected):
            torch.testing.assert_close(gradient, of_plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("way", ["plain", "batched", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_future_token_changes_no_earlier_logit(architecture, training, dtype, way, take):
    gpt = small_gpt(**architecture)
    take(way)
    idx = tokens(2, 20)
    changed = idx.clone()
    changed[:, 12:] = (changed[:, 12:] + 1 + tokens(2, 8) % 29) % 31
    with torch.set_grad_enabled(training), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        before, after = gpt(idx)[0], gpt(changed)[0]
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(dim=2).all(), "and every later one does change"


@pytest.mark.parametrize("way", ["plain", "batched", "fused"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_future_token_changes_no_earlier_logit_with_a_cache(architecture, way, take):
    gpt = small_gpt(**architecture)
    take(way)
    idx = tokens(2, 20)
    changed = idx.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 31

    def read(sequence):
        cache = KVCache(3, 2, 24)
        return torch.cat([gpt(piece, cache=cache)[0] for piece in sequence.split([5, 1, 9, 5], dim=1)], dim=1)

    with torch.no_grad():
        before, after = read(idx), read(changed)
        assert torch.equal(before[:, :12], after[:, :12])
        torch.testing.assert_close(before, gpt(idx)[0], rtol=1e-4, atol=1e-4)


def test_rows_of_a_batch_do_not_influence_each_other():
    gpt = small_gpt()
    idx = tokens(4, 10)
    with torch.no_grad():
        torch.testing.assert_close(gpt(idx)[0][2:3], gpt(idx[2:3])[0], rtol=1e-4, atol=1e-5)


def test_gpt2_of_transformers_gives_the_same_logits_and_gradients():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=31, n_positions=24, n_layer=3, n_head=4, n_embd=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = GPT(GPTConfig(**SMALL))
    state = {
        name: value.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else value
        for name, value in theirs.state_dict().items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    ours.load_state_dict(state)
    idx = tokens(3, 24)
    expected = theirs(idx, labels=idx)
    logits, loss = ours(idx[:, :-1], idx[:, 1:])
    torch.testing.assert_close(logits, expected.logits[:, :-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)
    loss.backward(), expected.loss.backward()
    torch.testing.assert_close(
        ours.transformer.wte.weight.grad, theirs.transformer.wte.weight.grad, rtol=1e-3, atol=1e-5
    )


def test_rotary_scores_depend_on_distances_only():
    gpt = small_gpt(positions="rotary")
    idx = tokens(2, 8)
    with torch.no_grad():
        here, there = gpt(idx)[0], gpt(idx, positions=torch.arange(11, 19))[0]
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_positions_by_row_are_those_of_each_row(positions):
    gpt = small_gpt(positions=positions)
    idx, start = tokens(2, 8), torch.tensor([[3], [9]])
    with torch.no_grad():
        both = gpt(idx, positions=start + torch.arange(8))[0]
        alone = gpt(idx[1:], positions=torch.arange(9, 17))[0]
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_gpt2_has_its_published_number_of_parameters_and_key_names():
    with torch.device("meta"):
        gpt = GPT(GPTConfig.from_name("gpt2"))
    assert gpt.num_parameters() == 124_439_808
    names = set(gpt.state_dict())
    assert {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.0.ln_1.bias",
        "transformer.h.11.attn.c_attn.weight",
        "transformer.h.11.mlp.c_proj.bias",
        "lm_head.weight",
    } <= names
    assert not [name for name in names if "mask" in name], "masks are no parameters"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name):
    config = GPTConfig.from_name(name, vocab_size=10)
    assert config.head_dim * config.n_head == config.n_embd and config.vocab_size == 10


def test_initialisation():
    gpt = GPT(GPTConfig(vocab_size=500, block_size=64, n_layer=8, n_head=4, n_embd=128))
    state = gpt.state_dict()
    assert state["transformer.wte.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["transformer.h.3.attn.c_attn.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["transformer.h.3.attn.c_proj.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert state["transformer.h.3.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert state["transformer.h.3.mlp.c_fc.bias"].abs().max() == 0
    assert (state["transformer.ln_f.weight"] == 1).all() and (state["transformer.ln_f.bias"] == 0).all()


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_fresh_model_knows_nothing(tie_weights):
    gpt = GPT(GPTConfig(vocab_size=1000, block_size=32, n_layer=2, n_head=2, n_embd=64, tie_weights=tie_weights))
    idx, targets = torch.randint(0, 1000, (2, 8, 32))
    assert gpt(idx, targets)[1].item() == pytest.approx(math.log(1000), abs=0.1)


def test_logits_are_whole_and_loss_is_none_without_targets():
    logits, loss = small_gpt()(tokens(2, 9))
    assert logits.shape == (2, 9, 31) and loss is None


def test_a_deep_copy_is_independent_of_the_original():
    gpt = small_gpt()
    twin, idx = copy.deepcopy(gpt), tokens(1, 8)
    before = twin(idx)[0]
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
    assert torch.equal(twin(idx)[0], before)
    assert twin.lm_head.weight is twin.transformer.wte.weight, "weights that were tied stay tied"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(n_embd=30), "n_embd is 30, which 4 heads do not divide"),
        (dict(n_layer=0), "n_layer is 0; it must be at least 1"),
        (dict(dropout=1.0), r"dropout is 1.0; it must be in \[0, 1\)"),
        (dict(positions="sine"), "positions is 'sine'; it must be one of learned, rotary"),
        (dict(positions="rotary", n_embd=20), "head_dim is 5; rotary positions turn pairs"),
    ],
)
def test_a_bad_configuration_says_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**SMALL, **changes})


def test_an_unknown_preset_and_a_long_input_are_refused():
    with pytest.raises(ValueError, match="no preset is called 'gpt3'; there are gpt2,"):
        GPTConfig.from_name("gpt3")
    with pytest.raises(ValueError, match="25 tokens do not fit into block_size 24"):
        small_gpt()(tokens(1, 25))


def test_dropout_acts_in_training_only():
    gpt = small_gpt(dropout=0.5)
    idx = tokens(1, 8)
    assert torch.equal(gpt(idx)[0], gpt(idx)[0])
    gpt.train()
    assert not torch.equal(gpt(idx)[0], gpt(idx)[0])


def test_memory_grows_with_the_length_and_not_with_its_square():
    model = small_gpt(block_size=16384, n_layer=1, positions="rotary")
    held = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert held <= 16384 * model.config.head_dim * 4, "two tables of D/2 float32 angles"
    sizes = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if torch.is_tensor(result) else 0)
            return result

    with torch.no_grad(), Sizes():
        model(tokens(1, 2048))
    assert max(sizes) <= 2048 * max(4 * 32, 3 * 32, 31) * 4 < 2048 * 2048, "nothing is T x T"


@pytest.mark.parametrize("way", ["plain", "fast", "batched", "fused"])
def test_compilation_takes_batches_of_other_shapes(way, take):
    torch._dynamo.reset()
    take(way)
    model = small_gpt(n_layer=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for shape in ((4, 8), (3, 5)):
        idx, targets = tokens(*shape), tokens(*shape)
        logits, loss = compiled(idx, targets)
        expected, expected_loss = model(idx, targets)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        found = torch.autograd.grad(loss, model.parameters())
        for gradient, expected in zip(found, torch.autograd.grad(expected_loss, model.parameters())):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


class FirstOutput(torch.nn.Module):
    """The logits alone: a trace has no None."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, idx):
        return self.model(idx)[0]


def test_a_model_can_be_traced_and_exported_for_any_length():
    model = small_gpt(n_layer=1)
    exported = torch.export.export(
        model, (tokens(1, 8),), dynamic_shapes={"idx": {1: torch.export.Dim("T", min=2, max=24)}}
    ).module()
    traced = torch.jit.trace(FirstOutput(model), (tokens(1, 8),), check_trace=False)
    with torch.no_grad():
        for T in (8, 5, 24):
            idx = tokens(1, T)
            torch.testing.assert_close(exported(idx)[0], model(idx)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(traced(idx[:, :8]), model(idx[:, :8])[0], rtol=1e-4, atol=1e-5)
