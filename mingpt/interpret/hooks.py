"""Read and change what passes through a model, by the name of the place.

    from mingpt.interpret.hooks import patch, record

    with torch.no_grad(), record(model, "h.*.attn.pattern") as seen:
        model(idx)
    seen["h.3.attn.pattern"]                            # (B, H, T, S): where each head of layer 3 looks
    seen.stack("h.*.attn.pattern")                      # (n_layer, B, H, T, S)

    with patch(model, {"h.3.attn.head_out": lambda x: x * keep}):  # keep: (H, 1, 1), 0 for the heads to silence
        logits, _ = model(idx)

A place is a module, and what passes is its output. Where a formula has no module at the place of interest, the model
puts a `HookPoint` there, an identity; hooks are PyTorch's own forward hooks. Any nn.Module works. The places of a GPT:

    h.3.resid_pre  .resid_mid  .resid_post   the residual before, between and after layer 3's two parts, (B, T, C)
    h.3.attn.q  .k  .v                       as the scores use them, after any rotation, (B, H, T, D)
    h.3.attn.scores                          q k^T / sqrt(D), and -inf where a query may not look, (B, H, T, S)
    h.3.attn.pattern                         softmax of the scores, (B, H, T, S)
    h.3.attn.head_out                        pattern times v: each head's output before c_proj, (B, H, T, D)
    h.3.mlp.hidden                           after the activation, (B, T, 4 C)
    h.3.attn  h.3.mlp                        what attention and MLP add to the residual, (B, T, C)
    wte  wpe  drop  h.3.ln_1  ...            and every other module of the model, by its own name

Names are paths of modules, from which a leading "transformer." may be left out. `*`, `?` and `[0-5]` stand for parts of
a name between two dots: "h.*.attn.q" is layer by layer, "h.*" the blocks alone.

What is not hooked costs nothing to speak of: attention keeps its fused kernel unless scores or a pattern are asked
for. In generation with a cache, a step passes its new tokens only: T = 1, and S grows.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn


class HookPoint(nn.Identity):
    """An identity, put where something worth seeing passes, for `record` and `patch` to find by name.

    Forward hooks are called, and no others.
    """

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) if self._forward_hooks else x  # a module's call costs more than a small layer norm

    @property
    def in_use(self) -> bool:
        """Whether anything is hooked here. A model may ask, and compute what is only to be seen if it is seen."""
        return bool(self._forward_hooks)


def add_hook_points(module: nn.Module, *names: str) -> None:
    """Give `module` a HookPoint for each name: `self.name = HookPoint()`, only faster to reach.

    Submodules are found by a search in Python, which at a dozen hook points a layer would take a tenth of a small
    model's time for one token. A plain attribute of the same name is found first.
    """
    for name in names:
        module.add_module(name, HookPoint())
        object.__setattr__(module, name, module.get_submodule(name))


class Record(dict):
    """Name -> what passed there in the latest call of the model, or the list of all calls with `every_call`."""

    def stack(self, pattern: str) -> Tensor:
        """All that `pattern` names, in the order of the model, stacked along a new first dimension."""
        found = [value for name, value in self.items() if _matches(pattern, name)]
        if not found or isinstance(found[0], list):
            self._complain(pattern, "are lists, one tensor a call: stack those yourself" if found else "")
        return torch.stack(found)

    def __missing__(self, name):
        self._complain(name, "")

    def _complain(self, name: str, reason: str):
        reason = reason or "was not recorded: it was not asked for, or the model was not called, or only compiled"
        raise ValueError(f"{name!r} {reason}; recorded are {', '.join(self) or 'none'}")


@contextmanager
def record(model: nn.Module, names: str | Iterable[str], every_call: bool = False, must_pass: bool = True):
    """While the context lasts, keep what passes at `names` (wild cards allowed) in the `Record` that it yields.

    Each call of the model replaces what the last one left, unless `every_call`: then each name holds a list, to which
    every call appends (one tensor for each step of a generation). Tensors are kept as they are: on their device, and in
    the graph unless under no_grad. Of several hooks at one place those entered first come first, so a `record` inside
    a `patch` sees what the patch made.

    Raises ValueError for a name that fits no module, with the nearest ones, and at the end of the context if a call of
    the
    model passed by one of the names: compiled code does, without hooks. `must_pass=False` permits it.
    """
    seen = Record()

    def keeper(name):
        def keep(module, args, output):
            if every_call:
                seen.setdefault(name, []).append(output)
            else:
                seen[name] = output

        return keep

    with _hooked(model, {name: keeper(name) for name in find(model, names)}, must_pass):
        yield seen


@contextmanager
def patch(model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]], must_pass: bool = True):
    """While the context lasts, what passes at each name is replaced by `changes[name]` of it.

    The functions get a copy, which they may change in place, and return a tensor of the same shape. Names may have wild
    cards; where two fit one place, both functions are applied, in the order of `changes`.

    Raises ValueError for a name that fits no module; when the model is called, for a result of another shape; and at
    the end
    of the context if a call of the model passed by one of the names, so that nothing was changed there: compiled code
    does
    that. `must_pass=False` permits it.
    """

    def changer(name, change):
        def replace(module, args, output):
            if not isinstance(output, Tensor):
                raise ValueError(f"what passes at {name} is no tensor ({type(output).__name__}) and cannot be patched")
            new = change(output.clone())
            if not isinstance(new, Tensor) or new.shape != output.shape:
                got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ValueError(f"the patch of {name} returned {got}; it must return {tuple(output.shape)}")
            return new

        return replace

    with ExitStack() as stack:
        for pattern, change in changes.items():
            stack.enter_context(
                _hooked(model, {name: changer(name, change) for name in find(model, pattern)}, must_pass)
            )
        yield


def find(model: nn.Module, names: str | Iterable[str]) -> list[str]:
    """The names of the modules that fit any of `names`, each once, in the order of the model.

    Raises ValueError for a name that fits none, with the nearest ones, and for a compiled model, whose code was made
    without hooks.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise ValueError("hooks do not reach inside a compiled model; use the one that was not compiled")
    names = [names] if isinstance(names, str) else list(names)
    places, chosen = _places(model), set()
    for pattern in names:
        fitting = [place for place in places if _matches(pattern, place)]
        if not fitting:
            # A wild card is compared with names in which the layer numbers are wild cards too.
            known = {re.sub(r"\.\d+\b", ".*", place) if "*" in pattern else place: None for place in places}
            nearest = difflib.get_close_matches(_short(pattern), known, n=4, cutoff=0.0)
            raise ValueError(f"nothing in the model is called {pattern!r}; the nearest are {', '.join(nearest)}")
        chosen.update(fitting)
    return [place for place in places if place in chosen]


def _places(model: nn.Module) -> dict[str, nn.Module]:
    """name -> module, without lists and dictionaries of modules: nothing passes there."""
    return {
        _short(path): module
        for path, module in model.named_modules()
        if path and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    }


def _short(path: str) -> str:
    return path.removeprefix("transformer.")


def _matches(pattern: str, name: str) -> bool:
    patterns, parts = _short(pattern).split("."), name.split(".")
    return len(patterns) == len(parts) and all(map(fnmatchcase, parts, patterns))


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Callable], must_pass: bool):
    """Put each hook on the module of its name, and take them off however the body ends.

    ValueError at the end, if the body raised nothing, where a call of the model had not come to every hook. The model's
    own hooks tell of its calls, even of those by way of a compiled copy.
    """
    places, due, missed = _places(model), set(), {}

    def begin(module, args):
        due.update(hooks)

    def end(module, args, output):
        missed.update(dict.fromkeys(name for name in hooks if name in due))

    def arriving(name, hook):
        def arrive(module, args, output):
            due.discard(name)
            return hook(module, args, output)

        return arrive

    with ExitStack() as stack:
        for name, hook in hooks.items():
            stack.callback(places[name].register_forward_hook(arriving(name, hook)).remove)
        stack.callback(model.register_forward_pre_hook(begin).remove)
        stack.callback(model.register_forward_hook(end).remove)
        yield
    if missed and must_pass:
        raise ValueError(
            f"the model was called, and nothing came to the hooks at {', '.join(missed)}: hooks do not reach into "
            "compiled code, nor to what a call leaves out; use the model that was not compiled, or say "
            "must_pass=False"
        )
