"""The same answers, sooner: each function here names the plain one that it equals, and one test holds the two together.

Users get the fast way without asking. To step through the plain one in a debugger, switch this off:

    MINGPT_FAST=0 python projects/birthplace/run.py      for a whole program

    from mingpt import fast
    with fast.plain():                                   for a part of one
        logits, loss = model(idx, targets)

`projects/benchmark/run.py fast` shows what each of them saves.
"""

import os
from contextlib import contextmanager

_on: bool | None = None  # None: not asked for yet


def on() -> bool:
    """Whether the fast way is to be taken."""
    global _on
    if _on is None:
        word = os.environ.get("MINGPT_FAST", "1").lower()
        if word not in ("0", "false", "no", "1", "true", "yes"):
            raise ValueError(f"the environment variable MINGPT_FAST is {word[:80]!r}; it must be 0 or 1")
        _on = word in ("1", "true", "yes")
    return _on


@contextmanager
def plain():
    """While the context lasts, everything takes the plain way."""
    global _on
    before, _on = on(), False
    try:
        yield
    finally:
        _on = before
