"""Ask a model questions, and mark its answers."""

import math
from collections import Counter
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from tqdm import tqdm

from mingpt.char import CharTokenizer
from mingpt.model import GPT
from mingpt.utils import progress_options
from projects.birthplace.dataset import MASK

MAX_ANSWER = 32  # characters; the longest place in the assignment has 25


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
    # Questions of similar length together; the answers go back to their places.
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    answers = [""] * len(questions)
    bar = tqdm(total=len(questions), unit="question", leave=False, **progress_options())
    with bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            prompts = [tokenizer.encode(questions[i] + MASK) for i in batch]
            room = min(MAX_ANSWER, model.config.block_size - max(map(len, prompts)))
            for i, prompt, tokens in zip(batch, prompts, model.generate(prompts, room, stop_tokens=[stop])):
                answers[i] = tokenizer.decode(tokens[len(prompt) :]).split(MASK)[0]
            bar.update(len(batch))
    return answers


@torch.no_grad()
def confidences(model: GPT, tokenizer: CharTokenizer, questions: list[str], answers: list[str]) -> list[float]:
    """The probability that the model gives each answer as a whole, its closing mark included, after its question."""
    probabilities = []
    model.eval()
    for question, answer in zip(questions, answers):
        tokens = torch.tensor([tokenizer.encode(question + MASK + answer + MASK)], device=next(model.parameters()).device)
        logits, _ = model(tokens[:, :-1])
        log_p = logits.float().log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[0, len(question) :]
        probabilities.append(math.exp(log_p.sum().item()))
    return probabilities


def score(predictions: list[str], answers: list[str]) -> Score:
    """Mark predictions against the true answers: right is what is equal to the letter."""
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions; there must be one for each")
    return Score(sum(p == a for p, a in zip(predictions, answers)), len(answers))


def majority_answer(answers: list[str]) -> str:
    """The commonest answer; of several, the first in the alphabet."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))[0]
