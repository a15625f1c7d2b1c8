"""Continue sequences of tokens: greedy, temperature, top-k, top-p, with a key/value cache.

`generate` works for any model with `model(idx, cache=None) -> (logits, loss)` and a `model.config` that holds
`block_size`, `n_layer` and `vocab_size`. With and without the cache it returns the same tokens (up to ties that
rounding breaks: use float32 where that matters).
"""

import math
import operator
from collections.abc import Iterable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mingpt import fast

# Temperatures below are taken for this one: the choice is as good as greedy, and logits are still float32 numbers.
COLDEST = 1e-20
MOST_NEW_TOKENS = 1 << 24  # more take months


@torch.no_grad()
def generate_plainly(model, idx: Tensor, max_new_tokens: int, **options) -> Tensor:
    """Append `max_new_tokens` tokens to each row of idx, (B, T) int64: read, choose a token, append it, read again.

    `options` are those of `sample`. Everything else in this file gives the same tokens with less work, or to more kinds
    of prompts. Returns (B, T + max_new_tokens).
    """
    for _ in range(max_new_tokens):
        window = idx[:, -model.config.block_size :]  # the model has no positions for more
        logits, _ = model(window)  # (B, T, V); only those after the last token are needed
        new = sample(logits[:, -1], **options)  # (B,)
        idx = torch.cat((idx, new[:, None]), dim=1)
    return idx


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    do_sample: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one token for each row of `logits`, (B, V). Returns (B,) int64.

    Without `do_sample`, the most likely token. With it, a draw from softmax(logits / temperature), restricted to the
    `top_k` most likely tokens, with those that are as likely as the last of them, and to the smallest set of tokens
    whose probabilities reach `top_p` (Holtzman et al. 2020).
    """
    highest, choice = logits.max(dim=-1)
    if not highest.isfinite().all():
        raise ValueError(
            "the logits are not finite (NaN or infinity): the model has diverged, or its weights are damaged"
        )
    if not do_sample:
        return choice
    logits = logits.float() / max(temperature, COLDEST)
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None and top_p < 1:  # a rounded sum may reach 1 too soon
        ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        reached_before = ordered.cumsum(dim=-1) - ordered >= top_p  # never true of the most likely token
        logits = logits.masked_fill(torch.zeros_like(reached_before).scatter(1, order, reached_before), -math.inf)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


# ----------------------------------------------------------------------------------------------------------------------
# Prompts of any lengths, tokens that end a row, a cache


@torch.no_grad()
def generate(
    model,
    idx: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    do_sample: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: int | Iterable[int] = (),
    use_cache: bool = True,
    generator: torch.Generator | None = None,
    lookup: int = 0,
) -> Tensor | list[list[int]]:
    """Append up to `max_new_tokens` tokens to each prompt.

    idx is a (B, T) tensor or array of integers, or a list of prompts of any lengths. A row ends with the first of
    `stop_tokens`, one or several, that it produces. ValueError for options and prompts that cannot be, and for logits
    that are not finite. Past `block_size` tokens a row sees only its last `block_size`. For a tensor, returns (B, T +
    new), where a row that has ended is filled up with its stop token; for a list, a list of token lists, each cut at
    its end.

    `lookup` is how many tokens to guess ahead, for one prompt, greedy and with the cache: the same tokens, sooner where
    a text repeats itself; see `_by_lookup`.
    """
    device = next(model.parameters()).device
    prompts = _prompts(idx, model.config.vocab_size, device)
    _check(max_new_tokens, temperature, top_k, top_p, lookup)
    stop_tokens = _stop_set(stop_tokens)
    options = dict(temperature=temperature, do_sample=do_sample, top_k=top_k, top_p=top_p, generator=generator)
    if lookup:
        if do_sample or len(prompts) > 1 or not use_cache:
            raise ValueError("lookup is for one prompt at a time, do_sample=False and use_cache=True")
        return _with_lookup(model, idx, prompts[0].tolist(), max_new_tokens, stop_tokens, lookup)
    if not fast.on() and isinstance(idx, Tensor) and not stop_tokens:
        with _evaluating(model):
            return generate_plainly(model, torch.stack(prompts), max_new_tokens, **options)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    # Each row is written at its own length into a table wide enough for the longest prompt and all new tokens.
    tokens = torch.zeros(len(prompts), int(lengths.max()) + max_new_tokens, dtype=torch.long, device=device)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    rows = torch.arange(len(prompts), device=device)
    stops = torch.tensor(sorted(stop_tokens), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = lengths + max_new_tokens
    reader = _Reader(model, len(prompts), use_cache and fast.on())

    with _evaluating(model):
        for _ in range(max_new_tokens):
            new = sample(reader.next_logits(tokens, lengths), **options)
            new = torch.where(ended, tokens[rows, lengths - 1], new)  # an ended row repeats its stop token
            tokens[rows, lengths] = new
            lengths = lengths + 1
            if len(stops):
                ends = torch.where(~ended & torch.isin(new, stops), lengths, ends)
                ended |= torch.isin(new, stops)
                if ended.all():
                    break

    if isinstance(idx, Tensor):
        return tokens[:, : int(lengths.max())]
    ends = torch.minimum(ends, lengths)
    return [row[:end].tolist() for row, end in zip(tokens, ends)]


@contextmanager
def _evaluating(model):
    """Without dropout while the body runs."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Reader:
    """Gives the logits after the last token of each row, reading as little as the cache allows."""

    def __init__(self, model, batch_size: int, use_cache: bool):
        self.model, self.batch_size, self.use_cache = model, batch_size, use_cache
        self.cache: KVCache | None = None
        self.longest = 0  # the longest row, counted here so that no step has to ask the device

    def next_logits(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits, (B, V), for the token after the first `lengths[b]` of each row b of `tokens`, (B, any)."""
        block_size = self.model.config.block_size
        self.longest = self.longest + 1 if self.longest else int(lengths.max())
        rows = torch.arange(len(tokens), device=tokens.device)
        if self.use_cache and self.longest <= block_size:
            if self.cache is None:
                self.cache = KVCache(self.model.config.n_layer, self.batch_size, block_size, tokens.device)
                logits, _ = self.model(tokens[:, : self.longest], cache=self.cache)
                self.cache.keep(lengths)
                return logits[rows, lengths - 1]
            logits, _ = self.model(tokens[rows, lengths - 1][:, None], cache=self.cache)
            return logits[:, -1]
        # Without a cache, or with a full one: when the window slides, every token changes its position.
        start = (lengths - block_size).clamp(min=0)
        columns = start[:, None] + torch.arange(min(self.longest, block_size), device=tokens.device)
        logits, _ = self.model(tokens.gather(1, columns.clamp(max=tokens.size(1) - 1)))
        return logits[rows, lengths - start - 1]


class KVCache:
    """The keys and values of the tokens that a model has read, so that the next token costs one position, not T.

    Rows may hold different numbers of tokens. Row b's token at position p lies at column p of its row, and what
    lies at columns >= `lengths[b]` is never looked at, so prompts padded on the right need no other care.
    """

    def __init__(self, n_layer: int, batch_size: int, block_size: int, device=None):
        self.block_size = block_size
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.longest = 0  # lengths.max(), kept here because reading it from a GPU would stall the GPU
        self.uniform = True  # all lengths equal: columns can be sliced instead of indexed
        self.keys: list[Tensor | None] = [None] * n_layer  # each (B, H, block_size, D), made at its first use
        self.values: list[Tensor | None] = [None] * n_layer
        self._mask: Tensor | None = None  # for the tokens at hand; all layers use the same

    def positions(self, T: int) -> Tensor:
        """Positions of the next T tokens of each row: (B, T), or (1, T) where all rows are equally long, int64."""
        lengths = self.lengths[:1] if self.uniform else self.lengths
        return lengths[:, None] + torch.arange(T, device=lengths.device)

    def mask(self, T: int) -> Tensor | None:
        """Where the next T tokens may look: 0, and -inf elsewhere; (B or 1, 1, T, S) float32.

        None if each of them sees all that came before it.
        """
        if self.longest == 0 or T == 1 and self.uniform:
            return None
        if self._mask is None or self._mask.size(-2) != T:
            columns = torch.arange(self.longest + T, device=self.lengths.device)
            visible = columns <= self.positions(T)[:, None, :, None]
            self._mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -math.inf)
        return self._mask

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v, (B, H, T, D), after what the layer holds. Returns all of them, (B, H, S, D)."""
        B, H, T, D = k.shape
        if self.keys[layer] is None:
            # Zeros, not `empty`: a masked column has weight 0, but 0 times a stray NaN is NaN.
            self.keys[layer] = k.new_zeros(B, H, self.block_size, D)
            self.values[layer] = v.new_zeros(B, H, self.block_size, D)
        keys, values = self.keys[layer], self.values[layer]
        start, end = self.longest, self.longest + T
        if self.uniform:
            keys[:, :, start:end], values[:, :, start:end] = k, v
        else:
            row, column = torch.arange(B, device=k.device)[:, None], self.positions(T)
            keys[row, :, column], values[row, :, column] = k.transpose(1, 2), v.transpose(1, 2)
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, T: int) -> None:
        """Count T tokens, stored in all layers, as held."""
        self.lengths = self.lengths + T
        self.longest += T
        self._mask = None

    def keep(self, lengths: Tensor) -> None:
        """Forget all but the first `lengths[b]` tokens of each row b; `lengths` is (B,) int64."""
        self.lengths = lengths.to(self.lengths.device)
        self.longest = int(lengths.max())
        self.uniform = int(lengths.min()) == self.longest
        self._mask = None


# ----------------------------------------------------------------------------------------------------------------------
# Guessing ahead


def _with_lookup(model, idx, prompt: list[int], max_new_tokens: int, stop_tokens: set[int], guesses: int):
    """`generate` for one prompt by `_by_lookup`, and past `block_size` in the usual way."""
    done = _by_lookup(model, prompt, max_new_tokens, stop_tokens, guesses)
    idx = torch.tensor([done], device=next(model.parameters()).device) if isinstance(idx, Tensor) else [done]
    max_new_tokens -= len(done) - len(prompt)
    if max_new_tokens == 0 or done[-1] in stop_tokens and len(done) > len(prompt):
        return idx
    return generate(model, idx, max_new_tokens, stop_tokens=stop_tokens)


def _by_lookup(model, tokens: list[int], max_new_tokens: int, stop_tokens: set[int], guesses: int) -> list[int]:
    """`tokens` and their greedy continuation, up to `block_size`, at more than one token a step (Saxena 2023, "prompt
    lookup").

    Where the last tokens have stood before, what followed them then is guessed to follow again: what an induction head
    does, outside the model. The guesses are read in one pass, which tells the model's choice after each of them, and
    kept up to the first that it would not have made. On a CPU a pass takes as long as reading the weights from memory,
    for one token or for some.
    """
    block_size, device = model.config.block_size, next(model.parameters()).device
    cache = KVCache(model.config.n_layer, 1, block_size, device)
    tokens, end = list(tokens), min(len(tokens) + max_new_tokens, block_size)
    with _evaluating(model):
        while len(tokens) < end:
            guess = _what_followed(tokens, guesses)[: end - len(tokens) - 1]
            logits, _ = model(torch.tensor([tokens[cache.longest :] + guess], device=device), cache=cache)
            choices = sample(logits[0, -len(guess) - 1 :]).tolist()
            right = next((i for i in range(len(guess)) if guess[i] != choices[i]), len(guess))
            for token in choices[: right + 1]:
                tokens.append(token)
                if token in stop_tokens:
                    return tokens
            cache.keep(torch.tensor([len(tokens) - 1]))
    return tokens


def _what_followed(tokens: list[int], count: int) -> list[int]:
    """`count` tokens that went on from the latest earlier place where the last three, or two, tokens stood; [] without
    one.

    If the match overlaps the end, repeat it.
    """
    for n in (3, 2):
        for start in range(len(tokens) - n - 1, -1, -1):
            if tokens[start : start + n] == tokens[-n:]:
                return (tokens[start + n :] * count)[:count]
    return []


# ----------------------------------------------------------------------------------------------------------------------
# What users may get wrong


def _prompts(idx, vocab_size: int, device) -> list[Tensor]:
    """Each prompt as a (T,) int64 tensor. ValueError for what is no list of prompts."""
    wrong = "idx must be a (B, T) tensor of integers or a list of lists of ints; for one prompt write [prompt]"
    try:
        prompts = [torch.as_tensor(prompt, device=device) for prompt in idx]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(wrong) from None
    if not prompts or any(prompt.numel() == 0 for prompt in prompts):
        raise ValueError("generate needs at least one prompt, and each prompt at least one token")
    if any(p.ndim != 1 or p.is_floating_point() or p.is_complex() or p.dtype == torch.bool for p in prompts):
        raise ValueError(wrong)
    prompts = [prompt.long() for prompt in prompts]
    low, high = min(int(p.min()) for p in prompts), max(int(p.max()) for p in prompts)
    if low < 0 or high >= vocab_size:
        raise ValueError(f"token {low if low < 0 else high} is outside the vocabulary of {vocab_size}")
    return prompts


def _stop_set(stop_tokens) -> set[int]:
    """One token, or any collection of them, as a set."""
    if isinstance(stop_tokens, Tensor):
        stop_tokens = stop_tokens.tolist()
    try:
        return {
            operator.index(token) for token in (stop_tokens if isinstance(stop_tokens, Iterable) else [stop_tokens])
        }
    except TypeError:
        raise ValueError(f"stop_tokens is {stop_tokens!r}; it must be a token, an integer, or a list of them") from None


def _check(max_new_tokens, temperature, top_k, top_p, lookup) -> None:
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("lookup", lookup),
        ("top_k", 1 if top_k is None else top_k),
    ):
        if not hasattr(value, "__index__") or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; it must be an integer")
    if not 0 <= max_new_tokens <= MOST_NEW_TOKENS:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be from 0 to {MOST_NEW_TOKENS}")
    if lookup < 0:
        raise ValueError(f"lookup is {lookup}; it must not be negative")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive (do_sample=False gives the greedy choice)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be in (0, 1]")
