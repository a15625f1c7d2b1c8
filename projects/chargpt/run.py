"""Train a GPT on any text, and let it go on writing.

    python projects/chargpt/run.py                           on this project's own source code: a few minutes
    python projects/chargpt/run.py train book.txt            on a file; or a folder, with --pattern "*.md"
    python projects/chargpt/run.py train book.txt --resume   go on after a kill
    python projects/chargpt/run.py sample --prompt "Once"    write, with what has been trained last

    python projects/chargpt/run.py train big.txt --tokenizer bpe --vocab_size 8192 --preset gpt-mini
    torchrun --nproc_per_node 8 projects/chargpt/run.py train big.txt --preset gpt2 --batch_size 480 --accumulate 5

Text and tokens are read from the disk as they are needed, so a corpus may be larger than memory.
"""

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever else is installed

from mingpt.checkpoints import load_torch
from mingpt.command import one_line_errors
from mingpt.config import Parser, config_from_args, config_from_dict, config_to_dict
from mingpt.files import write_json, write_text
from mingpt.processes import first_process_first, is_first_process
from mingpt.utils import pick_device, set_seed
from projects.chargpt.corpus import read_description

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {"laptop": dict(n_layer=4, n_head=4, n_embd=128)}  # besides those of mingpt.model
# What else a preset gpt2... means, unless a flag says otherwise: GPT-2's tokens, context and positions, and the usual rates.
GPT2 = {"Corpus": dict(tokenizer="gpt2"), "Model": dict(block_size=1024, positions="learned"),
        "Training": dict(optimizer="adamw", learning_rate=6e-4, weight_decay=0.1, warmup_iters=700)}


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
        if self.eval_windows < 1:
            raise ValueError(f"--eval_windows is {self.eval_windows}; it must be at least 1")


@dataclass(frozen=True)
class Sampling:
    """How it writes."""

    prompt: Annotated[str, "what to go on from; a line end unless given"] = ""
    max_new_tokens: Annotated[int, "tokens to write"] = 500
    temperature: Annotated[float, "below 1 plays safe, above 1 is bold"] = 0.8
    top_k: Annotated[int, "choose among so many tokens; 0: all"] = 0
    top_p: Annotated[float, "choose among the likeliest tokens that together have this probability"] = 1.0
    samples: Annotated[int, "texts to write"] = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"--samples is {self.samples}; it must be at least 1")


# ----------------------------------------------------------------------------------------------------------------------


def prepare(path: str, corpus: Corpus, out: Path):
    """The tokenizer, and the number of tokens in out/tokens.bin, which are made unless they are there already."""
    from mingpt.bpe import BPETokenizer
    from projects.chargpt.corpus import alphabet, char_encoder, describe, find_files, read_pieces, write_tokens

    files = find_files(path or ROOT / "mingpt", corpus.pattern if path else "*.py")
    if not path and is_first_process():
        print(f"No text given: this takes the source code in {ROOT / 'mingpt'}. For your own: run.py train FILE_OR_FOLDER")
    wanted = {"tokenizer": corpus.tokenizer, "asked_for": corpus.vocab_size if corpus.tokenizer == "bpe" else 0}
    found = read_description(out)
    if not (found and found["files"] == describe(files) and all(found.get(name) == value for name, value in wanted.items())):
        if corpus.tokenizer == "char":
            tokenizer = alphabet(read_pieces(files))
            write_tokens(out, files, char_encoder(tokenizer), tokenizer.vocab_size,
                         {**wanted, "characters": tokenizer.characters})
        else:
            tokenizer = (BPETokenizer.from_pretrained("gpt2") if corpus.tokenizer == "gpt2" else
                         BPETokenizer.train(read_pieces(files), corpus.vocab_size))
            tokenizer.save(out)
            write_tokens(out, files, tokenizer.encode_ordinary, tokenizer.vocab_size, wanted)
        found = read_description(out)
    if not found["tokens"]:
        raise ValueError(f"{path}: the text is empty")
    return load_tokenizer(out), found["tokens"]


def identity(out: Path) -> dict:
    """Which text and which tokens are in a folder: what a checkpoint must agree with."""
    found = read_description(out)
    return {**{name: found[name] for name in ("tokenizer", "vocab_size", "tokens")},
            "files": [[Path(path).name, size] for path, size, _ in found["files"]]}


def load_tokenizer(out: Path):
    """The tokenizer that `prepare` left in a folder."""
    from mingpt.bpe import BPETokenizer
    from mingpt.char import CharTokenizer

    found = read_description(out)
    if found is None:
        raise ValueError(f"{out}: nothing has been trained here; run.py train TEXT --out {out} does")
    if found["tokenizer"] == "char":
        return CharTokenizer(found["characters"])
    return BPETokenizer.from_files(out / "vocab.json", out / "merges.txt")


def train(path: str, corpus: Corpus, model_options: Model, training: Training, sampling: Sampling, out: Path) -> None:
    """Read, train, draw the losses, and write a sample."""
    from mingpt.model import GPT, GPTConfig
    from mingpt.optim import OptimConfig
    from mingpt.trainer import Trainer, TrainerConfig
    from projects.chargpt.corpus import Windows

    shape = dict(block_size=model_options.block_size, dropout=model_options.dropout, positions=model_options.positions)
    with first_process_first(training.device):
        tokenizer, count = prepare(path, corpus, out)
    encode_prompt(sampling.prompt, tokenizer)  # rather fail now than after the training
    shape["vocab_size"] = tokenizer.vocab_size
    preset = PRESETS.get(model_options.preset)
    config = GPTConfig(**preset, **shape) if preset else GPTConfig.from_name(model_options.preset, **shape)
    border = round(count * (1 - corpus.held_out))
    tokens = out / "tokens.bin"
    training_set = Windows(tokens, config.vocab_size, 0, border, config.block_size, training.seed)
    held_out = Windows(tokens, config.vocab_size, border, count, config.block_size)
    held_out.count = min(held_out.count, training.eval_windows)

    set_seed(training.seed)
    model = GPT(config)
    if is_first_process():
        write_json(out / "config.json", {"model": asdict(config), "corpus": config_to_dict(corpus), "training": config_to_dict(training)})
        print(f"{count:,} tokens of a vocabulary of {config.vocab_size:,}, {count - border:,} of them held out; "
              f"{model.num_parameters():,} parameters; a step reads {training.batch_size * config.block_size:,} tokens")
    trainer = Trainer(
        TrainerConfig(max_iters=training.max_iters, batch_size=training.batch_size, accumulate=training.accumulate,
                      eval_interval=training.eval_interval, checkpoint_interval=training.checkpoint_interval,
                      device=training.device, dtype=training.dtype, compile=training.compile, seed=training.seed),
        OptimConfig(optimizer=training.optimizer, learning_rate=training.learning_rate,
                    muon_learning_rate=training.muon_learning_rate, weight_decay=training.weight_decay,
                    schedule="cosine", warmup_iters=training.warmup_iters),
        model, training_set, held_out, out, extra={"model": asdict(config), "corpus": identity(out), "held_out": corpus.held_out})
    trainer.run(resume=training.resume)
    if math.isnan(trainer.eval_loss):  # it had been finished before
        trainer.eval_loss = trainer.evaluate()
    if is_first_process():
        print(f"Loss on the text held out: {trainer.eval_loss:.4f} nats a token")
        plot_losses(out)
        write(sampling, out, training.device, training.seed)


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

    from mingpt.plotting import COLORS, figure

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(line["iter"], line["loss"]) for line in lines if "loss" in line]
    held_out = [(line["iter"], line["eval_loss"]) for line in lines if "eval_loss" in line]
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


def write(sampling: Sampling, out: Path, device: str, seed: int) -> None:
    """Print texts that the trained model writes, and keep them in sample.txt."""
    import torch

    from mingpt.model import GPT, GPTConfig

    tokenizer = load_tokenizer(out)
    prompt = encode_prompt(sampling.prompt, tokenizer)
    saved = load_torch(out / "checkpoint.pt")
    if saved["extra"].get("corpus") != identity(out):
        raise ValueError(f"{out}: the model has been trained on another text than the tokens there are of; train again")
    model = GPT(config_from_dict(GPTConfig, saved["extra"]["model"], str(out / "checkpoint.pt")))
    model.load_state_dict(saved["model"])
    model.to(pick_device(device))
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed)
    texts = model.generate([prompt] * sampling.samples, sampling.max_new_tokens, temperature=sampling.temperature, do_sample=True,
                           top_k=sampling.top_k or None, top_p=sampling.top_p, generator=generator)
    shown = "\n\n----\n\n".join(tokenizer.decode(tokens) for tokens in texts)
    print(f"\n{shown}\n")
    write_text(out / "sample.txt", shown + "\n")
    print(f"Written to {out / 'sample.txt'}")


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
        quick = dict(max_iters=20, eval_interval=10, eval_windows=16, batch_size=8) if args.quick else {}
        small = dict(preset="gpt-nano", block_size=64) if args.quick else {}
        usual = GPT2 if config_from_args(Model, args).preset.startswith("gpt2") else dict.fromkeys(GPT2, {})
        corpus = config_from_args(Corpus, args, **usual["Corpus"])
        model = config_from_args(Model, args, **{**usual["Model"], **small})
        training = config_from_args(Training, args, **{**usual["Training"], **quick})
        sampling = config_from_args(Sampling, args)
        if args.command == "sample":
            if args.path:
                raise ValueError(f"sample takes no text ({args.path}); --out is the folder that was trained in")
            return write(sampling, Path(args.out), training.device, training.seed)
        train(args.path, corpus, model, training, sampling, Path(args.out))


if __name__ == "__main__":
    main()
