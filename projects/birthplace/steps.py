"""The steps of the study: pretrain, finetune, and the parameter files that pass between them."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mingpt.char import CharTokenizer
from mingpt.checkpoints import load_torch, save_torch
from mingpt.config import config_from_dict
from mingpt.model import GPT, GPTConfig
from mingpt.processes import is_first_process
from mingpt.trainer import Trainer
from mingpt.utils import set_seed
from projects.birthplace.recipes import Phase, Recipe, build_model

FORMAT = "birthplace parameters 1"


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


def train(settings: Settings, phase: Phase, model: GPT, tokenizer: CharTokenizer, dataset,
          out_dir: str | os.PathLike) -> list[float]:
    """Train `model` in place; metrics.jsonl and checkpoint.pt go to `out_dir`.

    Returns the loss of each step, those before a resumption included (in the first of several processes). A resumption
    with other documents, pairs or starting parameters is refused.
    """
    config = replace(phase.trainer, seed=settings.seed, device=settings.device, dtype=settings.dtype,
                     checkpoint_interval=settings.checkpoint_interval)
    trainer = Trainer(config, phase.optim, model, dataset, out_dir=out_dir,
                      extra={"variant": settings.variant, "model": asdict(model.config),
                             "vocabulary": tokenizer.characters},
                      inputs={**dataset.inputs, "starting parameters": model.state_dict()})
    trainer.run(resume=settings.resume)
    if not is_first_process():
        return []
    lines = (Path(out_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def save_parameters(path: str | os.PathLike, settings: Settings, model: GPT, tokenizer: CharTokenizer) -> None:
    """Write the model, with all that is needed to read it, atomically. Of several processes, the first writes."""
    if is_first_process():
        save_torch(path, {"format": FORMAT, "variant": settings.variant, "vocabulary": tokenizer.characters,
                          "config": asdict(model.config), "bottleneck_dim": getattr(model, "bottleneck_dim", 0),
                          "model": model.state_dict()})


def load_parameters(path: str | os.PathLike, settings: Settings, tokenizer: CharTokenizer) -> GPT:
    """The model that `save_parameters` wrote. ValueError if it is of another variant or another corpus."""
    return model_from(load_torch(path), path, settings, tokenizer)


def model_from(saved, path: str | os.PathLike, settings: Settings, tokenizer: CharTokenizer) -> GPT:
    """The model of what a file of parameters holds. ValueError, which begins with `path`, as for `load_parameters`."""
    kinds = {"format": str, "variant": str, "vocabulary": str, "config": dict, "model": dict, "bottleneck_dim": int}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()) or \
            saved["format"] != FORMAT or not all(isinstance(name, str) for name in [*saved["config"], *saved["model"]]):
        raise ValueError(f"{path}: not written by `run.py pretrain` or `run.py finetune`")
    if saved["variant"] != settings.variant:
        raise ValueError(f"{path}: parameters of variant {saved['variant']}, not {settings.variant}")
    if saved["vocabulary"] != tokenizer.characters:
        raise ValueError(f"{path}: parameters for another vocabulary ({len(saved['vocabulary'])} characters, the corpus "
                         f"has {tokenizer.vocab_size}); give the corpus that the model was pretrained on")
    if settings.bottleneck_dim not in (0, saved["bottleneck_dim"]) and settings.variant == "perceiver":
        raise ValueError(f"{path}: a perceiver of bottleneck_dim {saved['bottleneck_dim']}, not {settings.bottleneck_dim}")
    config = config_from_dict(GPTConfig, saved["config"], str(path))
    recipe = replace(settings.recipe, model={k: v for k, v in asdict(config).items()
                                             if k not in ("vocab_size", "block_size", "positions")})
    model = build_model(settings.variant, tokenizer.vocab_size, recipe, saved["bottleneck_dim"])
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        raise ValueError(f"{path}: {str(error).splitlines()[1].strip()}") from None
    return model


def with_rate(phase: Phase, rate: float | None, max_epochs: int | None = None) -> Phase:
    """The phase with AdamW's peak rate set to `rate` (Muon's changes in proportion) and another length."""
    if rate is not None:
        factor = rate / phase.optim.learning_rate
        phase = replace(phase, optim=replace(phase.optim, learning_rate=rate,
                                             muon_learning_rate=phase.optim.muon_learning_rate * factor))
    if max_epochs is not None:
        phase = replace(phase, trainer=replace(phase.trainer, max_epochs=max_epochs, max_iters=0))
    return phase
