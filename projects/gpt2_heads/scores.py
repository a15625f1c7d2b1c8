"""How well a model, and each of its heads, does on random tokens that repeat."""

import torch
from torch.nn import functional as F

from mingpt.interpret.hooks import record
from mingpt.interpret.scores import duplicate_token_scores, induction_scores, previous_token_scores
from mingpt.model import GPT


def repeated_tokens(vocab_size: int, length: int, copies: int, batch_size: int, seed: int) -> torch.Tensor:
    """Segments of `length` random tokens, all different, each `copies` times over: (batch_size, copies * length) int64.

    Of GPT-2's 50,257 tokens random ones nearly always differ. In a small vocabulary they would not, and a token that
    stands twice in a segment has two places to look at, of which the score counts one.
    """
    order = torch.rand(batch_size, vocab_size, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return order[:, :length].repeat(1, copies)


@torch.no_grad()
def score_heads(model: GPT, length: int, batch_size: int, seed: int) -> dict[str, torch.Tensor]:
    """Induction, previous-token and duplicate-token scores, each (n_layer, n_head), over two copies of random segments.

    The definitions are in `mingpt.interpret.scores`. Random tokens, because in a text a head that looks back at a
    likely word would score as well.
    """
    idx = repeated_tokens(model.config.vocab_size, length, 2, batch_size, seed).to(next(model.parameters()).device)
    with record(model, "h.*.attn.pattern") as seen:
        model(idx)
    pattern = seen.stack("h.*.attn.pattern")  # (L, B, H, T, T)
    table = {
        "induction": induction_scores(pattern, length),
        "previous token": previous_token_scores(pattern),
        "duplicate token": duplicate_token_scores(pattern, idx),
    }
    return {name: scores.mean(dim=1).float().cpu() for name, scores in table.items()}


@torch.no_grad()
def repeat_losses(model: GPT, length: int, batch_size: int, seed: int) -> tuple[float, float]:
    """Mean loss, in nats, on the first copy of random segments and on the second.

    The second copy's first token is left out: nothing tells that the segment begins anew.
    """
    idx = repeated_tokens(model.config.vocab_size, length, 2, batch_size, seed).to(next(model.parameters()).device)
    logits, _ = model(idx)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), idx[:, 1:], reduction="none").mean(
        dim=0
    )  # of tokens 1, 2, ...
    return float(losses[: length - 1].mean()), float(losses[length:].mean())
