"""How fast is it, beside the usual ways? Tables, and a figure of all of them.

    python projects/benchmark/run.py                       all that is timed: half an hour
    python projects/benchmark/run.py training generation   some of it; results of the rest, in --out, are kept
    python projects/benchmark/run.py quality --repeats 3   does bfloat16 cost anything? 1,000 steps, 3 seeds
    python projects/benchmark/run.py changes               what single changes are worth: ours with one of them taken
    back
    python projects/benchmark/run.py gpu --compile         on a GPU: a training step of GPT-2
    python projects/benchmark/run.py report                the tables and the figure again, from --out
    python projects/benchmark/run.py --quick               shows that everything runs, and measures nothing

Each comparison runs ours and the others in turns in one process (A B C, A B C, ...), because a machine is never quiet;
each
topic has a process of its own. What is not installed is a row that says so. Stop everything else before you believe a
number.
"""

import importlib
import math
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.support.command import one_line_errors, printable, way_to_go_on
from mingpt.support.config import Parser
from mingpt.support.devices import has_fast_bfloat16
from mingpt.support.files import own_folder, read_json, read_text, write_json
from projects.benchmark.harness import Table, Timing, print_table, versions

TOPICS = {  # what run.py measures by itself, and what with
    "training": "a training step at three shapes, beside minGPT's and nanoGPT's ways",
    "generation": "with the cache, without it, and transformers'",
    "loading": "GPT-2's weights, beside transformers",
    "tokenizer": "BPE encoding and training, beside tiktoken and tokenizers",
    "conv_attention": "a training step of the net of wikitext_induction, beside its published form",
    "ngram": "models of ngram_superposition, many at once and one at a time",
    "mechanism": "heads of a GPT-2 scored and edited, beside transformers, deep copies and full decompositions",
    "startup": "imports and --help",
}
ON_REQUEST = {
    "quality": "bfloat16's loss beside float32's",
    "fast": "ours with mingpt/fast and without it",
    "changes": "ours beside ours, with one change taken back",
    "gpu": "a training step of GPT-2 on a CUDA GPU, beside nanoGPT's way",
}


def measure(topic: str, out: Path, options: dict) -> None:
    """Run one topic in this process; print its tables, and write <topic>.json."""
    import torch

    tables = []
    for table in importlib.import_module(f"projects.benchmark.{topic}").measure(**options):
        print_table(table)
        sys.stdout.flush()
        tables.append(asdict(table))
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16 units": has_fast_bfloat16(torch.device("cpu")),
        "versions": versions("torch", "transformers", "tiktoken", "tokenizers"),
    }
    print("\n" + ", ".join(f"{name}: {value}" for name, value in machine.items()))
    write_json(out / f"{topic}.json", {"topic": topic, "machine": machine, "tables": tables})


def processor() -> str:
    """What kind of processor this is: its model's name on Linux."""
    try:
        lines = read_text("/proc/cpuinfo").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (ValueError, OSError, StopIteration):
        return platform.processor() or platform.machine()


def read_tables(out: Path, but: str = "") -> list[Table]:
    """What has been measured into a folder, in the order of `TOPICS`, without the topic `but`.

    A file with a topic's name that is none of ours is named and left out.
    """
    tables = []
    for topic in [*TOPICS, *ON_REQUEST]:
        if topic != but and (path := out / f"{topic}.json").exists():
            try:
                tables += tables_of(read_json(path))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = str(error) if isinstance(error, ValueError) else f"{path}: not what this program wrote"
                print(f"note: {printable(reason)}; it is left out", file=sys.stderr)
    return tables


def tables_of(saved: dict) -> list[Table]:
    """The tables that `measure` has written. TypeError, KeyError, AttributeError or ValueError for anything else."""
    tables = []
    for each in saved["tables"]:
        timings = {name: Timing(tuple(timing["seconds"])) for name, timing in each["timings"].items()}
        table = Table(**{**each, "timings": timings})
        numbers = [*(second for timing in timings.values() for second in timing.seconds), *table.goals.values()]
        if not all(type(number) in (int, float) and 0 < number < math.inf for number in numbers):
            raise TypeError("a time or a goal is not a positive number")
        texts = [table.title, table.unit, table.ours]
        if not all(isinstance(text, str) for text in texts) or table.ours and not timings[table.ours].seconds:
            raise TypeError("a title is no text, or there is nothing to compare with")
        if table.work is not None and type(table.work) not in (int, float) or not isinstance(table.facts, dict):
            raise TypeError("the work or the facts are of another type")
        tables.append(table)
    return tables


def plot(tables: list[Table], path: Path) -> None:
    """How many times as fast as each peer ours is, with the least and the most of the rounds, and the goals."""
    from mingpt.support.plotting import COLORS, figure

    groups = [
        (
            table,
            [
                name
                for name, timing in table.timings.items()
                if name not in (table.ours, "ours, float32") and timing.seconds
            ],
        )
        for table in tables
        if table.ours
    ]
    groups = [(table, names) for table, names in groups if names]
    if not groups:
        raise ValueError(f"{path.parent} has no comparisons to draw; measure some first")
    lines = sum(len(names) + 1 for _, names in groups)
    with figure(path, width=8.5, height=1.2 + 0.2 * lines) as axes:
        y, ticks = 0, {}
        for table, names in groups:
            axes.annotate(
                table.title, (0.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, weight="bold"
            )
            for name in names:
                y += 1
                middle, low, high = table.times_as_fast_as(name)
                axes.barh(y, middle - 1, left=1, color=COLORS["blue" if middle >= 1 else "red"], height=0.75)
                (spread,) = axes.plot([low, high], [y, y], color="black", lw=1)
                axes.annotate(
                    f"  {middle:.3g}", (max(high, middle, table.goals.get(name, 0), 1), y), va="center", fontsize=8
                )
                if name in table.goals:
                    (goal,) = axes.plot([table.goals[name]] * 2, [y - 0.42, y + 0.42], color=COLORS["orange"], lw=2.5)
                    goal.set_label("goal")
                ticks[y] = name
            y += 1
        spread.set_label("slowest to fastest round")
        axes.axvline(1, color="black", lw=0.8)
        axes.set(
            xscale="log",
            xlabel="ours is so many times as fast (log scale)",
            title="Ours beside its peers",
            ylim=(y, -0.8),
        )
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
        numbers = [n for n in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if axes.get_xlim()[0] <= n <= axes.get_xlim()[1]]
        axes.set_xticks(numbers, [f"{n:g}" for n in numbers])
        axes.minorticks_off()
        axes.margins(x=0.1)
        handles = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        axes.figure.legend(handles.values(), handles, ncols=2, loc="outside lower center", fontsize=8)


def main() -> None:
    """Read the command line; measure, print, draw."""
    names = [*TOPICS, *ON_REQUEST, "report"]
    parser = Parser(description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic", help=", ".join(names))
    parser.add_argument("--out", default="out/benchmark", metavar="DIR", help="folder for everything that is written")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, for seconds")
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds of each comparison; fewer where one takes a minute"
    )
    parser.add_argument("--compile", action="store_true", help="training: also ours under torch.compile; gpu: both")
    parser.add_argument("--vocab", metavar="DIR", help="tokenizer: folder with GPT-2's vocab.json and merges.txt")
    args = parser.parse_args()
    with one_line_errors():
        if unknown := [topic for topic in args.topics if topic not in names]:
            raise ValueError(f"there is no topic {unknown[0]!r}; there are {', '.join(names)}")
        if args.repeats < 1:
            raise ValueError(f"--repeats is {args.repeats}; it must be at least 1")
        out = Path(args.out) / "quick" if args.quick else Path(args.out)  # next to what was measured, not over it
        going_on = f"topics that were measured are kept in {out}; to go on, name the others"
        with own_folder(out), way_to_go_on(going_on):
            work(args, out)


def work(args, out: Path) -> None:
    """Measure the topics: a single one in this process, several each in its own. Then print or draw what there is."""
    topics = [topic for topic in args.topics if topic != "report"] if args.topics else list(TOPICS)
    if len(topics) == 1:
        options = {"quick": args.quick, "repeats": args.repeats}
        options |= {"compiled": True} if args.compile and topics[0] in ("training", "gpu") else {}
        options |= {"vocab": Path(args.vocab)} if args.vocab and topics == ["tokenizer"] else {}
        measure(topics[0], out, options)
    else:
        failed = [topic for topic in topics if not run_alone(topic, args, out)]
        if failed:
            raise ValueError(f"not measured: {', '.join(failed)}; the reasons are above. run.py report draws the rest")
    if not topics:
        for table in read_tables(out):
            print_table(table)
    if len(topics) != 1 or args.topics == ["report"]:
        plot(read_tables(out, but="changes"), out / "benchmark.png")
        print(f"\nWritten to {out}")


def run_alone(topic: str, args, out: Path) -> bool:
    """Run one topic in a Python of its own, with the flags of this one, and take its result.

    Returns whether it has one.
    """
    print(f"\n{topic}: {TOPICS.get(topic) or ON_REQUEST[topic]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:  # the one that results go to belongs to this process
        flags = ["--out", folder, "--repeats", str(args.repeats), *(["--vocab", args.vocab] if args.vocab else [])]
        flags += [f"--{name}" for name in ("quick", "compile") if getattr(args, name)]
        child = subprocess.Popen([sys.executable, __file__, topic, *flags])
        try:
            status = child.wait()
        except KeyboardInterrupt:  # a signal to this process: Ctrl-C reaches both, SIGTERM only one
            child.terminate()
            child.wait()
            raise
        if status == 0:
            write_json(out / f"{topic}.json", read_json(next(Path(folder).rglob(f"{topic}.json"))))
    return status == 0


if __name__ == "__main__":
    main()
