"""Train one net on one of the two kinds of data, and measure it on the way."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.conv_attention import Net
from mingpt.optim import OptimConfig
from mingpt.support.checkpoints import fingerprint
from mingpt.support.command import printable
from mingpt.support.config import config_to_dict
from mingpt.support.devices import set_seed
from mingpt.support.files import read_json, write_json
from mingpt.support.processes import is_first_process, lost_processes_named
from mingpt.trainer import Trainer, TrainerConfig
from projects.wikitext_induction.ablations import ablate
from projects.wikitext_induction.measures import chance, in_context_learning, measure_quotation, measure_repeats
from projects.wikitext_induction.nets import build
from projects.wikitext_induction.repeats import TiledSegments, random_repeats
from projects.wikitext_induction.runs import MEASURED
from projects.wikitext_induction.taps import tap_statistics
from projects.wikitext_induction.text import (
    DURSLEY,
    PAD,
    Corpus,
    Lines,
    Packed,
    fingerprint_of,
    prompt_tokens,
    train_tokenizer,
)

LARGEST = 2**31  # sizes from here on fit no computer that this runs on; from 2^63 on they fit no tensor


@dataclass(frozen=True)
class RepeatsConfig:
    """Training on repeated random segments."""

    repeat_steps: Annotated[int, "training steps"] = 600
    repeat_batch: Annotated[int, "sequences in a step"] = 64
    repeat_vocab: Annotated[int, "tokens"] = 64
    repeat_block: Annotated[int, "tokens in a sequence"] = 48
    repeat_width: Annotated[int, "width of the nets"] = 64
    repeat_lr: Annotated[float, "AdamW's rate"] = 3e-3
    repeat_every: Annotated[int, "steps between measurements"] = 20

    def __post_init__(self):
        _positive(self)
        if self.repeat_block < 6:
            raise ValueError(
                f"--repeat_block is {self.repeat_block}; it must be at least 6, for segments of two tokens"
            )


@dataclass(frozen=True)
class TextConfig:
    """Training on text."""

    vocab_size: Annotated[int, "tokens that the tokenizer learns"] = 2048
    block_size: Annotated[int, "tokens in a sequence"] = 256
    n_embd: Annotated[int, "width of the nets"] = 128
    epochs: Annotated[int, "passes over the training text"] = 10
    batch_size: Annotated[int, "sequences of block_size tokens in a step"] = 16
    learning_rate: Annotated[float, "AdamW's peak rate"] = 3e-4
    warmup_ratio: Annotated[float, "share of the steps in which the rate rises"] = 0.1
    examples: Annotated[str, "packed, or lines: one non-empty line an example"] = "packed"
    padding_mask: Annotated[bool, "with lines: no layer sees the padding"] = False
    eval_blocks: Annotated[int, "sequences that a measurement on the way takes; the last takes all"] = 100
    train_chars: Annotated[int, "characters of the training text to use; 0: all"] = 0

    def __post_init__(self):
        _positive(self, "train_chars", "padding_mask", "warmup_ratio")
        if self.train_chars < 0:
            raise ValueError(f"--train_chars is {self.train_chars}; it must not be negative")
        if self.examples not in ("packed", "lines"):
            raise ValueError(f"--examples is {self.examples!r}; it must be packed or lines")
        if self.padding_mask and self.examples == "packed":
            raise ValueError("--padding_mask is for --examples lines; packed examples have no padding")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"--warmup_ratio is {self.warmup_ratio}; it must be in [0, 1)")


def _positive(config, *but: str) -> None:
    for name, value in asdict(config).items():
        if name not in but and not isinstance(value, str) and not 0 < value < math.inf:
            raise ValueError(f"--{name} is {value}; it must be positive")
        if isinstance(value, int) and value >= LARGEST:
            raise ValueError(f"--{name} is {printable(str(value))}; it must be less than {LARGEST:,}")


@dataclass(frozen=True)
class Unfinished:
    """What a run keeps on disk until it is finished: its checkpoint, and in measured.json what was measured so far.

    settings  plain values that decide whether a later run is the same one; kept in measured.json
    interval  steps between checkpoints
    resume    go on from the checkpoint, if there is one, perhaps in another number of processes
    """

    folder: Path
    settings: dict
    interval: int
    resume: bool


def train_and_measure(
    trainer: Trainer, measure: Callable[[], dict], due: Callable[[int], bool], unfinished: Unfinished
) -> tuple[list[dict], float]:
    """Train, and measure before the first step and after each that is due.

    Returns the measurements, each with its "step", and the seconds that all of it took, earlier parts of a resumed run
    included up to their last measurement.
    """
    path, curve, before = unfinished.folder / MEASURED, [], 0.0
    if unfinished.resume:
        with lost_processes_named():
            trainer.load_checkpoint()
    if trainer.iter_num:
        curve, before = read_measured(path)
        curve = [point for point in curve if point["step"] <= trainer.iter_num]  # the rest will be measured again
    start = time.perf_counter()

    def take() -> None:
        curve.append({"step": trainer.iter_num, **measure()})
        if is_first_process():
            seconds = before + time.perf_counter() - start
            write_json(path, {"settings": unfinished.settings, "seconds": seconds, "curve": curve})

    def on_batch_end(trainer: Trainer) -> None:
        if due(trainer.iter_num):
            take()

    if not curve:
        take()
    trainer.add_callback("on_batch_end", on_batch_end)
    trainer.run()
    return curve, round(before + time.perf_counter() - start, 1)


def read_measured(path: Path) -> tuple[list[dict], float]:
    """What an unfinished run has measured, and the seconds that it took.

    ValueError for a file that is none of its kind.
    """
    saved = read_json(path)
    curve, seconds = (saved.get("curve"), saved.get("seconds")) if isinstance(saved, dict) else (None, None)
    if not (
        isinstance(seconds, (int, float))
        and isinstance(curve, list)
        and curve
        and all(isinstance(point, dict) and isinstance(point.get("step"), int) for point in curve)
    ):
        raise ValueError(f"{path}: not the measurements of a run; leave --resume out to begin it anew")
    return curve, float(seconds)


def train_on_repeats(
    name: str, seed: int, config: RepeatsConfig, device: str, unfinished: Unfinished
) -> tuple[Net, dict]:
    """Train the net called `name` on repeated segments. Returns it and its results, as plain values."""
    set_seed(seed)
    net = build(name, config.repeat_vocab, config.repeat_block, config.repeat_width)
    test = random_repeats(config.repeat_vocab, config.repeat_block // 3, 64)
    # The sizes are too small for 16 bits to pay.
    how = TrainerConfig(
        max_iters=config.repeat_steps,
        batch_size=config.repeat_batch,
        seed=seed,
        device=device,
        dtype="float32",
        checkpoint_interval=unfinished.interval,
    )
    optim = OptimConfig(
        learning_rate=config.repeat_lr, beta2=0.98, weight_decay=0.01, schedule="constant", warmup_iters=50
    )
    data = TiledSegments(config.repeat_vocab, config.repeat_block, 100 * config.repeat_batch, seed)
    trainer = Trainer(how, optim, net, data, out_dir=unfinished.folder)
    curve, seconds = train_and_measure(
        trainer,
        lambda: on_cpu(net, measure_repeats, test),
        lambda step: step % config.repeat_every == 0 or step == trainer.max_iters,
        unfinished,
    )
    net.cpu()
    return net, {
        "curve": curve,
        "final": curve[-1],
        "chance": chance(test),
        **about_convolution(net, test),
        "seconds": seconds,
    }


class TextTask:
    """A corpus made ready: tokens, examples, and what to measure on.

    settings   what makes a run this one and no other, as plain values: the config, and in "inputs" the fingerprints of
               what it reads
    """

    def __init__(self, corpus: Corpus, config: TextConfig):
        self.config, self.source = config, corpus.source
        train = corpus.train[: config.train_chars or None]
        self.tokenizer = train_tokenizer(train, config.vocab_size)
        T, V = config.block_size, self.tokenizer.vocab_size
        self.train = Packed(self.tokenizer.encode_ordinary(train), T, "the training text")
        self.evaluation = Packed(self.tokenizer.encode_ordinary(corpus.evaluation), T, "the evaluation text")
        self.lines = Lines(train, self.tokenizer, T) if config.examples == "lines" else None
        self.dursley = prompt_tokens(DURSLEY, self.tokenizer, T)
        self.repeats = random_repeats(V - 1, min(50, T // 2), 16)  # without the padding, which is last
        self.inputs = {
            "the training text": fingerprint(train),
            "the evaluation text": fingerprint(corpus.evaluation),
            "the tokenizer": fingerprint_of(self.tokenizer),
        }
        self.settings = {**config_to_dict(config), "source": corpus.source, "inputs": self.inputs}

    def describe(self) -> str:
        """One line on sizes."""
        V, tokens = self.tokenizer.vocab_size, len(self.train.ids)
        return f"{tokens:,} tokens to train on, a vocabulary of {V:,}, {len(self.dursley)} tokens in the Dursley text"


def train_on_text(
    name: str, seed: int, task: TextTask, device: str, dtype: str, unfinished: Unfinished
) -> tuple[Net, dict]:
    """Train the net called `name` on text. Returns it and its results, as plain values."""
    config, T = task.config, task.config.block_size
    set_seed(seed)
    pad_id = task.tokenizer.special_tokens[PAD] if config.padding_mask else -1
    net = build(name, task.tokenizer.vocab_size, T, config.n_embd, pad_id)
    if task.lines is None:
        data, size = task.train, dict(batch_size=config.batch_size)
    else:
        data, size = task.lines, dict(batch_size=0, batch_tokens=config.batch_size * T)
    # The assignment names the rate, the schedule and the warm-up; the rest is as its library has it: no weight decay.
    optim = OptimConfig(learning_rate=config.learning_rate, beta2=0.999, weight_decay=0.0, schedule="cosine")
    how = TrainerConfig(
        max_epochs=config.epochs, seed=seed, device=device, dtype=dtype, checkpoint_interval=unfinished.interval, **size
    )
    trainer = Trainer(how, optim, net, data, out_dir=unfinished.folder, inputs=task.inputs)
    # How many steps there are is known now.
    trainer.optim = replace(optim, warmup_iters=round(config.warmup_ratio * trainer.max_iters))

    def measure() -> dict:
        on_train = evaluate(net, task.train, config.eval_blocks, trainer.device, trainer.dtype)
        return {
            "epoch": round(trainer.epoch, 2),
            "train_loss": on_train["loss"],
            "train_accuracy": on_train["accuracy"],
            **evaluate(net, task.evaluation, config.eval_blocks, trainer.device, trainer.dtype),
            **on_cpu(net, measure_repeats, task.repeats),
            "dursley": on_cpu(net, measure_quotation, task.dursley),
        }

    def due(step: int) -> bool:  # ten times, evenly spaced
        return step * 10 // trainer.max_iters > (step - 1) * 10 // trainer.max_iters

    curve, seconds = train_and_measure(trainer, measure, due, unfinished)
    whole = evaluate(net, task.evaluation, len(task.evaluation), trainer.device, trainer.dtype)
    net.cpu()
    return net, {
        "curve": curve,
        "final": {**curve[-1], **whole},
        "chance": chance(task.repeats),
        **about_convolution(net, task.repeats),
        "steps": trainer.max_iters,
        "seconds": seconds,
    }


def about_convolution(net: Net, idx: Tensor) -> dict:
    """The statistics of the taps, and the ablations; nothing for nets without a full convolution before attention."""
    if "conv" not in net.layers:
        return {}
    taps = tap_statistics(net.layers["conv"].weight.detach())
    return {"taps": taps, "ablations": ablate(net, idx)} if "attn" in net.layers else {"taps": taps}


def on_cpu(net: Net, measure, *arguments) -> dict:
    """`measure(net, ...)` in evaluation mode, on the CPU in float32, wherever the net is being trained."""
    device = next(net.parameters()).device
    result = measure(net.cpu().eval(), *arguments)
    net.to(device)
    return result


@torch.no_grad()
def evaluate(net: Net, data: Packed, blocks: int, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Loss in nats, accuracy, and in-context learning, on up to `blocks` evenly spaced blocks of `data`."""
    net.eval()
    chosen = torch.linspace(0, len(data) - 1, min(blocks, len(data))).long().tolist()
    total, right, count = 0.0, 0, 0
    for start in range(0, len(chosen), 16):
        x, y = (torch.stack(part).to(device) for part in zip(*(data[i] for i in chosen[start : start + 16])))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, _ = net(x)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none").view_as(y)
        total, count = total + losses.sum(dim=0).cpu(), count + len(x)
        right += int((logits.argmax(dim=2) == y).sum())
    by_position = total / count
    return {
        "loss": round(float(by_position.mean()), 4),
        "accuracy": round(right / (count * len(by_position)), 4),
        "in_context_learning": round(in_context_learning(by_position), 4),
    }
