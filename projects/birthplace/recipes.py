"""How the models of this study are shaped and trained: a recipe for each purpose, all of its numbers in one place."""

from dataclasses import dataclass, field, replace

from mingpt.char import CharTokenizer
from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.trainer import TrainerConfig
from projects.birthplace.dataset import CharCorruptionDataset, MixedDataset, NameDataset, SalientCorruptionDataset
from projects.birthplace.variants import make_variant

BLOCK_SIZE = 128


@dataclass(frozen=True)
class Phase:
    """One training run: how long and on what sizes, and how the parameters are updated."""

    trainer: TrainerConfig
    optim: OptimConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a result, besides the data and the seed.

    salient        share of pretraining examples that ask for a capitalised word of the document
    recall         share that do so after little more than the name; without both: random gaps, as in the assignment
    shift          train learned positions on sequences that begin anywhere, not only at position 0
    mixed          share of documents among the examples of finetuning after pretraining
    scratch        finetuning without pretraining, for comparison
    """

    pretrain: Phase
    finetune: Phase
    scratch: Phase
    salient: float = 0.0
    recall: float = 0.0
    shift: bool = False
    mixed: float = 0.0
    model: dict = field(default_factory=dict)  # fields of GPTConfig other than vocabulary, block size and positions


# The assignment's model, 3.3 million parameters.
SHAPE = dict(n_layer=4, n_head=8, n_embd=256)


def _handout() -> Recipe:
    """The assignment's own settings: hours on a CPU.

    Its cosine is meant to fall for the tokens of 200 epochs of wiki.txt, and has no end: over 650 epochs of pretraining
    the rate climbs back to its full value at epoch 400, and falls again. Here it falls to a tenth and stays there.
    """
    fall = 200 * 2937 / 2000  # in epochs of the 2,000 questions: the handout counts the tokens of wiki.txt there too
    adamw = OptimConfig(
        optimizer="adamw",
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        grad_clip=1.0,
        schedule="cosine",
        warmup_iters=1,
        min_lr_ratio=0.1,
    )
    return Recipe(
        pretrain=Phase(
            TrainerConfig(max_epochs=650, batch_size=128), replace(adamw, learning_rate=6e-3, decay_fraction=200 / 650)
        ),
        finetune=Phase(
            TrainerConfig(max_epochs=10, batch_size=256), replace(adamw, learning_rate=6e-4, decay_fraction=fall / 10)
        ),
        scratch=Phase(
            TrainerConfig(max_epochs=75, batch_size=256), replace(adamw, learning_rate=6e-4, decay_fraction=fall / 75)
        ),
        model=dict(SHAPE, dropout=0.1, tie_weights=False),
    )


MUON = OptimConfig(
    optimizer="muon", learning_rate=3e-3, muon_learning_rate=0.02, weight_decay=0.0, schedule="linear", warmup_iters=20
)
# A third and a quarter of the rates of pretraining. A tenth of these is too little: the answers come out as " in
# Berlin".
GENTLE = replace(MUON, learning_rate=1e-3, muon_learning_rate=5e-3, warmup_iters=0)


def _salient() -> Recipe:
    """Ours for the assignment's files: see the README for what each part contributes."""
    return Recipe(
        pretrain=Phase(
            TrainerConfig(max_epochs=90, batch_size=0, batch_tokens=4096), MUON
        ),  # as many as fit into the tokens
        finetune=Phase(TrainerConfig(max_epochs=5, batch_size=88), GENTLE),  # 64 questions and 24 documents, on average
        scratch=Phase(
            TrainerConfig(max_epochs=10, batch_size=64), replace(MUON, learning_rate=3e-4, muon_learning_rate=2e-3)
        ),
        salient=0.1,
        recall=0.8,
        shift=True,
        mixed=24 / 88,
        model=dict(SHAPE, qk_norm=True),
    )


def _world() -> Recipe:
    """Ours for the embedded world.

    Two layers suffice, and leave time to read everything 30 times in a minute or two.
    """
    return Recipe(
        pretrain=Phase(TrainerConfig(max_epochs=30, batch_size=0, batch_tokens=2048), MUON),
        finetune=Phase(TrainerConfig(max_epochs=20, batch_size=32), GENTLE),
        scratch=Phase(TrainerConfig(max_epochs=20, batch_size=16), replace(GENTLE, muon_learning_rate=3e-3)),
        salient=0.1,
        recall=0.7,
        shift=True,
        mixed=0.4,
        model=dict(n_layer=2, n_head=8, n_embd=256, qk_norm=True),
    )


def _quick() -> Recipe:
    """A look at every step in seconds; learns next to nothing."""
    phase = Phase(TrainerConfig(max_iters=12, batch_size=16), MUON)
    return Recipe(
        phase, phase, phase, salient=0.1, recall=0.8, shift=True, mixed=0.25, model=dict(n_layer=2, n_head=4, n_embd=64)
    )


RECIPES = {"salient": _salient, "world": _world, "handout": _handout, "quick": _quick}


def get_recipe(name: str) -> Recipe:
    """A recipe by its name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


# ----------------------------------------------------------------------------------------------------------------------


def build_model(variant: str, vocab_size: int, recipe: Recipe, bottleneck_dim: int = 32) -> GPT:
    """A fresh model of one of the VARIANTS."""
    config = GPTConfig(vocab_size=vocab_size, block_size=BLOCK_SIZE, **recipe.model)
    return make_variant(variant, config, recipe.shift, bottleneck_dim)


def pretraining_data(recipe: Recipe, corpus: str, tokenizer: CharTokenizer, seed: int, source: str):
    """The corrupted documents that the recipe pretrains on."""
    if recipe.salient or recipe.recall:
        return SalientCorruptionDataset(
            corpus, tokenizer, BLOCK_SIZE, seed, source, salient=recipe.salient, recall=recipe.recall
        )
    return CharCorruptionDataset(corpus, tokenizer, BLOCK_SIZE, seed, source)


def finetuning_data(
    recipe: Recipe,
    pairs: str,
    corpus: str,
    tokenizer: CharTokenizer,
    seed: int,
    pretrained: bool,
    source: str,
    corpus_source: str,
):
    """The questions, with documents among them if the recipe wants that and the model has read them before."""
    questions = NameDataset(pairs, tokenizer, BLOCK_SIZE, source)
    if not (pretrained and recipe.mixed):
        return questions
    # A seed of its own: pretraining has seen the draws of `seed`.
    documents = pretraining_data(recipe, corpus, tokenizer, seed + 1_000_000, corpus_source)
    return MixedDataset(questions, documents, recipe.mixed, seed)
