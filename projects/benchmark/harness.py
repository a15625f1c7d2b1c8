"""Time several ways to do the same thing, side by side in one process.

    timings = compare({"ours": encode_ours, "theirs": encode_theirs, "absent": None}, repeats=7)
    print_table(Table("encode", timings, ours="ours", work=5.2, unit="MB"))

A machine is never quiet: other programs come and go and the clock changes with the heat, so two timings taken minutes
apart say little. The variants run in turns instead, A B C, A B C, ..., and each is compared with the others *of the
same
round*. The median of those ratios is what to quote; a burst of noise spoils one round, not the comparison.
"""

import ctypes
import importlib.metadata
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Timing:
    """The wall-clock seconds of each round of one variant; none for a peer that is not installed."""

    seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median seconds of a round, nan when there is none."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return (min(self.seconds), max(self.seconds)) if self.seconds else (math.nan, math.nan)


@dataclass(frozen=True)
class Table:
    """One comparison, to be printed, saved and drawn.

    ours   the variant that is ours; "" where the table compares nothing
    work   how much of `unit` each variant does in a round
    goals  variant -> how many times as fast as it ours is meant to be
    facts  further figures, by name
    """

    title: str
    timings: Mapping[str, Timing]
    ours: str = ""
    work: float | None = None
    unit: str = ""
    goals: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float | str] = field(default_factory=dict)

    def times_as_fast_as(self, name: str) -> tuple[float, float, float]:
        """How many times as fast as variant `name` ours is: median over the rounds, least and most; nan without any."""
        pairs = zip(self.timings[name].seconds, self.timings[self.ours].seconds)
        ratios = [theirs / ours for theirs, ours in pairs] or [math.nan]
        return statistics.median(ratios), min(ratios), max(ratios)


def compare(
    variants: Mapping[str, Callable[[], object] | None],
    *,
    repeats: int = 5,
    warmup: int = 1,
    before: Mapping[str, Callable[[], object]] | None = None,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Run every variant `warmup` times untimed and `repeats` times timed, interleaved.

    Arguments:
        variants: name -> a function without arguments, or None for a peer that is missing
        before: name -> a function that runs, untimed, before each round of that variant
        synchronize: called before the clock is read, for work that goes on after its function has returned
            (torch.cuda.synchronize)
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is {repeats} and warmup {warmup}; at least one timed round is needed")
    present = {name: function for name, function in variants.items() if function is not None}
    wait, before = synchronize or (lambda: None), before or {}
    seconds = {name: [] for name in present}
    for round_number in range(warmup + repeats):
        for name, function in present.items():
            if name in before:
                before[name]()
            wait()
            start = time.perf_counter()
            function()
            wait()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return timings_of({name: seconds.get(name, []) for name in variants})


def timings_of(seconds: Mapping[str, list[float]]) -> dict[str, Timing]:
    """Timings out of the seconds of each variant's rounds."""
    return {name: Timing(tuple(rounds)) for name, rounds in seconds.items()}


def print_table(table: Table) -> None:
    """Print one row for each variant: median, spread, rate where there is `work`, and how ours compares."""
    width = max(map(len, table.timings), default=0)
    print(f"\n{table.title}")
    rate = f"{table.unit + '/s':>12} " if table.work else ""
    print(f"  {'':{width}} {'median s':>10} {'min..max s':>19} {rate}{'ours is faster by':>28}")
    for name, timing in table.timings.items():
        if not timing.seconds:
            print(f"  {name:{width}} {'not installed':>10}")
            continue
        low, high = timing.spread
        rate = f"{table.work / timing.median:>12,.4g} " if table.work else ""
        faster = ""
        if table.ours and name != table.ours:
            faster = "{:.2f}, {:.2f}..{:.2f}".format(*table.times_as_fast_as(name))
            faster += f" (goal {table.goals[name]:g})" if name in table.goals else ""
        print(f"  {name:{width}} {timing.median:>10.4g} {f'{low:.4g}..{high:.4g}':>19} {rate}{faster:>28}")
    for name, value in table.facts.items():
        print(f"  {name}: {f'{value:.4g}' if isinstance(value, float) else value}")


def versions(*packages: str) -> str:
    """One line with the version of Python and of each of `packages`."""
    found = [f"Python {sys.version.split()[0]}"]
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def usual_memory() -> None:
    """Undo `mingpt.fast.memory.keep_freed_memory`: the C library gives large freed blocks back, as it does in any
    program.

    The thresholds are those that glibc arrives at by itself, once a program has freed blocks of tens of megabytes.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -4, -3, -1  # names and values from malloc.h
    libc = ctypes.CDLL(None)
    for name, value in ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20)):
        libc.mallopt(name, value)
    libc.malloc_trim(0)


def in_fresh_process(function: Callable, *args):
    """What `function(*args)` returns in a Python that has done nothing else; for peak memory and first calls."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, args)


def peak_memory() -> int:
    """Most bytes of physical memory that this process has ever held."""
    try:  # Linux; its getrusage counts the process that this one was started from, too
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
