"""The steps of the study: pretrain, finetune, and the parameter files that pass between them."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mingpt.char import CharTokenizer
from mingpt.model import GPT, GPTConfig
from mingpt.support.checkpoints import fingerprint, load_torch, save_torch
from mingpt.support.config import config_from_dict
from mingpt.support.devices import set_seed
from mingpt.support.files import short_name
from mingpt.support.processes import is_first_process
from mingpt.trainer import Trainer, TrainerConfig
from projects.birthplace.dataset import documents_of
from projects.birthplace.recipes import BLOCK_SIZE, Phase, Recipe, build_model

FORMAT = "birthplace parameters 1"
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Settings:
    """What is the same for every step of a run."""

    variant: str
    recipe: Recipe
    seed: int = 0
    bottleneck_dim: int = 0  # of a perceiver; 0: 32 for a fresh one, and what it is for one that is read
    device: str = "auto"
    dtype: str = "auto"
    resume: bool = False
    checkpoint_interval: int = 500


def new_model(settings: Settings, tokenizer: CharTokenizer) -> GPT:
    """A model with fresh parameters, drawn by the seed."""
    set_seed(settings.seed)
    return build_model(settings.variant, tokenizer.vocab_size, settings.recipe, settings.bottleneck_dim or 32)


def trainer_config(settings: Settings, phase: Phase) -> TrainerConfig:
    """The phase's, with what the settings say. ValueError for what no run can have."""
    return replace(
        phase.trainer,
        seed=settings.seed,
        device=settings.device,
        dtype=settings.dtype,
        checkpoint_interval=settings.checkpoint_interval,
    )


def train(
    settings: Settings,
    phase: Phase,
    model: GPT,
    tokenizer: CharTokenizer,
    dataset,
    out_dir: str | os.PathLike,
    inputs: dict | None = None,
) -> list[float]:
    """Train `model` in place; metrics.jsonl and checkpoint.pt go to `out_dir`.

    Returns the loss of each step, those before a resumption included (in the first of several processes). A resumption
    with other documents, pairs or starting parameters is refused, or with other `inputs`, which are what else decides
    a run.
    """
    trainer = Trainer(
        trainer_config(settings, phase),
        phase.optim,
        model,
        dataset,
        out_dir=out_dir,
        extra={"variant": settings.variant, "model": asdict(model.config), "vocabulary": tokenizer.characters},
        inputs={**dataset.inputs, "starting parameters": model.state_dict(), **(inputs or {})},
    )
    trainer.run(resume=settings.resume)
    return read_losses(Path(out_dir) / "metrics.jsonl", trainer.max_iters) if is_first_process() else []


def read_losses(path: Path, steps: int) -> list[float]:
    """The loss of each step of a run.

    ValueError if somebody has changed the file, or removed it before a resumption.
    """
    try:
        losses = [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: not the losses that the run wrote ({error}); start anew, without --resume") from None
    if len(losses) != steps or not all(isinstance(loss, float) for loss in losses):
        raise ValueError(f"{path}: losses of {len(losses)} of {steps} steps; start anew, without --resume")
    return losses


def save_parameters(
    path: str | os.PathLike, settings: Settings, model: GPT, tokenizer: CharTokenizer, corpus: str = ""
) -> None:
    """Write the model, with all that is needed to read it, atomically. Of several processes, the first writes.

    By the text of the corpus, if it is given, `analyze` knows whether it is looking at the documents that were read.
    """
    if is_first_process():
        save_torch(
            path,
            {
                "format": FORMAT,
                "variant": settings.variant,
                "vocabulary": tokenizer.characters,
                "config": asdict(model.config),
                "bottleneck_dim": getattr(model, "bottleneck_dim", 0),
                "corpus": fingerprint(documents_of(corpus)) if corpus else "",
                "model": model.state_dict(),
            },
        )


def load_parameters(path: str | os.PathLike, settings: Settings, tokenizer: CharTokenizer) -> GPT:
    """The model that `save_parameters` wrote. ValueError if it is of another variant or another corpus."""
    return model_from(load_torch(path), path, settings, tokenizer)


def model_from(saved, path: str | os.PathLike, settings: Settings, tokenizer: CharTokenizer) -> GPT:
    """The model of what a file of parameters holds. ValueError, which begins with `path`, as for `load_parameters`."""
    kinds = {"format": str, "variant": str, "vocabulary": str, "config": dict, "model": dict, "bottleneck_dim": int}
    if (
        not isinstance(saved, dict)
        or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items())
        or isinstance(saved["bottleneck_dim"], bool)
        or saved["format"] != FORMAT
        or not all(isinstance(name, str) for name in [*saved["config"], *saved["model"]])
    ):
        raise ValueError(f"{path}: not written by `run.py pretrain` or `run.py finetune`")
    if saved["variant"] != settings.variant:
        raise ValueError(f"{path}: parameters of variant {short_name(saved['variant'])}, not {settings.variant}")
    if saved["vocabulary"] != tokenizer.characters:
        raise ValueError(
            f"{path}: parameters for another vocabulary ({len(saved['vocabulary'])} characters, the corpus "
            f"has {tokenizer.vocab_size}); give the corpus that the model was pretrained on"
        )
    if settings.bottleneck_dim not in (0, saved["bottleneck_dim"]) and settings.variant == "perceiver":
        raise ValueError(
            f"{path}: a perceiver of bottleneck_dim {saved['bottleneck_dim']}, not {settings.bottleneck_dim}"
        )
    try:
        config = config_from_dict(GPTConfig, saved["config"], "its config")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if missing := asdict(config).keys() - saved["config"].keys():  # a default would be another model
        raise ValueError(f"{path}: its config has no {min(missing)}")
    for name, expected in (("vocab_size", tokenizer.vocab_size), ("block_size", BLOCK_SIZE)):
        if getattr(config, name) != expected:
            raise ValueError(f"{path}: {name} is {getattr(config, name)}, and must be {expected} here")
    if config.n_layer > len(saved["model"]):  # before so many layers are made
        raise ValueError(f"{path}: n_layer is {config.n_layer}, but it has {len(saved['model'])} tensors in all")
    recipe = replace(
        settings.recipe,
        model={k: v for k, v in asdict(config).items() if k not in ("vocab_size", "block_size", "positions")},
    )
    try:
        with torch.device("meta"):  # shapes without memory
            expected = build_model(settings.variant, tokenizer.vocab_size, recipe, saved["bottleneck_dim"]).state_dict()
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{path}: not the shape of a model ({short_name(str(error).splitlines()[0])})") from None
    check_weights(saved["model"], expected, path)
    model = build_model(settings.variant, tokenizer.vocab_size, recipe, saved["bottleneck_dim"])
    model.load_state_dict(saved["model"])
    return model


def check_weights(weights: dict, expected: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Raise ValueError unless the weights are finite tensors of the expected names and shapes.

    The message begins with `path`.
    """
    for name in sorted({*weights, *expected}):
        if name not in weights:
            raise ValueError(f"{path}: has no {name}, which a model of its shape has")
        if name not in expected:
            raise ValueError(f"{path}: has {short_name(name)}, which a model of its shape has not")
        value = weights[name]
        if not torch.is_tensor(value) or value.dtype not in REAL or value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{path}: {name} is no tensor of real numbers")
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name} has the shape {tuple(value.shape)}, and must have {tuple(expected[name].shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} has values that are not finite")


def with_rate(phase: Phase, rate: float | None, max_epochs: int | None = None) -> Phase:
    """The phase with AdamW's peak rate set to `rate` (Muon's changes in proportion) and another length."""
    if rate is not None:
        factor = rate / phase.optim.learning_rate
        phase = replace(
            phase,
            optim=replace(phase.optim, learning_rate=rate, muon_learning_rate=phase.optim.muon_learning_rate * factor),
        )
    if max_epochs is not None:
        phase = replace(phase, trainer=replace(phase.trainer, max_epochs=max_epochs, max_iters=0))
    return phase
