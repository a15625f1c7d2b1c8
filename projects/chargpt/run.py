"""Train a GPT on any text, and let it go on writing.

    python projects/chargpt/run.py                           on this project's own source code: a few minutes
    python projects/chargpt/run.py train book.txt            on a file; or a folder, with --pattern "*.md"
    python projects/chargpt/run.py train --resume            go on after a kill, with the run's own text and settings
    python projects/chargpt/run.py train --resume --max_iters 4000    make the run longer
    python projects/chargpt/run.py sample --prompt "Once"    write, with what has been trained last

    python projects/chargpt/run.py train big.txt --tokenizer bpe --vocab_size 8192 --preset gpt-mini
    torchrun --nproc_per_node 8 projects/chargpt/run.py train big.txt --preset gpt2 --batch_size 480 --accumulate 5

Text and tokens are read from the disk as they are needed, so a corpus may be larger than memory. A folder belongs to
one run at a time, and a new run takes the old model's place only when everything about it has been checked.
"""

import math
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from dataclasses import replace as changed
from pathlib import Path, PurePath
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.support.checkpoints import fingerprint, load_torch
from mingpt.support.command import Stopped, one_line_errors
from mingpt.support.config import Parser, config_from_args, config_from_dict, without_former_fields
from mingpt.support.devices import pick_device, pick_dtype, set_seed
from mingpt.support.files import own_folder, read_json, read_text, write_json, write_text
from mingpt.support.processes import first_process_first, is_first_process, process_count
from projects.chargpt.corpus import (
    Description,
    Text,
    Windows,
    alphabet,
    char_encoder,
    find_text,
    read_description,
    read_pieces,
    some_of,
    tokens_are_whole,
    write_description,
    write_tokens,
)
from projects.chargpt.replacing import BESIDE, finish_replacing, prepared_beside, replace

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {"laptop": dict(n_layer=4, n_head=4, n_embd=128)}  # besides those of mingpt.model
# What else a preset gpt2... means, unless a flag says otherwise: GPT-2's tokens, context and positions, and the usual
# rates.
GPT2 = {
    "Corpus": dict(tokenizer="gpt2"),
    "Model": dict(block_size=1024, positions="learned"),
    "Training": dict(optimizer="adamw", learning_rate=6e-4, weight_decay=0.1, warmup_iters=700),
}
MOST_TOKENS = 10_000_000  # to write in one sample: days of work, and 80 MB

# May change while a run goes on; max_iters only to more. The losses then agree to rounding.
FREE_TO_CHANGE = {
    "max_iters",
    "accumulate",
    "eval_interval",
    "checkpoint_interval",
    "device",
    "dtype",
    "compile",
    "resume",
}


@dataclass(frozen=True)
class Corpus:
    """What is read, and how it becomes tokens."""

    pattern: Annotated[str, "names of the files to take from a folder"] = "*.txt"
    tokenizer: Annotated[str, "char; bpe, trained on the text; or gpt2, downloaded"] = "char"
    vocab_size: Annotated[int, "tokens of a trained bpe"] = 4096
    held_out: Annotated[float, "share of the text, at its end, to measure the loss on"] = 0.05

    def __post_init__(self):
        if self.tokenizer not in ("char", "bpe", "gpt2"):
            raise ValueError(f"--tokenizer is {self.tokenizer!r}; it must be char, bpe or gpt2")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held_out is {self.held_out}; it must be between 0 and 1")
        if self.tokenizer == "bpe" and self.vocab_size < 256:
            raise ValueError(f"--vocab_size is {self.vocab_size}; it must be at least 256, for the bytes")
        pattern = PurePath(self.pattern)
        if not pattern.parts or pattern.anchor or ".." in pattern.parts:
            raise ValueError(
                f"--pattern is {self.pattern!r}; it must be a pattern of names in the folder that is given, like *.md"
            )


@dataclass(frozen=True)
class Model:
    """The shape of the model."""

    preset: Annotated[str, "laptop, gpt-nano, gpt-micro, gpt-mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl"] = "laptop"
    block_size: Annotated[int, "most tokens that it sees at a time"] = 128
    dropout: Annotated[float, "share of activations to drop in training"] = 0.0
    positions: Annotated[str, "learned or rotary"] = "rotary"


@dataclass(frozen=True)
class Training:
    """How it is trained."""

    max_iters: Annotated[int, "steps"] = 2000
    batch_size: Annotated[int, "windows of block_size tokens in a step"] = 32
    accumulate: Annotated[int, "parts in which a step is computed, to save memory"] = 1
    eval_interval: Annotated[int, "steps between measurements on the text held out"] = 250
    eval_windows: Annotated[int, "windows that a measurement takes"] = 256
    checkpoint_interval: Annotated[int, "steps between checkpoints"] = 250
    optimizer: Annotated[str, "muon or adamw"] = "muon"
    learning_rate: Annotated[float, "AdamW's peak rate"] = 3e-3
    muon_learning_rate: Annotated[float, "Muon's peak rate"] = 0.02
    weight_decay: Annotated[float, "for matrices"] = 0.0
    warmup_iters: Annotated[int, "steps in which the rates rise"] = 50
    device: Annotated[str, "auto, cpu, cuda, mps"] = "auto"
    dtype: Annotated[str, "auto, float32, bfloat16, float16"] = "auto"
    compile: Annotated[bool, "torch.compile the model"] = False
    seed: Annotated[int, "of parameters, order and dropout"] = 0
    resume: Annotated[bool, "go on from the checkpoint in --out"] = False

    def __post_init__(self):
        for name in ("max_iters", "batch_size", "eval_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"--seed is {self.seed}; it must be from 0 to 2**63 - 1")
        for name in ("learning_rate", "muon_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < 1e6:  # "nan" and "inf" are numbers, too
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be a number from 0 to a million")


@dataclass(frozen=True)
class Sampling:
    """How it writes."""

    prompt: Annotated[str, "what to go on from; a line end unless given"] = ""
    max_new_tokens: Annotated[int, "tokens to write"] = 500
    temperature: Annotated[float, "below 1 plays safe, above 1 is bold; 0: always the likeliest token"] = 0.8
    top_k: Annotated[int, "choose among so many tokens; 0: all"] = 0
    top_p: Annotated[float, "choose among the likeliest tokens that together have this probability"] = 1.0
    samples: Annotated[int, "texts to write"] = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"--samples is {self.samples}; it must be at least 1")
        if self.max_new_tokens < 0:
            raise ValueError(f"--max_new_tokens is {self.max_new_tokens}; it must not be negative")
        if self.samples * self.max_new_tokens > MOST_TOKENS:
            raise ValueError(
                f"--max_new_tokens is {self.max_new_tokens}, for each of {self.samples} samples; more than "
                f"{MOST_TOKENS:,} tokens in all are not written"
            )
        # Logits divided by less would overflow: they are up to some hundreds.
        if not (self.temperature == 0 or 1e-3 <= self.temperature <= 1e6):
            raise ValueError(
                f"--temperature is {self.temperature}; it must be 0, for always the likeliest token, or from 0.001 to "
                "a million"
            )
        if self.top_k < 0:
            raise ValueError(f"--top_k is {self.top_k}; it must be 0, for all tokens, or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top_p is {self.top_p}; it must be above 0, and at most 1")


# ----------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass(frozen=True)
class Run:
    """A run and everything that was asked for: config.json."""

    text: str  # the path
    quick: bool
    corpus: Corpus
    model: Model
    training: Training
    sampling: Sampling

    def __post_init__(self):
        """Have all values checked that can be, before anything is read or written."""
        model_config(self.model, 256)
        trainer_configs(self.training)


def model_config(options: Model, vocab_size: int):
    """The GPTConfig of a model with that vocabulary."""
    from mingpt.model import GPTConfig

    shape = dict(
        vocab_size=vocab_size, block_size=options.block_size, dropout=options.dropout, positions=options.positions
    )
    preset = PRESETS.get(options.preset)
    return GPTConfig(**preset, **shape) if preset else GPTConfig.from_name(options.preset, **shape)


def trainer_configs(training: Training):
    """The trainer's configuration, and the optimizers'."""
    from mingpt.optim import OptimConfig
    from mingpt.trainer import TrainerConfig

    return (
        TrainerConfig(
            max_iters=training.max_iters,
            batch_size=training.batch_size,
            accumulate=training.accumulate,
            eval_interval=training.eval_interval,
            checkpoint_interval=training.checkpoint_interval,
            device=training.device,
            dtype=training.dtype,
            compile=training.compile,
            seed=training.seed,
        ),
        OptimConfig(
            optimizer=training.optimizer,
            learning_rate=training.learning_rate,
            muon_learning_rate=training.muon_learning_rate,
            weight_decay=training.weight_decay,
            schedule="cosine",
            warmup_iters=training.warmup_iters,
        ),
    )


def run_from_args(args) -> Run:
    """The run that the command line asks for."""
    quick = dict(max_iters=20, eval_interval=10, eval_windows=16, batch_size=8) if args.quick else {}
    small = dict(preset="gpt-nano", block_size=64) if args.quick else {}
    usual = GPT2 if config_from_args(Model, args).preset.startswith("gpt2") else dict.fromkeys(GPT2, {})
    corpus = config_from_args(Corpus, args, **usual["Corpus"])
    if not args.path:
        corpus = changed(corpus, pattern="*.py")
    return Run(
        str(Path(args.path or ROOT / "mingpt").resolve()),
        args.quick,
        corpus,
        config_from_args(Model, args, **{**usual["Model"], **small}),
        config_from_args(Training, args, **{**usual["Training"], **quick}),
        config_from_args(Sampling, args),
    )


def write_run(folder: Path, run: Run) -> None:
    """Write config.json."""
    write_json(folder / "config.json", asdict(changed(run, training=changed(run.training, resume=False))))


def read_run(folder: Path) -> Run:
    """The run that config.json describes. ValueError if there is none, or it is damaged."""
    path = folder / "config.json"
    try:
        values = read_json(path)
        text, quick = values["text"], values["quick"]
        if not isinstance(text, str) or not isinstance(quick, bool):
            raise ValueError("text is a path, and quick true or false")
        return Run(
            text,
            quick,
            *(
                config_from_dict(config, values[config.__name__.lower()], config.__name__.lower())
                for config in (Corpus, Model, Training, Sampling)
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not the settings of a run ({reason}); train again, without --resume") from None


def resumed_run(out: Path, args) -> Run:
    """The run in `out`, with those flags that may change while it goes on. ValueError names one that may not."""
    run, hint = read_run(out), "leave it out to go on with the run, or give another --out"
    parts = {"sampling": changed(run.sampling, **given_flags(Sampling, args))}
    for name, part in (("corpus", run.corpus), ("model", run.model), ("training", run.training)):
        given = given_flags(type(part), args)
        if args.path:
            given.pop("pattern", None)  # of another place of the same text
        for flag, value in given.items():
            before = getattr(part, flag)
            if value != before and flag not in FREE_TO_CHANGE:
                raise ValueError(f"--{flag} is {value!r}, and the run in {out} has {before!r}; {hint}")
            if flag == "max_iters" and value < before:
                raise ValueError(
                    f"--max_iters is {value}, and the run in {out} is to have {before} steps; a run can be made "
                    f"longer, and not shorter; {hint}"
                )
        parts[name] = changed(part, **given)
    if args.quick and not run.quick:
        raise ValueError(f"--quick is given, and the run in {out} was started without; {hint}")
    if process_count() > 1:  # they have joined already, on the device that was asked for
        parts["training"] = changed(parts["training"], device=getattr(args, "device", "auto"))
    return changed(run, **parts)


def given_flags(config: type, args) -> dict:
    """Those fields of a configuration that the command line sets."""
    return {field.name: getattr(args, field.name) for field in fields(config) if hasattr(args, field.name)}


# ----------------------------------------------------------------------------------------------------------------------
# Text and tokens


def prepare(run: Run, out: Path) -> None:
    """Prepare a new run beside `out`: its settings, and its tokens unless they are in `out` already."""
    text = find_text(run.text, run.corpus.pattern, out)
    if text.left_out:
        print(f"Left out of {run.text}: {some_of(text.left_out)}")
    if not tokens_are_there(out, text, run.corpus):
        make_tokens(run, text, out / BESIDE)
    write_run(out / BESIDE, run)


def tokens_are_there(out: Path, text: Text, corpus: Corpus) -> bool:
    """Whether what lies in `out` are the tokens of this text, as asked for, and whole."""
    try:
        found = read_description(out)
        load_tokenizer(out)
    except ValueError:
        return False
    return (found.text_sha256, found.tokenizer, found.asked_for) == (
        text.sha256,
        corpus.tokenizer,
        asked_for(corpus),
    ) and tokens_are_whole(out, found)


def asked_for(corpus: Corpus) -> int:
    """The size of vocabulary that was asked for; 0 where the text or GPT-2 decides."""
    return corpus.vocab_size if corpus.tokenizer == "bpe" else 0


def make_tokens(run: Run, text: Text, folder: Path) -> None:
    """Make the tokenizer and the tokens of a text."""
    from mingpt.bpe import BPETokenizer

    folder.mkdir(parents=True, exist_ok=True)
    if run.corpus.tokenizer == "char":
        tokenizer = alphabet(read_pieces(text.files))
        encode = char_encoder(tokenizer)
    else:
        tokenizer = (
            BPETokenizer.from_pretrained("gpt2")
            if run.corpus.tokenizer == "gpt2"
            else BPETokenizer.train(read_pieces(text.files), run.corpus.vocab_size)
        )
        tokenizer.save(folder)
        encode = tokenizer.encode_ordinary
    count, tokens_sha256 = write_tokens(folder, text, encode, tokenizer.vocab_size)
    if not count:
        raise ValueError(f"{run.text}: the text is empty")
    characters = getattr(tokenizer, "characters", "")
    write_description(
        folder,
        Description(
            run.text,
            text.sha256,
            run.corpus.tokenizer,
            asked_for(run.corpus),
            tokenizer.vocab_size,
            characters,
            tokenizer_sha256(folder, characters),
            count,
            tokens_sha256,
        ),
    )


def tokenizer_sha256(folder: Path, characters: str) -> str:
    """By what a tokenizer is known again: its characters, or the files of a BPE."""
    return fingerprint(characters or [folder / "vocab.json", folder / "merges.txt"])


def load_tokenizer(folder: Path):
    """The tokenizer in a folder. ValueError if there is none, or it is not the one that made the tokens."""
    from mingpt.bpe import BPETokenizer
    from mingpt.char import CharTokenizer

    found = read_description(folder)
    if tokenizer_sha256(folder, found.characters) != found.tokenizer_sha256:
        what = "corpus.json" if found.characters else "vocab.json, merges.txt"
        raise ValueError(f"{folder}: the tokenizer ({what}) is not the one that was trained with; train again")
    if found.tokenizer == "char":
        return CharTokenizer(found.characters)
    return BPETokenizer.from_files(folder / "vocab.json", folder / "merges.txt")


def check_resumed(path: str, run: Run, out: Path) -> None:
    """ValueError unless `out` has the tokens of its run, and the text at `path`, if one is given, is that of the run.

    Tokens that are lost are made again, if the text is still there.
    """
    found, text = read_description(out), None
    if path:
        text = find_text(path, run.corpus.pattern, out)
        if text.sha256 != found.text_sha256:
            raise ValueError(
                f"{path}: not the text of the run in {out}, its content differs; leave it out to go on with the run, "
                "or give another --out"
            )
    tokenizer = load_tokenizer(out)
    if tokens_are_whole(out, found):
        return
    text = text or find_text(found.source, run.corpus.pattern, out)
    if text.sha256 != found.text_sha256:
        raise ValueError(
            f"{out / 'tokens.bin'}: damaged or lost, and {found.source} is not the text any more of which it was; give "
            "that text, or train again"
        )
    encode = char_encoder(tokenizer) if found.characters else tokenizer.encode_ordinary
    write_tokens(out, text, encode, found.vocab_size)
    if not tokens_are_whole(out, found):
        raise ValueError(f"{out}: the same text gives other tokens than before; train again")


def split(count: int, held_out: float, block_size: int) -> int:
    """Where the text held out begins, in tokens.

    ValueError if either part is shorter than a window and the token after it.
    """
    border, window = round(count * (1 - held_out)), block_size + 1
    if count < 2 * window:
        raise ValueError(
            f"the text has {count:,} tokens, and two windows of --block_size {block_size}, one to train on and one "
            f"held out, take {2 * window:,}: they are fewer; give more text"
            + (f", or a --block_size of at most {count // 2 - 1}" if count >= 4 else "")
        )
    if min(border, count - border) < window:
        part = "held out" if count - border < window else "to train on"
        raise ValueError(
            f"the text has {count:,} tokens; with --held_out {held_out}, those {part} are "
            f"{min(border, count - border):,}, which are fewer than one window of --block_size {block_size} and the "
            f"token after it; take a --held_out of about {max(0.05, min(0.5, 1.2 * window / count)):.2g}, a smaller "
            "--block_size, or more text"
        )
    return border


# ----------------------------------------------------------------------------------------------------------------------
# Training


def train(asked: Run, args, out: Path) -> None:
    """Read, train, draw the losses, and write a sample. `args` has the flags that were given."""
    device = asked.training.device
    with own_folder(out):
        with if_stopped(f"no further step was done, and nothing in {out} is lost"), beside_if_first(out):
            with first_process_first(device):
                pick_dtype(asked.training.dtype, pick_device(device))
                goes_on = asked.training.resume and has_run(out, args.path)
                run = resumed_run(out, args) if goes_on else asked
                if is_first_process():
                    check_resumed(args.path, run, out) if goes_on else prepare(run, out)
            trainer = make_trainer(
                run, out
            )  # in which processes meet: none is left behind reading what is renamed below
            if goes_on:
                trainer.load_checkpoint()
            with first_process_first(device):
                # Up to here nothing has changed in the folder, and from here on nothing about the run can be refused.
                if is_first_process():
                    write_run(out, run) if goes_on else replace(out)
        for windows in (trainer.batches.dataset, trainer.eval_batches.dataset):
            windows.path = out / "tokens.bin"
        trainer.run()
        if math.isnan(trainer.eval_loss):  # it had been finished before
            trainer.eval_loss = trainer.evaluate()
        if is_first_process():
            print(f"Loss on the text held out: {trainer.eval_loss:.4f} nats a token")
            with if_stopped(f"the model in {out} is complete; run.py sample --out {out} lets it write"):
                plot_losses(out)
                write(run.sampling, out, pick_device(run.training.device), run.training.seed)


@contextmanager
def if_stopped(message: str):
    """What a signal that comes while the body runs has the user told."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.status - 128, message) from None


def beside_if_first(out: Path):
    """The folder for what a new run needs, which the first process makes, and removes."""
    return prepared_beside(out) if is_first_process() else nullcontext()


def has_run(out: Path, path: str) -> bool:
    """Whether a folder has a run to resume, or what is left of one.

    ValueError where there is no text to start one either.
    """
    found = any((out / name).exists() for name in ("config.json", "corpus.json", "checkpoint.pt"))
    if not found and not path:
        raise ValueError(f"{out}: there is no run here to resume; run.py train TEXT --out {out} starts one")
    return found


def make_trainer(run: Run, out: Path):
    """The trainer of a run, whose tokens are in `out` or still prepared beside. ValueError for all that cannot be."""
    from mingpt.model import GPT
    from mingpt.trainer import Trainer

    place = out / BESIDE if (out / BESIDE / "corpus.json").is_file() else out
    corpus, tokenizer = read_description(place), load_tokenizer(place)
    encode_prompt(run.sampling.prompt, tokenizer)  # rather fail now than after the training
    config, training = model_config(run.model, corpus.vocab_size), run.training
    border = split(corpus.tokens, run.corpus.held_out, config.block_size)
    tokens = place / "tokens.bin"
    training_set = Windows(tokens, config.vocab_size, 0, border, config.block_size, training.seed)
    held_out = Windows(tokens, config.vocab_size, border, corpus.tokens, config.block_size)
    held_out.count = min(held_out.count, training.eval_windows)

    set_seed(training.seed)
    model = GPT(config)
    if is_first_process():
        print(
            f"{corpus.tokens:,} tokens of a vocabulary of {config.vocab_size:,}, {corpus.tokens - border:,} of them "
            f"held out; {model.num_parameters():,} parameters; a step reads "
            f"{training.batch_size * config.block_size:,} tokens"
        )
    return Trainer(
        *trainer_configs(training),
        model,
        training_set,
        held_out,
        out,
        extra={"model": asdict(config), "held_out": run.corpus.held_out},
        inputs=corpus.inputs,
    )


def encode_prompt(prompt: str, tokenizer) -> list[int]:
    """Its tokens. Unless there is one, a line end; where the text has none, the first character of the vocabulary."""
    characters = getattr(tokenizer, "characters", "\n")  # a byte-level tokenizer has every character
    try:
        return tokenizer.encode(prompt or ("\n" if "\n" in characters else characters[0]))
    except ValueError as error:
        raise ValueError(f"--prompt: {error}") from None


def plot_losses(out: Path) -> None:
    """loss.png: the loss of each step, and that on the text held out, from metrics.jsonl."""
    import json

    import numpy as np

    from mingpt.support.plotting import COLORS, figure

    lines = [json.loads(line) for line in read_text(out / "metrics.jsonl").splitlines()]
    steps = [(line["iter"], line["loss"]) for line in lines if "loss" in line]
    held_out = [(line["iter"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    if not steps:  # somebody has removed the file of a finished run
        return
    with figure(out / "loss.png") as axes:
        x, y = np.array(steps).T
        window = max(1, min(50, len(y) // 20))
        smooth = np.convolve(y, np.ones(window) / window, mode="valid")
        axes.plot(x, y, color=COLORS["sky"], alpha=0.35, lw=0.8, label="each step")
        axes.plot(x[window - 1 :], smooth, color=COLORS["blue"], label=f"mean of {window} steps")
        if held_out:
            axes.plot(*np.array(held_out).T, "o-", color=COLORS["orange"], label="text held out")
        axes.set(title="Training on text", xlabel="step", ylabel="loss (nats per token)")
        axes.legend()


# ----------------------------------------------------------------------------------------------------------------------
# Writing


def sample(sampling: Sampling, out: Path, device_name: str, seed: int) -> None:
    """Let the model in a folder write."""
    device = pick_device(device_name)
    if not out.is_dir():
        raise ValueError(f"{out}: nothing has been trained here; run.py train TEXT --out {out} does")
    with own_folder(out), if_stopped(f"nothing was written, and the model in {out} is as it was"):
        finish_replacing(out)
        write(sampling, out, device, seed)


def write(sampling: Sampling, out: Path, device, seed: int) -> None:
    """Print texts that the trained model writes, and keep them in sample.txt."""
    import torch

    model, tokenizer = load_model(out)
    prompt = encode_prompt(sampling.prompt, tokenizer)
    model.to(device)
    generator = torch.Generator(device=device).manual_seed(seed)
    texts = model.generate(
        [prompt] * sampling.samples,
        sampling.max_new_tokens,
        temperature=sampling.temperature or 1.0,
        do_sample=sampling.temperature > 0,
        top_k=sampling.top_k or None,
        top_p=sampling.top_p,
        generator=generator,
    )
    shown = "\n\n----\n\n".join(tokenizer.decode(tokens) for tokens in texts)
    print(f"\n{shown}\n")
    write_text(out / "sample.txt", shown + "\n")
    print(f"Written to {out / 'sample.txt'}")


def load_model(out: Path):
    """The model and the tokenizer in a folder. ValueError if something is missing, damaged, or of another run."""
    from mingpt.model import GPT

    path = out / "checkpoint.pt"
    if not path.exists():
        begun = (
            "the run here has not come to its first checkpoint; run.py train --resume"
            if (out / "config.json").exists()
            else "nothing has been trained here; run.py train TEXT"
        )
        raise ValueError(f"{out}: {begun} --out {out} does")
    corpus, tokenizer, saved = read_description(out), load_tokenizer(out), load_torch(path)
    config = model_config(read_run(out).model, corpus.vocab_size)
    if not isinstance(saved, dict) or not all(
        isinstance(saved.get(name), dict) for name in ("model", "extra", "inputs")
    ):
        raise ValueError(f"{path}: not a checkpoint of this version; train again")
    if not same(saved["inputs"], {name: fingerprint(value) for name, value in corpus.inputs.items()}):
        raise ValueError(f"{out}: checkpoint.pt and tokens.bin come from different texts; train again")
    if not same(without_former_fields(saved["extra"].get("model")), asdict(config)):
        raise ValueError(f"{path} is of another model than config.json; train again")
    model = GPT(config)
    expected = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    if {
        name: (getattr(value, "shape", None), getattr(value, "dtype", None)) for name, value in saved["model"].items()
    } != expected:
        raise ValueError(f"{path} does not have the parameters of the model in config.json; train again")
    model.load_state_dict(saved["model"])
    return model, tokenizer


def same(first, second) -> bool:
    """Whether two values are equal, of any types; those of a file may be anything."""
    try:
        return fingerprint(first) == fingerprint(second)
    except (TypeError, RecursionError):
        return False


def main() -> None:
    """Read the command line; train or sample."""
    parser = Parser(description=__doc__)
    parser.add_argument("command", nargs="?", default="train", choices=["train", "sample"])
    parser.add_argument("path", nargs="?", default="", help="text file or folder to train on")
    parser.add_argument("--out", default="out/chargpt", metavar="DIR", help="folder for everything that is written")
    parser.add_argument("--quick", action="store_true", help="a tiny model for seconds; learns next to nothing")
    for config in (Corpus, Model, Training, Sampling):
        parser.add_config(config)
    args = parser.parse_args()
    with one_line_errors():
        if args.command == "sample":
            if args.path:
                raise ValueError(f"sample takes no text ({args.path}); --out is the folder that was trained in")
            training = config_from_args(Training, args)
            return sample(config_from_args(Sampling, args), Path(args.out), training.device, training.seed)
        asked = run_from_args(args)
        if not args.path and not asked.training.resume and is_first_process():
            print(
                f"No text given: this takes the source code in {ROOT / 'mingpt'}. For your own: run.py train "
                "FILE_OR_FOLDER"
            )
        train(asked, args, Path(args.out))


if __name__ == "__main__":
    main()
