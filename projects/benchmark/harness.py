"""Time several ways to do the same thing, side by side in one process.

    timings = compare({"ours": encode_ours, "theirs": encode_theirs, "absent": None}, repeats=7)
    print_table(timings, work=5.2, unit="MB")

A machine is never quiet: other programs come and go and the clock changes with the heat, so two timings taken minutes
apart say little. The variants run in turns instead, A B C, A B C, ..., and each is compared with the first one *of the
same round*. The median of those ratios is what to quote; a burst of noise spoils one round, not the comparison.
"""

import importlib.metadata
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The timings of one variant, round by round; empty for a peer that is not installed.

    seconds: wall-clock time of each round
    ratios: the first variant's seconds over this one's, round by round; above 1 this one is faster
    """

    seconds: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median seconds of a round, nan when there is none."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return (min(self.seconds), max(self.seconds)) if self.seconds else (math.nan, math.nan)

    @property
    def ratio(self) -> float:
        """Median of the ratios to the first variant, nan when there is none."""
        return statistics.median(self.ratios) if self.ratios else math.nan


def compare(
    variants: Mapping[str, Callable[[], object] | None],
    *,
    repeats: int = 5,
    warmup: int = 1,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Run every variant `warmup` times untimed and `repeats` times timed, interleaved.

    Arguments:
        variants: name -> a function without arguments, or None for a peer that is missing; all are compared with the
            first that is there
        synchronize: called before the clock is read, for work that goes on after its function has returned
            (torch.cuda.synchronize)
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is {repeats} and warmup {warmup}; at least one timed round is needed")
    present = {name: function for name, function in variants.items() if function is not None}
    wait = synchronize or (lambda: None)
    seconds = {name: [] for name in present}
    for round_number in range(warmup + repeats):
        for name, function in present.items():
            wait()
            start = time.perf_counter()
            function()
            wait()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    first = seconds[next(iter(present))] if present else []
    return {
        name: Timing(tuple(seconds[name]), tuple(a / b for a, b in zip(first, seconds[name])))
        if name in present
        else Timing()
        for name in variants
    }


def print_table(timings: Mapping[str, Timing], *, title: str = "", work: float | None = None, unit: str = "") -> None:
    """Print one row for each variant: median, spread, rate where `work` (done in one round) is given, and ratio."""
    width = max(map(len, timings), default=0)
    if title:
        print(title)
    rate = f"{unit + '/s':>10} " if work else ""
    print(f"  {'':{width}} {'median s':>10} {'min..max s':>19} {rate}{'times as fast':>14}")
    for name, timing in timings.items():
        if not timing.seconds:
            print(f"  {name:{width}} {'not installed':>10}")
            continue
        low, high = timing.spread
        rate = f"{work / timing.median:>10.3g} " if work else ""
        print(f"  {name:{width}} {timing.median:>10.4g} {f'{low:.4g}..{high:.4g}':>19} {rate}{timing.ratio:>14.2f}")


def versions(*packages: str) -> str:
    """One line with the version of Python and of each of `packages`."""
    found = [f"Python {sys.version.split()[0]}"]
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)
