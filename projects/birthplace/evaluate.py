"""Ask a model questions, and mark its answers."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mingpt.char import CharTokenizer
from mingpt.model import GPT
from mingpt.support.devices import progress_options
from projects.birthplace.dataset import MASK
from projects.birthplace.files import PARAPHRASES, paraphrases

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


def predict(model: GPT, tokenizer: CharTokenizer, questions: list[str], batch_size: int = 128) -> list[str]:
    """The model's answer to each question: the likeliest characters after the mark, up to the next mark.

    In float32 on any device: in 16 bits the likeliest character is too often a tie, and rounding would decide.
    """
    stop = tokenizer.index[MASK]
    room = [min(MAX_ANSWER, model.config.block_size - len(question + MASK)) for question in questions]
    # Similar lengths together, for little padding; the same room together, since a batch has one number of new tokens.
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


def predict_with_paraphrases(
    model: GPT, tokenizer: CharTokenizer, questions: list[str]
) -> tuple[list[str], list[list[str]]]:
    """The answers when each question is put in all PARAPHRASES, and what was said to each of them.

    Every paraphrase proposes its answer, as by `predict`. Taken is the proposal with the largest sum, over the
    paraphrases, of log P(answer and its closing mark | paraphrase): an ensemble of prompts (Jiang et al. 2020, "How can
    we know what language models know?").

    Returns (answers, said): `said[i][j]` is the answer of `predict` to question i in paraphrase j.
    """
    asked, n = [paraphrases(question) for question in questions], len(PARAPHRASES)
    one_by_one = predict(model, tokenizer, [prompt for prompts in asked for prompt in prompts])
    said = [one_by_one[i : i + n] for i in range(0, len(one_by_one), n)]
    # An answer to a short paraphrase may be too long to fit after the longest. That one's own answer fits after them
    # all.
    proposals = [
        sorted({answer for answer in those if max(map(len, prompts)) + len(MASK + answer) <= model.config.block_size})
        for prompts, those in zip(asked, said)
    ]
    trials = [
        (prompt, answer) for prompts, proposed in zip(asked, proposals) for answer in proposed for prompt in prompts
    ]
    log_p = dict(
        zip(
            trials,
            log_likelihoods(model, tokenizer, [prompt for prompt, _ in trials], [answer for _, answer in trials]),
        )
    )
    answers = [
        max(proposed, key=lambda answer: sum(log_p[prompt, answer] for prompt in prompts))
        for prompts, proposed in zip(asked, proposals)
    ]
    return answers, said


@torch.no_grad()
def log_likelihoods(
    model: GPT, tokenizer: CharTokenizer, questions: list[str], answers: list[str], batch_size: int = 128
) -> list[float]:
    """log P(answer and its closing mark | question and its mark), in nats, of each pair.

    A question, its mark and its answer take at most block_size characters. Leaves the model in evaluation mode.
    """
    model.eval()
    device, results = next(model.parameters()).device, [0.0] * len(questions)
    rows = [
        (tokenizer.encode(question + MASK), tokenizer.encode(answer + MASK))
        for question, answer in zip(questions, answers)
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens = pad_sequence([torch.tensor(rows[i][0] + rows[i][1]) for i in batch], batch_first=True).to(device)
        logits, _ = model(tokens[:, :-1])  # padding comes after a row's end, and attention is causal
        log_p = logits.float().log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[..., 0].cpu()
        for row, i in zip(log_p, batch):
            asked, answer = rows[i]
            results[i] = row[len(asked) - 1 : len(asked) + len(answer) - 1].sum().item()
    return results


def confidences(model: GPT, tokenizer: CharTokenizer, questions: list[str], answers: list[str]) -> list[float]:
    """The probability that the model gives each answer, its closing mark included, after its question."""
    return [math.exp(log_p) for log_p in log_likelihoods(model, tokenizer, questions, answers)]


def score(predictions: list[str], answers: list[str]) -> Score:
    """Mark predictions against the true answers: right is what is equal to the letter."""
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions; there must be one for each")
    return Score(sum(p == a for p, a in zip(predictions, answers)), len(answers))


def marks_of_paraphrases(together: list[str], each: list[list[str]], answers: list[str]) -> dict[str, float]:
    """Right answers in percent to each of the PARAPHRASES, and to all together.

    The arguments are as `predict_with_paraphrases` gives them.
    """
    return {
        form.format("X"): score([said[j] for said in each], answers).percent for j, form in enumerate(PARAPHRASES)
    } | {"all together": score(together, answers).percent}


def majority_answer(answers: list[str]) -> str:
    """The commonest answer; of several, the first in the alphabet."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))[0]
