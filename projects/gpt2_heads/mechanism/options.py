"""The flags of the studies of the mechanism."""

from dataclasses import dataclass
from typing import Annotated

MOST = 1_000_000  # of anything that is counted: more would not end
STUDY_NAMES = ("scores", "diagonal", "subspace", "shuffle", "project", "paths", "doubts")


@dataclass(frozen=True)
class MechanismOptions:
    """What the experiments on the mechanism understand."""

    length: Annotated[int, "random tokens in a segment, which is read twice"] = 20
    batch_size: Annotated[int, "sequences that every edited model is tried on"] = 32
    top: Annotated[int, "at most so many induction heads, and previous-token heads, are studied"] = 10
    permutations: Annotated[int, "independent permutations for each number of heads"] = 20
    dtype: Annotated[str, "number format in which shuffle and project run edited models: float32, bfloat16, auto"] = (
        "float32"
    )
    derangements: Annotated[bool, "only permutations that leave no head in its place"] = True
    random_subspaces: Annotated[int, "random subspaces to compare with, for each rank"] = 5

    def __post_init__(self):
        for field, least in (
            ("length", 5),
            ("batch_size", 5),
            ("top", 1),
            ("permutations", 1),
            ("random_subspaces", 1),
        ):
            if getattr(self, field) < least:
                raise ValueError(f"--{field} is {getattr(self, field)}; it must be at least {least}")
            if getattr(self, field) > MOST:
                raise ValueError(f"--{field} is {getattr(self, field)}; it must be at most {MOST:,}")


@dataclass(frozen=True)
class AllOptions:
    """What only `all` understands."""

    seeds: Annotated[
        int, "how many times over, with seeds from --seed on; the small model is trained anew for each"
    ] = 1

    def __post_init__(self):
        if not 1 <= self.seeds <= MOST:
            raise ValueError(f"--seeds is {self.seeds}; it must be from 1 to {MOST:,}")
