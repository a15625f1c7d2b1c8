"""Which heads are induction heads and which previous-token heads: scores, rankings, what others found in GPT-2."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.interpret.hooks import record
from mingpt.interpret.scores import induction_scores, previous_token_scores
from mingpt.interpret.weights import Head
from mingpt.model import GPT
from projects.gpt2_heads.mechanism.copying import repeated_segments

KINDS = ("induction", "previous token")
THRESHOLD = 0.4  # a head with this score is usually called one (Olsson et al. 2022)

# GPT-2 small. "one sequence": 5 random tokens three times over, column 0 dropped, as in the notebook that this study
# follows; "fifty": 25 random tokens twice over, batch of 50, column 0 dropped, as published by the same authors.
REFERENCE = {
    "one sequence": {
        "induction": {
            "5.1": 0.9954,
            "5.5": 0.9903,
            "6.9": 0.9886,
            "7.10": 0.9395,
            "5.8": 0.9213,
            "10.7": 0.9205,
            "5.0": 0.8876,
            "7.2": 0.8103,
            "10.1": 0.8059,
            "9.9": 0.7935,
            "9.6": 0.7574,
            "11.10": 0.7552,
            "6.1": 0.6812,
            "10.6": 0.6630,
            "8.1": 0.6548,
            "10.0": 0.6462,
            "7.11": 0.6174,
            "8.6": 0.5986,
            "10.10": 0.5728,
            "8.11": 0.5598,
            "9.1": 0.5227,
        },
        "previous token": {
            "4.11": 0.9993,
            "5.6": 0.7670,
            "6.8": 0.7444,
            "3.7": 0.6401,
            "3.3": 0.5797,
            "2.2": 0.5276,
            "7.0": 0.5011,
            "2.5": 0.4850,
            "3.2": 0.4379,
            "3.8": 0.4296,
            "4.3": 0.4192,
            "5.4": 0.4165,
            "8.7": 0.4115,
            "2.9": 0.4076,
            "3.6": 0.3934,
            "2.8": 0.3859,
            "4.6": 0.3732,
            "7.8": 0.3646,
            "2.3": 0.3518,
            "6.0": 0.3336,
            "5.2": 0.3260,
        },
    },
    "fifty": {
        "induction": {
            "5.1": 0.987,
            "6.9": 0.966,
            "5.5": 0.958,
            "7.10": 0.921,
            "10.7": 0.882,
            "7.2": 0.843,
            "11.10": 0.757,
            "9.9": 0.659,
            "9.6": 0.630,
            "10.1": 0.612,
        },
        "previous token": {
            "4.11": 0.989,
            "5.6": 0.822,
            "6.8": 0.727,
            "7.0": 0.583,
            "3.7": 0.555,
            "3.3": 0.516,
            "2.2": 0.512,
            "8.7": 0.462,
            "3.8": 0.434,
            "3.2": 0.427,
        },
    },
}


@dataclass(frozen=True)
class Scores:
    """Kind -> mean over the sequences and its standard error, each (n_layer, H)."""

    mean: dict[str, Tensor]
    error: dict[str, Tensor]

    def ranking(self, kind: str) -> list[Head]:
        """All heads, best first."""
        H = self.mean[kind].size(1)
        return [divmod(int(i), H) for i in self.mean[kind].flatten().argsort(descending=True)]

    def best(self, kind: str, top: int, threshold: float = THRESHOLD) -> list[Head]:
        """At most the `top` best heads, and only those that reach the threshold. ValueError where none does."""
        heads = [head for head in self.ranking(kind)[:top] if self.mean[kind][head] >= threshold]
        if not heads:
            raise ValueError(
                f"no head reaches a score of {threshold} for {kind} (the best: {self.mean[kind].max():.2f}), so there "
                "is no mechanism to look at; train the model longer, or take --model handbuilt"
            )
        return heads


@torch.no_grad()
def score_repeats(
    model: GPT, length: int, copies: int, batch_size: int, drop_first: bool, generator: torch.Generator
) -> Scores:
    """Both scores of every head over `batch_size` sequences; definitions in `mingpt.interpret.scores`."""
    idx = repeated_segments(model.config.vocab_size, length, copies, batch_size, generator)
    with record(model, "h.*.attn.pattern") as seen:
        model(idx)
    pattern = seen.stack("h.*.attn.pattern")  # (L, B, H, T, T)
    scores = {
        "induction": induction_scores(pattern, length, drop_first),
        "previous token": previous_token_scores(pattern, drop_first),
    }  # (L, B, H)
    error = {
        kind: score.std(dim=1) / batch_size**0.5 if batch_size > 1 else torch.zeros_like(score[:, 0])
        for kind, score in scores.items()
    }
    return Scores({kind: score.mean(dim=1) for kind, score in scores.items()}, error)


def name(head: Head) -> str:
    """ "5.1" for head 1 of layer 5, both from 0."""
    return f"{head[0]}.{head[1]}"


def ranked_text(scores: Scores, kind: str, title: str) -> str:
    """One head a line, best first."""
    lines = [
        f"{name(head):>6}  {scores.mean[kind][head]:.4f} ± {scores.error[kind][head]:.4f}"
        for head in scores.ranking(kind)
    ]
    return "\n".join([title, "layer.head  mean ± standard error", *lines]) + "\n"


def against_reference(scores: Scores, kind: str, reference: dict[str, float], top: int = 10) -> dict:
    """How a ranking of GPT-2 small compares: how many of the published top are in ours, and both scores."""
    ours = {name(head): scores.mean[kind][head].item() for head in scores.ranking(kind)}
    theirs = list(reference)[:top]
    return {
        "shared": len(set(theirs) & set(list(ours)[:top])),
        "top": top,
        "heads": [{"head": head, "published": reference[head], "ours": ours[head]} for head in theirs],
    }
