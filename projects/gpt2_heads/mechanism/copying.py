"""How well a model copies: on random tokens that repeat, with any number of changes to its heads, on the same
sequences.

A change of heads in layer l leaves everything before layer l as it was. So the inputs of all layers are computed once,
and an edited model is run from its first edited layer on, with the head on top only where a prediction is scored.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.interpret.edits import Changes, edit
from mingpt.interpret.hooks import record
from mingpt.interpret.weights import head_views
from mingpt.model import GPT


def repeated_segments(vocab_size: int, length: int, copies: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Segments of `length` random tokens, all different, each `copies` times over: (batch_size, copies * length) int64.

    Different, as a token that stood twice in a segment would have two continuations; a vocabulary of 50,000 hardly ever
    repeats one, a small vocabulary would.
    """
    if length > vocab_size:
        raise ValueError(
            f"a segment of {length} different tokens needs a vocabulary of as many, and this one has {vocab_size}"
        )
    segment = torch.rand(batch_size, vocab_size, generator=generator).topk(length).indices
    return segment.repeat(1, copies)


@dataclass(frozen=True)
class Copying:
    """What was predicted in the second copy: (B, length - 1), or with leading dimensions for several models."""

    probability: Tensor  # of the right token
    error: Tensor  # 1 where another token had the largest logit, else 0

    @classmethod
    def stack(cls, results: "list[Copying]") -> "Copying":
        return cls(
            torch.stack([result.probability for result in results]), torch.stack([result.error for result in results])
        )


class CopyTest:
    """Measures a model's copying on fixed sequences idx, (B, T) int64, that repeat after `period` tokens.

        test = CopyTest(model, idx, period=20)
        as_it_is, edited = test(), test(exchange(model, heads, order, ["W_Q", "W_K", "b_Q", "b_K"]))

    With a `dtype` other than the model's, a copy in that number format is edited and run instead: bfloat16 is faster
    where the hardware has it, and precise enough for shares of wrong predictions.

    Scored are the predictions at positions period to T - 2: the first token of the second copy cannot be known.
    """

    @torch.no_grad()
    def __init__(self, model: GPT, idx: Tensor, period: int, dtype: torch.dtype = torch.float32):
        self.model, self.idx, self.period = model, idx, period
        self.runner = model if dtype == model.lm_head.weight.dtype else copy.deepcopy(model).to(dtype)
        with record(self.runner, "h.*.resid_pre") as seen:
            self.runner(idx)
        self.inputs = list(seen.values())  # n_layer times (B, T, C)

    @torch.no_grad()
    def __call__(self, changes: Changes | None = None) -> Copying:
        """With `changes` to the weights in place, for the length of this call."""
        changes = changes or {}
        first = min((layer for layer, _, _ in changes), default=len(self.inputs) - 1)
        x, rotation = self.inputs[first], self.runner.rotation(torch.arange(self.idx.size(1)))
        with edit(self.runner, changes):
            for block in self.runner.transformer.h[first:]:
                x = block(x, rotation)
        return self.score(self.runner.lm_head(self.runner.transformer.ln_f(x[:, self.period : -1])).float())

    def score(self, logits: Tensor) -> Copying:
        """Of logits (B, T - 1 - period, V), those at the scored positions."""
        targets = self.idx[:, self.period + 1 :, None]
        own = logits.gather(-1, targets)
        probability = (own - logits.logsumexp(dim=-1, keepdim=True)).exp()
        return Copying(probability.squeeze(-1), (logits.argmax(dim=-1) != targets.squeeze(-1)).float())


@torch.no_grad()
def folded(model: GPT) -> GPT:
    """A copy that computes the same, in which the norms before attention have no gain and bias: W_Q, W_K, W_V have
    them.

    Then heads of all layers read and write in the same coordinates, those of the residual. What W_Q, W_K, W_V do to the
    direction (1, ..., 1), which the norm takes away, is taken out of them too.
    """
    model = copy.deepcopy(model)
    for layer, block in enumerate(model.transformer.h):
        views, gain, bias = head_views(model, layer), block.ln_1.weight.clone(), block.ln_1.bias.clone()
        for part in "QKV":
            views[f"b_{part}"] += bias @ views[f"W_{part}"]
            views[f"W_{part}"] *= gain[:, None]
            views[f"W_{part}"] -= views[f"W_{part}"].mean(dim=-2, keepdim=True)
        block.ln_1.weight.fill_(1)
        block.ln_1.bias.zero_()
    return model
