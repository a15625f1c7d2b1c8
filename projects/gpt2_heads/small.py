"""A GPT-2-shaped model small enough to train in a minute, in which induction heads form.

Its language is random words that repeat: a segment of words drawn at random, over and over. In the first copy nobody
can know what comes next. From the second on it can be known: find where this word stood before, and say what followed
it there. The circuit that does so needs two layers: a previous-token head writes to each position which word stood
before it, and an induction head looks for the position where the present word is written down (Olsson et al. 2022,
"In-context learning and induction heads").
"""

import difflib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.support.checkpoints import load_torch, save_torch
from mingpt.support.devices import set_seed
from mingpt.trainer import Trainer, TrainerConfig
from projects.gpt2_heads.scores import repeat_losses, score_heads

WORDS = """
apple bear bell bird boat book bread bridge candle cat chair cheese clock cloud corn crown desk dog door drum
fire fish flag forest fox garden gate glass goat gold grass hammer hat honey horse house island key king knife
ladder lake lamp leaf lemon lion map moon mouse oak ocean onion owl paper pear rain ring river road rose
salt snow star wolf
""".split()
SEGMENT = "fox river lamp bread king snow bell map onion gate star horse"
TEXT = " ".join([SEGMENT] * 3)
FORMAT = "gpt2_heads small model 1"


class WordTokenizer:
    """A token is one of the `WORDS`; spaces separate them."""

    def __init__(self):
        self.index = {word: i for i, word in enumerate(WORDS)}
        self.vocab_size = len(WORDS)

    def encode(self, text: str) -> list[int]:
        """The ids of the words. ValueError names the first that is not in the vocabulary, and the nearest that are."""
        words = text.lower().split()
        unknown = next((word for word in words if word not in self.index), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, WORDS, 3, 0.0)
            raise ValueError(
                f"the small model knows {len(WORDS)} words, and {unknown!r} is not among them (near it: "
                f"{', '.join(near)}); --model gpt2 reads any text"
            )
        return [self.index[word] for word in words]

    def label(self, token: int) -> str:
        """A token as text."""
        return WORDS[token]


@dataclass(frozen=True)
class Recipe:
    """Every number of the training. Lengths are in tokens.

    shortest, longest   a segment's length is drawn between them, for each example: with a fixed length the model would
                        learn how far back to look, instead of what to look for
    """

    model: GPTConfig
    trainer: TrainerConfig
    optim: OptimConfig
    shortest: int
    longest: int


# Tied embeddings are GPT-2's way, but then the circuit forms much later. (A likely reason: with one table for reading
# and
# writing, a position's own word starts with the largest logit.)
RECIPE = Recipe(
    model=GPTConfig(vocab_size=len(WORDS), block_size=64, n_layer=3, n_head=4, n_embd=64, tie_weights=False),
    trainer=TrainerConfig(max_iters=900, batch_size=32, dtype="float32", device="cpu", log_interval=50),
    optim=OptimConfig(learning_rate=3e-3, weight_decay=0.01, beta2=0.98, schedule="constant", warmup_iters=50),
    shortest=8,
    longest=32,
)
QUICK = replace(
    RECIPE,
    model=replace(RECIPE.model, n_layer=2, n_head=2, n_embd=32),
    trainer=replace(RECIPE.trainer, max_iters=10, batch_size=8),
)


class RepeatedWords:
    """Example i of an epoch: if i is even a segment of random words over and over; if odd twice, then another twice.

    x and y are (T,) int64, y is x one later. All words of an example's segments differ: one that had stood in two would
    have two continuations. The even examples get the circuit going: that words come again is quickly learned. The odd
    ones need it everywhere: where there are many copies, it would do to know the previous words in the first.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.epoch = recipe, 0

    def __len__(self) -> int:
        return 64 * self.recipe.trainer.batch_size  # an epoch is only a unit of bookkeeping: all examples are new

    def set_epoch(self, epoch: int) -> None:
        """Examples are a function of the seed, the epoch and i."""
        self.epoch = epoch

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        rng, T = np.random.default_rng((self.recipe.trainer.seed, self.epoch, i)), self.recipe.model.block_size
        words = rng.permutation(self.recipe.model.vocab_size).tolist()
        tokens = []
        while len(tokens) <= T:
            length = rng.integers(self.recipe.shortest, self.recipe.longest + 1)
            segment, words = words[:length], words[length:]
            tokens += segment * (2 if i % 2 else T)
        tokens = torch.tensor(tokens[: T + 1])
        return tokens[:-1], tokens[1:]


def fresh_small(seed: int, recipe: Recipe) -> GPT:
    """The model before training, with larger weights than GPT-2's 0.02, which is for a width of 768."""
    set_seed(seed)
    model = GPT(recipe.model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.reset_parameters()  # PyTorch's own: uniform, standard deviation (3 fan_in)^(-1/2)
    for table in (model.transformer.wte, model.transformer.wpe):
        nn.init.normal_(table.weight, std=recipe.model.n_embd**-0.5)
    return model


def train_small(seed: int, recipe: Recipe = RECIPE) -> GPT:
    """Train a model from scratch. The same seed gives the same weights on the same machine."""
    model = fresh_small(seed, recipe)
    recipe = replace(recipe, trainer=replace(recipe.trainer, seed=seed))
    Trainer(recipe.trainer, recipe.optim, model, RepeatedWords(recipe)).run()
    return model.eval()


def report(model: GPT) -> str:
    """The best induction and previous-token head, and the losses of both copies of random segments, in a line."""
    length = model.config.block_size // 2
    best = []
    for name, table in score_heads(model, length, batch_size=64, seed=0).items():
        if name != "duplicate token":
            layer, head = divmod(int(table.argmax()), model.config.n_head)
            best.append(f"{name} {table.max():.2f} (layer {layer}, head {head})")
    first, second = repeat_losses(model, length, batch_size=64, seed=0)
    return f"best scores: {', '.join(best)}; loss {first:.2f} nats in a first copy, {second:.2f} in the second"


def small_model(folder: Path, seed: int = 0, quick: bool = False) -> GPT:
    """The trained small model, kept in `folder` from the first time on. `quick`: a tiny one, hardly trained."""
    recipe = QUICK if quick else RECIPE
    path = Path(folder) / f"{'quick' if quick else 'small'}_seed{seed}.pt"
    made_by = {"format": FORMAT, "words": WORDS, "seed": seed, **asdict(recipe)}
    if path.exists():
        saved = load_torch(path)
        if isinstance(saved, dict) and saved.get("made_by") == made_by:
            model = GPT(recipe.model)
            try:
                model.load_state_dict(saved["weights"])
            except (KeyError, TypeError, AttributeError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise ValueError(
                    f"{path}: has no weights of the small model ({reason}); delete it to have it made anew"
                ) from None
            return model.eval()
        print(f"{path} is of another recipe, and is made anew")
    print(f"training the small model, once; it will be kept as {path}")
    model = train_small(seed, recipe)
    print(report(model))
    save_torch(path, {"made_by": made_by, "weights": model.state_dict()})
    return model
