"""Ask a model questions, and mark its answers."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mingpt.char import CharTokenizer
from mingpt.model import GPT
from mingpt.utils import progress_options
from projects.birthplace.dataset import MASK
from projects.birthplace.files import person

MAX_ANSWER = 32  # characters; the longest place in the assignment has 25
# One question as finetuning puts it, and as a biography would. Chosen on held-out training questions, see the README.
WAYS = ("Where was {} born?", "{} was born in", "{}, born in", "{} in")


@dataclass(frozen=True)
class Score:
    """How many of how many answers are right."""

    correct: int
    total: int

    @property
    def percent(self) -> float:
        """Share of right answers in percent."""
        return 100 * self.correct / self.total

    def __str__(self) -> str:
        return f"Correct: {self.correct} out of {self.total}: {self.percent:.1f}%"


def spread(values: list[float], sign: str = "") -> str:
    """The mean, to a tenth, and the standard deviation where there are several; `sign="+"` shows that of the mean."""
    return f"{mean(values):{sign}.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def predict(model: GPT, tokenizer: CharTokenizer, questions: list[str], batch_size: int = 128) -> list[str]:
    """The model's answer to each question: the likeliest characters after the mark, up to the next mark.

    In float32 on any device: in 16 bits the likeliest character is too often a tie, and rounding would decide.
    """
    stop = tokenizer.index[MASK]
    room = [min(MAX_ANSWER, model.config.block_size - len(question + MASK)) for question in questions]
    # Questions of similar length together, with the same room for the answer; the answers go back to their places.
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    answers = [""] * len(questions)
    bar = tqdm(total=len(questions), unit="question", leave=False, **progress_options())
    with bar:
        for most, those in groupby(order, key=lambda i: room[i]):
            those = list(those)
            for batch in (those[start : start + batch_size] for start in range(0, len(those), batch_size)):
                prompts = [tokenizer.encode(questions[i] + MASK) for i in batch]
                for i, prompt, tokens in zip(batch, prompts, model.generate(prompts, most, stop_tokens=[stop])):
                    answers[i] = tokenizer.decode(tokens[len(prompt) :]).split(MASK)[0]
                bar.update(len(batch))
    return answers


def predict_in_ways(model: GPT, tokenizer: CharTokenizer, questions: list[str]) -> tuple[list[str], list[list[str]]]:
    """The answers when each question is put in all WAYS; and for each question what was said to each way.

    Each way proposes its likeliest answer; taken is the proposal with the largest product of probabilities over the ways
    (Jiang et al. 2020, "How can we know what language models know?"). What was learned of the name is found from any
    side, and what hangs on the words of the question is outvoted. A question that is not `Where was NAME born?` is put
    as it stands.
    """
    asked = [[way.format(person(question)) if person(question) != question else question for way in WAYS]
             for question in questions]
    one_by_one = iter(predict(model, tokenizer, [words for ways in asked for words in ways]))
    said = [[next(one_by_one) for _ in ways] for ways in asked]
    # A long answer to a short way may not fit behind the question; the question's own does.
    proposals = [sorted({answer for answer in those if len(question + MASK + answer) <= model.config.block_size})
                 for question, those in zip(questions, said)]
    trials = [(words, answer) for ways, proposed in zip(asked, proposals) for answer in proposed for words in ways]
    log_p = iter(log_likelihoods(model, tokenizer, *zip(*trials)))
    answers = []
    for ways, proposed in zip(asked, proposals):
        total = {answer: sum(next(log_p) for _ in ways) for answer in proposed}
        answers.append(max(total, key=total.get))
    return answers, said


@torch.no_grad()
def log_likelihoods(model: GPT, tokenizer: CharTokenizer, questions: Sequence[str], answers: Sequence[str],
                    batch_size: int = 128) -> list[float]:
    """The logarithm of the probability (nats) of each answer as a whole, its closing mark included, after its question."""
    model.eval()
    device, results = next(model.parameters()).device, [0.0] * len(questions)
    rows = [(tokenizer.encode(question + MASK), tokenizer.encode(answer + MASK)) for question, answer in zip(questions, answers)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens = pad_sequence([torch.tensor(rows[i][0] + rows[i][1]) for i in batch], batch_first=True).to(device)
        logits, _ = model(tokens[:, :-1])  # what is behind a row's end cannot reach what is before it
        log_p = logits.float().log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[..., 0].cpu()
        for row, i in zip(log_p, batch):
            asked, answer = rows[i]
            results[i] = row[len(asked) - 1 : len(asked) + len(answer) - 1].sum().item()
    return results


def confidences(model: GPT, tokenizer: CharTokenizer, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The probabilities themselves."""
    return [math.exp(log_p) for log_p in log_likelihoods(model, tokenizer, questions, answers)]


def score(predictions: list[str], answers: list[str]) -> Score:
    """Mark predictions against the true answers: right is what is equal to the letter."""
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions; there must be one for each")
    return Score(sum(p == a for p, a in zip(predictions, answers)), len(answers))


def majority_answer(answers: list[str]) -> str:
    """The commonest answer; of several, the first in the alphabet."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))[0]
