"""One HTML file that shows where the heads of a model look: everything inside, nothing fetched."""

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.interpret.hooks import record
from mingpt.support.files import write_text

TEMPLATE = Path(__file__).with_name("page.html")
THUMB = 48  # most pixels along a side of a small pattern


@torch.no_grad()
def patterns_of(model: nn.Module, idx: Sequence[int]) -> dict[str, Tensor]:
    """Name of a layer -> its pattern (H, T, T) on the tokens `idx`, for any model with a `HookPoint` called pattern."""
    places = [name for name, _ in model.named_modules() if name.split(".")[-1] == "pattern"]
    if not places:
        raise ValueError(f"{type(model).__name__} has no hook point called pattern, so there is no attention to show")
    model.eval()
    with record(model, places) as seen:
        model(torch.tensor([list(idx)], device=next(model.parameters()).device))
    return {_layer_name(name): pattern[0].float().cpu() for name, pattern in seen.items()}


def _layer_name(place: str) -> str:
    """ "h.3.attn.pattern" -> "layer 3", "attention.pattern" -> "attention"."""
    number = re.fullmatch(r"h\.(\d+)\.attn\.pattern", place)
    return f"layer {number[1]}" if number else place.removesuffix(".pattern")


def refuse_other_file(path: Path) -> None:
    """ValueError if there is a file at `path` that is no page of ours: a page replaces nothing else."""
    if path.is_dir():
        raise ValueError(f"--html {path}: is a folder; give the path of a file")
    head = TEMPLATE.read_text(encoding="utf-8").partition("{{")[0]
    if path.is_file() and path.stat().st_size and not path.read_bytes().startswith(head.encode()):
        raise ValueError(
            f"--html {path}: this file is there, and is not a page that this program wrote; give another name"
        )


def write_page(
    path,
    title: str,
    subtitle: str,
    tokens: Sequence[str],
    patterns: Mapping[str, Tensor],
    scores: Mapping[str, list[list[float]]] | None = None,
    scores_note: str = "",
    layer: int = 0,
    head: int = 0,
) -> int:
    """Write the page; returns its size in bytes.

    tokens    what the chips show, T of them; any text is safe
    patterns  name of a layer -> its attention pattern (H, T, T), lower triangular, rows summing to 1; H may differ
    scores    name of a score -> a number for each layer and head, shown as captions; scores_note says what they mean
    layer, head  chosen at first

    A pattern is stored as the bytes round(255 w) of its lower triangle, compressed: 12 x 12 heads at 1,000 tokens are
    72 million bytes, most of them 0. Weights below 1/510 are lost. ValueError where shapes do not fit together.
    """
    T = len(tokens)
    for name, pattern in patterns.items():
        if pattern.ndim != 3 or pattern.shape[1:] != (T, T):
            raise ValueError(
                f"the pattern of {name} is {tuple(pattern.shape)}; with {T} tokens it must be (heads, {T}, {T})"
            )
    S = min(T, THUMB)
    scores = scores or {}
    data = {
        "tokens": list(tokens),
        "layer": layer,
        "head": head,
        "thumb_size": S,
        "layers": [
            {"name": name, "heads": len(pattern), "weights": _pack(_triangle(pattern))}
            for name, pattern in patterns.items()
        ],
        # The largest weight of each block, so that thin stripes stay visible.
        "thumbs": _pack(
            np.concatenate([_bytes(F.adaptive_max_pool2d(pattern, S)).ravel() for pattern in patterns.values()])
        ),
        "scores": {name: [[round(float(x), 4) for x in row] for row in table] for name, table in scores.items()},
        "scores_note": scores_note,
    }
    # In a script element only "<" can end the element early; as an escape it is the same JSON.
    parts = {
        "title": html.escape(title),
        "subtitle": html.escape(subtitle),
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_text(path, page)
    return len(page.encode("utf-8"))


def _bytes(weights: Tensor) -> np.ndarray:
    """Weights in [0, 1] as bytes."""
    return (weights * 255).round().clamp(0, 255).byte().cpu().numpy()


def _triangle(pattern: Tensor) -> np.ndarray:
    """(H, T, T) -> the lower triangles, row by row, one head after the other: H * T * (T + 1) / 2 bytes."""
    rows, columns = np.tril_indices(pattern.size(-1))
    return _bytes(pattern)[:, rows, columns].ravel()


def _pack(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode("ascii")
