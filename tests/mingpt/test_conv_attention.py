"""The conv-attention nets: parity with a plain rendering, causality, gradients, padding."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mingpt.conv_attention import (
    AttentionAttentionNet,
    AttentionNet,
    CausalConv,
    ConvAttentionConfig,
    ConvAttentionNet,
    ConvNet,
    Smear,
    SmearAttentionNet,
)
from mingpt.interpret.hooks import record
from mingpt.optim import OptimConfig, parameter_groups
from mingpt.trainer import Trainer, TrainerConfig
from projects.benchmark.conv_attention import PlainConvAttention
from projects.benchmark.steps import OneBatch

KINDS = [ConvAttentionNet, AttentionAttentionNet, SmearAttentionNet, AttentionNet, ConvNet]
OPTIONS = [
    {},
    dict(residual=True),
    dict(positions=True),
    dict(positions=True, residual=True, n_head=4),
    dict(kernel_size=2),
    dict(kernel_size=5, n_head=2),
    dict(detach_conv=True),
    dict(pad_id=7),
    dict(pad_id=7, residual=True, n_head=2),
]


def config(**options) -> ConvAttentionConfig:
    return ConvAttentionConfig(**{**dict(vocab_size=40, block_size=12, n_embd=16), **options})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_future_token_changes_nothing_earlier(kind, options):
    net = kind(config(**options)).eval()
    idx = torch.randint(40, (3, 12))
    for t in range(1, 12):
        other = idx.clone()
        other[:, t:] = torch.randint(40, (3, 12 - t))
        assert torch.equal(net(idx)[0][:, :t], net(other)[0][:, :t])
    changed = idx.clone()
    changed[:, 5] = (idx[:, 5] + 1) % 40
    assert not torch.equal(net(idx)[0][:, 5], net(changed)[0][:, 5]), "the test must be able to see a change"


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 6])
def test_the_convolution_is_conv1d_with_its_last_tap_masked(kernel_size):
    conv, x = CausalConv(config(kernel_size=kernel_size)), torch.randn(2, 12, 16)
    weight = conv.weight.detach().clone()
    weight[:, :, -1] = 0
    padded = F.pad(x.mT, (kernel_size - 2, 1))  # as far back as the taps reach, and one ahead
    torch.testing.assert_close(conv(x, None), F.conv1d(padded, weight, conv.bias).mT)


def test_conv_attention_is_the_plain_net_and_its_gradient():
    net, plain = ConvAttentionNet(config()), PlainConvAttention(40, 16, cut=False)
    plain.embeddings.weight.data.copy_(net.wte.weight)
    plain.conv.load_state_dict(net.layers["conv"].state_dict())
    plain.lm_head.load_state_dict(net.lm_head.state_dict())
    for linear, part in zip(plain.maps, net.layers["attn"].qkv.c_attn.weight.chunk(3)):
        linear.weight.data.copy_(part)
    idx, targets = torch.randint(40, (2, 3, 12))
    targets[0, 3] = -1
    (logits, loss), (expected, expected_loss) = net(idx, targets), plain(idx, targets)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    torch.testing.assert_close(net.layers["conv"].weight.grad, plain.conv.weight.grad)
    torch.testing.assert_close(net.wte.weight.grad, plain.embeddings.weight.grad)


@pytest.mark.parametrize("n_head", [1, 4])
def test_attention_attention_is_two_scaled_dot_products(n_head):
    net, idx = AttentionAttentionNet(config(n_head=n_head)), torch.randint(40, (3, 12))
    x = net.wte(idx)
    for layer in net.layers.values():
        weights = layer.qkv.c_attn.weight.chunk(3)
        q, k, v = (F.linear(x, weight).view(3, 12, n_head, -1).transpose(1, 2) for weight in weights)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 12, 16)
    torch.testing.assert_close(net(idx)[0], net.lm_head(x))


def test_residual_and_positions_do_what_they_say():
    net, idx = ConvNet(config(residual=True, positions=True)), torch.randint(40, (3, 12))
    x = net.wte(idx) + net.wpe(torch.arange(12))
    torch.testing.assert_close(net(idx)[0], net.lm_head(x + net.layers["conv"](x, None)))


def test_the_taps_learn_and_the_masked_one_does_not():
    net, detached = ConvAttentionNet(config()), ConvAttentionNet(config(detach_conv=True))
    detached.load_state_dict(net.state_dict())
    idx, targets = torch.randint(40, (2, 3, 12))
    for each in (net, detached):
        each(idx, targets)[1].backward()
    gradient = net.layers["conv"].weight.grad
    assert gradient[:, :, 0].abs().max() > 0 and gradient[:, :, 1].abs().max() > 0
    assert torch.equal(gradient[:, :, 2], torch.zeros(16, 16))
    assert detached.layers["conv"].weight.grad is None and detached.layers["conv"].bias.grad is not None
    assert torch.equal(net(idx)[0], detached(idx)[0])
    with torch.no_grad():
        before = net(idx)[0]
        net.layers["conv"].weight[:, :, 2] = 1e9
        assert torch.equal(net(idx)[0], before), "the masked tap has no influence at all"


def test_initialisation():
    torch.manual_seed(1)
    net = ConvAttentionNet(config(n_embd=256, vocab_size=512))
    for part in net.layers["attn"].qkv.c_attn.weight.chunk(3):
        assert part.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02), "Xavier: 2 / (inputs + outputs)"
    weight, bound = net.layers["conv"].weight, 1 / math.sqrt(3 * 256)
    reference = nn.Conv1d(256, 256, 3).weight
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weight.std().item() == pytest.approx(reference.std().item(), rel=0.02)
    idx, targets = torch.randint(512, (2, 4, 12))
    assert net(idx, targets)[1].item() == pytest.approx(math.log(512), abs=0.3)


def test_smearing_mixes_each_channel_with_the_one_before():
    smear, x = Smear(config(n_embd=3)), torch.randn(2, 5, 3)
    with torch.no_grad():
        smear.alpha.copy_(torch.tensor([0.0, 100.0, -100.0]))
    y = smear(x, None)
    torch.testing.assert_close(y[:, 1:, 0], (x[:, 1:, 0] + x[:, :-1, 0]) / 2)
    torch.testing.assert_close(y[:, :, 1], x[:, :, 1])
    torch.testing.assert_close(y[:, 1:, 2], x[:, :-1, 2])
    torch.testing.assert_close(y[:, 0, 2], torch.zeros(2))


@pytest.mark.parametrize("options", [{}, dict(residual=True), dict(n_head=2, kernel_size=4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_padding_mask_padding_is_nothing(kind, options):
    net = kind(config(pad_id=7, **options)).eval()
    text = torch.randint(8, 40, (3, 6))
    padding = torch.full((3, 4), 7)
    alone = net(text)[0]
    torch.testing.assert_close(net(torch.cat([padding, text], dim=1))[0][:, 4:], alone)
    torch.testing.assert_close(net(torch.cat([text, padding], dim=1))[0][:, :6], alone)
    assert net(torch.full((2, 5), 7))[0].isfinite().all()


def test_without_a_padding_mask_padding_on_the_left_is_read():
    net = ConvAttentionNet(config()).eval()
    text, padding = torch.randint(8, 40, (3, 6)), torch.full((3, 4), 7)
    assert (net(torch.cat([padding, text], dim=1))[0][:, 4:] - net(text)[0]).abs().max() > 0.01


def test_the_first_attention_layer_cannot_know_the_order_without_positions():
    idx = torch.randint(40, (3, 12))
    shuffled = torch.cat([idx[:, torch.randperm(11)], idx[:, -1:]], dim=1)
    for positions in (False, True):
        net = AttentionAttentionNet(config(positions=positions))
        outputs = []
        for tokens in (idx, shuffled):
            with record(net, "layers.attn_1") as seen:
                net(tokens)
            outputs.append(seen["layers.attn_1"][:, -1])
        same = (outputs[0] - outputs[1]).abs().max() < 1e-5
        assert same != positions


def test_no_targets_no_loss():
    net = ConvAttentionNet(config())
    idx = torch.randint(40, (3, 12))
    assert net(idx)[1] is None
    loss = net(idx, torch.full((3, 12), -1))[1]
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in net.parameters())


def test_patterns_can_be_recorded():
    net, idx = AttentionAttentionNet(config(n_head=2)), torch.randint(40, (3, 12))
    with torch.no_grad(), record(net, ["layers.attn_1.pattern", "layers.attn.pattern", "layers.attn.v"]) as seen:
        net(idx)
    for name in ("layers.attn_1.pattern", "layers.attn.pattern"):
        assert seen[name].shape == (3, 2, 12, 12)
        torch.testing.assert_close(seen[name].sum(dim=3), torch.ones(3, 2, 12))
        assert torch.equal(seen[name].triu(1), torch.zeros(3, 2, 12, 12))
    assert seen["layers.attn.v"].shape == (3, 2, 12, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trainer_overfits_one_batch(dtype):
    net = ConvAttentionNet(config(n_embd=32))
    tokens = torch.randint(40, (4, 13))
    Trainer(
        TrainerConfig(max_iters=300, batch_size=4, device="cpu", dtype=dtype),
        OptimConfig(learning_rate=1e-2, weight_decay=0.0, schedule="linear"),
        net,
        OneBatch(tokens[:, :-1], tokens[:, 1:]),
    ).run()
    assert net(tokens[:, :-1], tokens[:, 1:])[1].item() < 0.2


def test_every_parameter_is_optimised_once_and_a_copy_is_a_copy():
    net = ConvAttentionNet(config(positions=True))
    groups = parameter_groups(net)
    assert sum(len(group) for group in groups.values()) == len(list(net.parameters()))
    idx = torch.randint(40, (3, 12))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        net.layers["conv"].weight.zero_()
    assert not torch.equal(net(idx)[0], twin(idx)[0])
    twin.load_state_dict(net.state_dict())
    assert torch.equal(net(idx)[0], twin(idx)[0])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_embd=0), "n_embd is 0; it must be at least 1"),
        (dict(n_head=3), "n_embd is 16, which 3 heads do not divide"),
        (dict(kernel_size=1), "kernel_size is 1; it must be at least 2"),
        (dict(pad_id=40), "pad_id is 40; it must be a token below 40, or -1 for none"),
    ],
)
def test_a_wrong_shape_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_too_long_an_input_is_explained():
    with pytest.raises(ValueError, match="13 tokens do not fit into block_size 12"):
        ConvAttentionNet(config())(torch.zeros(1, 13, dtype=torch.long))
