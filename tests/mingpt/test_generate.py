"""Generation: the cache changes nothing but the time, and each way of choosing a token does what it says."""

import itertools
import math

import numpy as np
import pytest
import torch

from mingpt.generate import sample
from mingpt.model import GPT, GPTConfig

BLOCK = 16


def gpt(positions="learned", qk_norm=False) -> GPT:
    model = GPT(
        GPTConfig(vocab_size=23, block_size=BLOCK, n_layer=2, n_head=2, n_embd=16, positions=positions, qk_norm=qk_norm)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


ARCHITECTURES = list(itertools.product(("learned", "rotary"), (False, True)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("T, new", [(1, 15), (5, 11), (5, 40), (16, 3), (20, 5)])
def test_cached_and_uncached_generation_agree_also_past_the_block(architecture, T, new):
    model, idx = gpt(*architecture), torch.randint(0, 23, (3, T))
    cached = model.generate(idx, new)
    assert cached.shape == (3, T + new) and torch.equal(cached[:, :T], idx)
    assert torch.equal(cached, model.generate(idx, new, use_cache=False))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_of_different_lengths_are_continued_as_if_alone(architecture):
    model = gpt(*architecture)
    prompts = [torch.randint(0, 23, (n,)).tolist() for n in (1, 9, 4, 14)]
    together = model.generate(prompts, 20, stop_tokens=[3, 4])
    assert together == [model.generate([prompt], 20, stop_tokens=[3, 4])[0] for prompt in prompts]
    assert together == model.generate(prompts, 20, stop_tokens=[3, 4], use_cache=False)


def test_sampling_with_and_without_cache_draws_the_same_tokens():
    model, idx = gpt(), torch.randint(0, 23, (4, 3))
    draws = [
        model.generate(
            idx,
            12,
            temperature=0.8,
            do_sample=True,
            top_k=9,
            top_p=0.9,
            use_cache=cache,
            generator=torch.Generator().manual_seed(7),
        )
        for cache in (True, False)
    ]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], model.generate(idx, 12)), "and they are not the greedy ones"


def test_greedy_generation_is_the_naive_loop():
    model, idx = gpt().eval(), torch.randint(0, 23, (2, 4))
    expected = idx
    with torch.no_grad():
        for _ in range(20):
            expected = torch.cat([expected, model(expected[:, -BLOCK:])[0][:, -1].argmax(1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(idx, 20), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("T, new", [(1, 15), (5, 11), (5, 40), (16, 3), (20, 5), (3, 0)])
def test_looking_ahead_changes_no_token(architecture, T, new):
    model = gpt(*architecture)
    for _ in range(2):
        idx = torch.randint(0, 23, (1, T))
        expected = model.generate(idx, new)
        stop = int(expected[0, -2 if new else -1])
        for lookup in (1, 6):
            assert torch.equal(model.generate(idx, new, lookup=lookup), expected)
            assert model.generate(idx.tolist(), new, lookup=lookup, stop_tokens=[stop]) == model.generate(
                idx.tolist(), new, stop_tokens=[stop]
            )
    assert model.training


def test_looking_ahead_takes_fewer_steps_where_the_text_repeats_itself():
    model, calls = gpt().eval(), []
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()  # the next token then depends on this one and its position
        model.transformer.wpe.weight.zero_()
        model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.roll(1, 0) * 10)
    model.register_forward_hook(lambda module, args, output: calls.append(args[0].size(1)))
    idx = torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3]])
    assert torch.equal(model.generate(idx, 8, lookup=4), model.generate(idx, 8))
    steps = calls.index(8, 1)
    assert steps < 8 == len(calls) - steps, "one pass each without"
    with pytest.raises(ValueError, match="lookup is for one prompt at a time"):
        model.generate(idx.expand(2, -1), 8, lookup=4)


def test_a_row_ends_with_its_first_stop_token():
    model = gpt()
    prompts = [[i] for i in range(8)]
    free = model.generate(prompts, 12)
    stop = free[0][3]
    for row, unstopped in zip(model.generate(prompts, 12, stop_tokens=[stop]), free):
        end = unstopped.index(stop, 1) + 1 if stop in unstopped[1:] else len(unstopped)
        assert row == unstopped[:end]
    table = model.generate(torch.tensor(prompts), 12, stop_tokens=[stop])
    ended = table[0].tolist()
    assert set(ended[ended.index(stop, 1) :]) == {stop}, "a tensor's ended rows are filled up with the stop token"


def test_generation_leaves_the_model_in_its_mode():
    model = gpt().train()
    model.generate(torch.zeros(1, 1, dtype=torch.long), 2)
    assert model.training
    assert model.generate(torch.zeros(1, 1, dtype=torch.long), 0).tolist() == [[0]]


def test_sample_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20000, 1)
    counts = torch.bincount(sample(logits, temperature=0.7, do_sample=True), minlength=4) / 20000
    torch.testing.assert_close(counts, (logits[0] / 0.7).softmax(0), atol=0.015, rtol=0)


def test_top_k_and_top_p_restrict_the_choice():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(3000, 1)

    def support(**options):
        return set(sample(logits, do_sample=True, **options).tolist())

    assert support(top_k=2) == {0, 1}
    assert support(top_k=99) == {0, 1, 2, 3}
    assert support(top_p=0.5) == {0}, "the most likely token alone reaches one half"
    assert support(top_p=0.6) == {0, 1}
    assert support(top_p=1e-9) == {0}, "at least one token is left"
    assert support(top_p=1.0) == {0, 1, 2, 3}
    assert sample(logits[:1]).item() == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "temperature is 0.0; it must be positive"),
        (dict(temperature=float("nan")), "temperature is nan; it must be positive"),
        (dict(top_k=0), "top_k is 0; it must be at least 1"),
        (dict(top_p=1.5), r"top_p is 1.5; it must be in \(0, 1\]"),
        (dict(max_new_tokens=-1), "max_new_tokens is -1; it must be from 0 to"),
        (dict(max_new_tokens=99_999_999_999), "max_new_tokens is 99999999999; it must be from 0 to"),
        (dict(max_new_tokens=2.5), "max_new_tokens is 2.5; it must be an integer"),
        (dict(top_k="5"), "top_k is '5'; it must be an integer"),
        (dict(lookup=-1, do_sample=False), "lookup is -1; it must not be negative"),
        (dict(stop_tokens=0.5), "stop_tokens is 0.5; it must be a token, an integer, or a list of them"),
        (dict(stop_tokens="a"), "stop_tokens is 'a'; it must be a token"),
        (dict(idx="ab"), r"for one prompt write \[prompt\]"),
        (dict(idx=[[True]]), "a list of lists of ints"),
        (dict(idx=[[1], []]), "each prompt at least one token"),
        (dict(idx=[]), "needs at least one prompt"),
        (dict(idx=[1, 2]), r"for one prompt write \[prompt\]"),
        (dict(idx=[[0.5]]), "a list of lists of ints"),
        (dict(idx=[[1, 23]]), "token 23 is outside the vocabulary of 23"),
        (dict(idx=[[-1]]), "token -1 is outside the vocabulary"),
    ],
)
def test_bad_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gpt().generate(**{**dict(idx=[[1]], max_new_tokens=2, do_sample=True), **options})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_prompts_of_any_kind_of_integer(dtype):
    model = gpt()
    expected = model.generate([[1, 2, 3]], 4)
    array = np.array([[1, 2, 3]], dtype=dtype)
    assert model.generate(array, 4) == model.generate(list(array), 4) == expected
    assert model.generate(torch.from_numpy(array), 4).tolist() == expected


@pytest.mark.parametrize("lookup", [0, 3])
def test_stop_tokens_of_any_kind(lookup):
    """A generator can be gone through once only,
    and the elements of a tensor are equal to a number without having its hash.
    """
    model, prompt = gpt(), [[1, 2, 1, 2, 1]]
    free = model.generate(prompt, 12, lookup=lookup)[0]
    stop = free[8]
    expected = free[: free.index(stop, 5) + 1]
    for stops in (
        stop,
        np.int64(stop),
        torch.tensor(stop),
        [stop],
        (token for token in (stop, stop)),
        torch.tensor([stop]),
        np.array([stop]),
        {stop: "of a dictionary, its keys"},
    ):
        assert model.generate(prompt, 12, stop_tokens=stops, lookup=lookup)[0] == expected


def test_logits_that_are_not_numbers_are_an_error():
    for value in (math.nan, math.inf):
        model = gpt()
        torch.nn.init.constant_(model.lm_head.weight, value)
        for options in (dict(), dict(do_sample=True), dict(lookup=2), dict(use_cache=False)):
            with pytest.raises(ValueError, match="the logits are not finite"):
                model.generate([[1]], 2, **options)


def test_the_coldest_temperature_is_greedy():
    model = gpt()
    for temperature in (1e-300, 5e-324, 1e-21):
        assert model.generate([[1, 2]], 5, temperature=temperature, do_sample=True) == model.generate([[1, 2]], 5)
