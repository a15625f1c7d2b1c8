"""Hooks: what is recorded is what passes, a patch replaces it, and nothing stays behind."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn

from mingpt import model as model_file
from mingpt.generate import KVCache
from mingpt.interpret.hooks import HookPoint, add_hook_points, find, patch, record
from mingpt.model import GPT, GPTConfig, attention

TAPS = {
    "resid_pre": "BTC",
    "resid_mid": "BTC",
    "resid_post": "BTC",
    "attn.q": "BHTD",
    "attn.k": "BHTD",
    "attn.v": "BHTD",
    "attn.scores": "BHTS",
    "attn.pattern": "BHTS",
    "attn.head_out": "BHTD",
    "mlp.hidden": "BTF",
}
SIZES = dict(B=2, T=10, C=32, H=4, D=8, S=10, F=128)


def gpt(**changes) -> GPT:
    model = GPT(GPTConfig(**{**dict(vocab_size=31, block_size=24, n_layer=3, n_head=4, n_embd=32), **changes}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def idx() -> torch.Tensor:
    return torch.randint(31, (2, 10))


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", [dict(), dict(positions="rotary", qk_norm=True)])
def test_every_tap_has_its_documented_shape_and_recording_changes_nothing(architecture, idx):
    model = gpt(**architecture)
    expected = model(idx)[0]
    with record(model, [f"h.*.{tap}" for tap in TAPS]) as seen:
        logits, _ = model(idx)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert list(seen) == [name for layer in range(3) for name in seen if name.startswith(f"h.{layer}.")]
    assert {name: tuple(x.shape) for name, x in seen.items()} == {
        f"h.{layer}.{tap}": tuple(map(SIZES.get, shape)) for layer in range(3) for tap, shape in TAPS.items()
    }


@pytest.mark.parametrize("architecture", [dict(), dict(positions="rotary", qk_norm=True)])
def test_what_is_recorded_fits_together(architecture, idx):
    model = gpt(**architecture)
    with torch.no_grad(), record(model, ["h.1.*", "h.1.attn.*", "h.1.mlp.*"]) as seen:
        model(idx)
    q, k, v, scores, pattern, head_out = (seen[f"h.1.attn.{tap}"] for tap in "q k v scores pattern head_out".split())
    mask = torch.full((10, 10), -math.inf).triu(1)
    torch.testing.assert_close(scores, q @ k.mT / math.sqrt(8) + mask)
    torch.testing.assert_close(pattern, scores.softmax(-1))
    torch.testing.assert_close(head_out, pattern @ v)
    side_by_side = head_out.transpose(1, 2).reshape(2, 10, 32)
    torch.testing.assert_close(
        seen["h.1.resid_mid"] - seen["h.1.resid_pre"],
        model.transformer.h[1].attn.c_proj(side_by_side),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(seen["h.1.resid_post"] - seen["h.1.resid_mid"], seen["h.1.mlp"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["h.1.mlp"], model.transformer.h[1].mlp.c_proj(seen["h.1.mlp.hidden"]))


def test_stack_puts_the_layers_in_a_first_dimension(idx):
    model = gpt(n_layer=11)
    with record(model, ["h.*.attn.pattern", "h.1.attn.q"]) as seen:
        model(idx)
    stacked = seen.stack("h.*.attn.pattern")
    assert stacked.shape == (11, 2, 4, 10, 10)
    assert all(torch.equal(stacked[layer], seen[f"h.{layer}.attn.pattern"]) for layer in range(11)), "also 10 after 9"
    with pytest.raises(ValueError, match=r"'h\.\*\.attn\.k' was not recorded"):
        seen.stack("h.*.attn.k")


def test_the_fused_kernel_stays_unless_scores_or_a_pattern_are_asked_for(idx, monkeypatch):
    model, calls = gpt(), []
    monkeypatch.setattr(model_file, "attention", lambda *args: calls.append(1) or attention(*args))
    everything_else = [f"h.*.{tap}" for tap in TAPS if tap not in ("attn.scores", "attn.pattern")]
    with record(model, everything_else), patch(model, {"h.0.attn.q": torch.neg}):
        model(idx)
    assert not calls
    with record(model, "h.1.attn.pattern"):
        model(idx)
    assert len(calls) == 1, "and only the layer that is asked shows it"
    with patch(model, {"h.2.attn.scores": torch.neg}):
        model(idx)
    model(idx)
    assert len(calls) == 2


def test_a_patch_replaces_what_passes(idx):
    model = gpt()
    with record(model, "h.1.resid_pre") as clean:
        expected = model(idx)[0]
    other = (idx + 1) % 31
    with patch(model, {"h.1.resid_pre": lambda x: clean["h.1.resid_pre"]}):
        torch.testing.assert_close(model(other)[0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(other)[0], expected)


def test_a_patched_pattern_and_patched_scores_are_used(idx):
    model = gpt(n_layer=1)
    uniform = torch.ones(10, 10).tril() / torch.arange(1, 11)[:, None]
    with patch(model, {"h.0.attn.pattern": lambda x: uniform.expand_as(x)}), record(model, "h.0.attn.*") as a:
        model(idx)
    with patch(model, {"h.0.attn.scores": lambda x: x.masked_fill(x.isfinite(), 0)}), record(model, "h.0.attn.*") as b:
        model(idx)
    torch.testing.assert_close(a["h.0.attn.head_out"], uniform @ a["h.0.attn.v"])
    torch.testing.assert_close(a["h.0.attn.head_out"], b["h.0.attn.head_out"])


def test_a_patch_that_writes_in_place_spoils_no_record(idx):
    model = gpt()
    with record(model, "h.0.resid_post") as seen:
        model(idx)
        before = seen["h.0.resid_post"].clone()
        with patch(model, {"h.1.resid_pre": lambda x: x.zero_()}):  # the very tensor that h.0.resid_post handed on
            model(idx)
    assert torch.equal(seen["h.0.resid_post"], before)


def test_hooks_nest_and_come_in_the_order_of_entering(idx):
    model = gpt()
    expected = model(idx)[0]
    with record(model, "h.1.mlp") as before, patch(model, {"h.1.mlp": lambda x: x + 1}):
        with patch(model, {"h.1.*": lambda x: x, "h.1.mlp": lambda x: x * 2}), record(model, "h.1.mlp") as after:
            model(idx)
        with record(model, "h.1.mlp") as between:
            model(idx)
    torch.testing.assert_close(between["h.1.mlp"], before["h.1.mlp"] + 1)
    torch.testing.assert_close(after["h.1.mlp"], (before["h.1.mlp"] + 1) * 2)
    assert hooks_of(model) == 0 and torch.equal(model(idx)[0], expected)


@pytest.mark.parametrize("where", ["body", "patch", "names"])
def test_nothing_stays_behind_when_something_raises(idx, where):
    model = gpt()
    with pytest.raises((ZeroDivisionError, ValueError)):
        names = ["h.*.attn.pattern"] + (["h.9"] if where == "names" else [])
        with record(model, names), patch(model, {"h.0": lambda x: 1 / 0 if where == "patch" else x}):
            model(idx)
            raise ZeroDivisionError
    assert hooks_of(model) == 0


def test_gradients_pass_through_a_record_and_a_patch(idx):
    model = gpt()
    with record(model, "h.1.resid_post") as seen, patch(model, {"h.2.mlp": lambda x: x * 0}):
        loss = model(idx, idx)[1]
    (gradient,) = torch.autograd.grad(loss, seen["h.1.resid_post"], retain_graph=True)
    assert gradient.shape == (2, 10, 32) and gradient.abs().sum() > 0
    loss.backward()
    assert model.transformer.h[2].mlp.c_fc.weight.grad.abs().sum() == 0, "the patch cut this part off"
    assert model.transformer.h[1].mlp.c_fc.weight.grad.abs().sum() > 0
    with torch.no_grad(), record(model, "h.0") as seen:
        model(idx)
    assert not seen["h.0"].requires_grad


def test_in_generation_every_step_is_recorded_and_agrees_with_one_pass(idx):
    model = gpt()
    with record(model, "h.1.attn.pattern", every_call=True) as seen:
        tokens = model.generate(idx, 5)
    steps = seen["h.1.attn.pattern"]
    assert [tuple(x.shape) for x in steps] == [(2, 4, 10, 10)] + [(2, 4, 1, S) for S in range(11, 15)]
    with torch.no_grad(), record(model, "h.1.attn.pattern") as whole:
        model(tokens)
    for S, step in zip(range(11, 15), steps[1:]):
        torch.testing.assert_close(step[:, :, 0], whole["h.1.attn.pattern"][:, :, S - 1, :S], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="lists, one tensor a call"):
        seen.stack("h.*.attn.pattern")


def test_a_patched_generation_is_the_same_with_and_without_a_cache(idx):
    model = gpt()
    with patch(model, {"h.1.attn.k": lambda x: x * 2, "h.0.attn.pattern": torch.square}):
        patched = model.generate(idx, 8)
        assert torch.equal(patched, model.generate(idx, 8, use_cache=False))
        with torch.no_grad():
            torch.testing.assert_close(model(idx, cache=KVCache(3, 2, 24))[0], model(idx)[0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(patched, model.generate(idx, 8))


def test_any_module_with_taps_can_be_hooked():
    class Smeared(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(3, 3)
            self.plain = HookPoint()
            add_hook_points(self, "keys")

        def forward(self, x):
            return self.plain(self.keys(self.line(x)) * 2)

    net, x = nn.Sequential(Smeared(), nn.ReLU()), torch.randn(4, 3)
    with record(net, ["0.keys", "0.plain", "1"]) as seen, patch(net, {"0.keys": lambda k: k - 1}):
        out = net(x)
    torch.testing.assert_close(seen["0.plain"], (net[0].line(x) - 1) * 2)
    torch.testing.assert_close(seen["1"], out)


def test_taps_add_no_parameters_and_survive_copies_and_pickles(idx):
    model = gpt()
    assert all(name.endswith(("weight", "bias")) for name in model.state_dict())
    assert len(model.state_dict()) == 2 + 3 * 12 + 2 + 1
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with record(twin, "h.0.attn.q") as seen, record(model, "h.0.attn.q") as others:
            twin(idx)
        assert "h.0.attn.q" in seen and not others
        attn = twin.transformer.h[0].attn
        assert attn.q is attn._modules["q"] and attn.q is not model.transformer.h[0].attn.q


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("h.*.attn.patern", r"h\.\*\.attn\.pattern"),
        ("h.7.attn.q", r"h\.2\.attn\.q"),
        ("h.1.mlp.hiden", r"h\.1\.mlp\.hidden"),
        ("pattern", r"h\.\d\.attn\.pattern"),
        ("transformer.h.0.atn", r"h\.0\.attn"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"is called '{name.replace('*', '[*]')}'; the nearest are.*{nearest}"):
        find(gpt(), name)


def test_wild_cards_stand_for_parts_of_a_name():
    model = gpt()
    assert find(model, "h.*") == find(model, "transformer.h.*") == ["h.0", "h.1", "h.2"]
    assert find(model, ["h.[12].attn.?", "h.1.attn.q"]) == [f"h.{layer}.attn.{x}" for layer in (1, 2) for x in "qkv"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: None, r"the patch of h\.0\.attn\.q returned NoneType; it must return \(2, 4, 10, 8\)"),
        (lambda x: x[:, :1], r"returned \(2, 1, 10, 8\); it must return"),
    ],
)
def test_a_patch_of_another_shape_is_refused(idx, change, message):
    model = gpt()
    with pytest.raises(ValueError, match=message), patch(model, {"h.0.attn.q": change}):
        model(idx)


def test_a_name_that_was_not_recorded_says_so(idx):
    with record(gpt(), ["h.0", "h.1"]) as seen:
        pass
    with pytest.raises(ValueError, match="'h.0' was not recorded: .*or the model was not called.*; recorded are none"):
        seen["h.0"]


def test_a_compiled_model_gives_the_same_and_refuses_hooks(idx):
    model = gpt()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(idx)[0], model(idx)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="hooks do not reach inside a compiled model"):
        find(compiled, "h.0")


def compiled_blocks(model):
    for block in model.transformer.h:
        block.compile(backend="eager")
    return model


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_copy(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("compiled", [compiled_blocks, compiled_forward, compiled_copy])
def test_what_does_not_happen_in_compiled_code_is_an_error(compiled, idx):
    """From some release on, torch's compiled code calls hooks that were added later: then it does happen."""
    torch._dynamo.reset()
    model = gpt()
    called = compiled(model)
    with torch.no_grad():
        before = called(idx)[0]
        for context in (
            lambda **o: patch(model, {"h.1.mlp": torch.zeros_like}, **o),
            lambda **o: record(model, "h.*.mlp", **o),
            lambda **o: patch(model, {"h.1.attn.head_out": torch.zeros_like}, **o),
        ):
            try:
                with context() as seen:
                    logits = called(idx)[0]
            except ValueError as error:
                assert re.search(r"the model was called, and nothing came to the hooks at .*h\.1\.", str(error))
            else:
                assert "h.1.mlp" in seen if seen is not None else not torch.allclose(logits, before)
            with context(must_pass=False):
                called(idx)
            with pytest.raises(KeyError), context():  # an error that is on its way is not replaced
                called(idx)
                raise KeyError
            with context():
                pass  # the model is not called
        torch.testing.assert_close(called(idx)[0], before)


def test_one_call_of_two_that_passes_by_is_an_error(idx):
    model = gpt()
    with (
        pytest.raises(ValueError, match="nothing came to the hooks at h.1.mlp"),
        patch(model, {"h.1.mlp": torch.zeros_like}),
    ):
        model(idx)
        mlp, model.transformer.h[1].mlp = model.transformer.h[1].mlp, torch.nn.Identity()
        model(idx)
    model.transformer.h[1].mlp = mlp


def test_lists_of_modules_are_no_places(idx):
    with record(gpt(), "*") as seen:
        pass
    with pytest.raises(ValueError, match="nothing in the model is called 'h'"):
        find(gpt(), "h")
    assert seen == {} and "wte" in find(gpt(), "*") and "h" not in find(gpt(), "*")
