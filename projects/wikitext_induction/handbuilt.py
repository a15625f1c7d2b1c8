"""An induction head written down by hand, weight by weight: what training has to find."""

import torch

from mingpt.conv_attention import ConvAttentionConfig, ConvAttentionNet

SHARPNESS = 30.0  # a match scores 30 more than anything else: the softmax of it is 1 to 12 digits


@torch.no_grad()
def handbuilt_net(vocab_size: int, block_size: int) -> ConvAttentionNet:
    """A ConvAttentionNet, 2 V wide, that continues every repetition.

    The channels are two tables of V: "this token" and "the token before". The embedding writes the token into the
    first; the convolution's current tap keeps it there, and its previous tap moves the neighbour's into the second:

        query = this token        key = the token before        value = this token

    So a query looks at the keys whose *previous* token is its own, and the head writes down what stands there.
    """
    V = vocab_size
    net = ConvAttentionNet(ConvAttentionConfig(vocab_size, block_size, n_embd=2 * V))
    for parameter in net.parameters():
        parameter.zero_()
    this, before = torch.arange(V), torch.arange(V, 2 * V)
    net.wte.weight[this, this] = 1
    net.layers["conv"].weight[this, this, 1] = 1  # current tap: this -> this
    net.layers["conv"].weight[before, this, 0] = 1  # previous tap: the neighbour's this -> before
    query, key, value = net.layers["attn"].qkv.c_attn.weight.chunk(3)
    query[this, this] = SHARPNESS * (2 * V) ** 0.5  # the scores are divided by sqrt(D)
    key[this, before] = 1
    value[this, this] = 1
    net.lm_head.weight[this, this] = SHARPNESS
    return net
