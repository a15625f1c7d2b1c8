"""The training loop: batches, gradient, step; and what a run that takes an hour needs around it.

    trainer = Trainer(TrainerConfig(max_iters=1000), OptimConfig(), model, dataset, out_dir="out/run")
    trainer.add_callback("on_batch_end", lambda trainer: print(trainer.iter_num, trainer.loss))
    trainer.run()

The same script runs in several processes with `torchrun --nproc_per_node N script.py`.
"""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from mingpt import fast
from mingpt.batches import Batches
from mingpt.fast.memory import keep_freed_memory
from mingpt.optim import OptimConfig, make_optimizers, rate_factor
from mingpt.support.checkpoints import fingerprint, load_torch, save_torch
from mingpt.support.command import Stopped, StopRequest
from mingpt.support.config import without_former_fields
from mingpt.support.devices import pick_dtype, progress_options
from mingpt.support.files import append_line, own_folder, read_text, remove_own, write_text
from mingpt.support.processes import join_processes, lost_processes_named, process_count, process_rank


@dataclass(frozen=True)
class TrainerConfig:
    """How long to train, on what, and what to write down. Sizes count all processes together."""

    max_iters: Annotated[int, "steps to train for; 0: as many as max_epochs take"] = 0
    max_epochs: Annotated[int, "passes over the data; 0: as many as max_iters are"] = 0
    batch_size: Annotated[int, "examples in a step; 0: use batch_tokens"] = 64
    batch_tokens: Annotated[int, "tokens in a step, examples of similar length together; 0: use batch_size"] = 0
    accumulate: Annotated[int, "parts in which a step's gradient is computed, to save memory"] = 1
    eval_interval: Annotated[int, "steps between evaluations; 0: only at the end"] = 0
    checkpoint_interval: Annotated[int, "steps between checkpoints; 0: only at the end"] = 0
    log_interval: Annotated[int, "steps between lines of metrics.jsonl"] = 1
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps"] = "auto"
    dtype: Annotated[str, "auto, float32, bfloat16 or float16, for matrix products"] = "auto"
    compile: Annotated[bool, "torch.compile the model"] = False
    seed: Annotated[int, "decides the order of the data and the dropout"] = 0

    def __post_init__(self):
        if (self.max_iters > 0) == (self.max_epochs > 0):
            raise ValueError(
                f"max_iters is {self.max_iters} and max_epochs {self.max_epochs}; exactly one of them must be "
                "positive, and the other 0"
            )
        if (self.batch_size > 0) == (self.batch_tokens > 0):
            raise ValueError(
                f"batch_size is {self.batch_size} and batch_tokens {self.batch_tokens}; exactly one of them must "
                "be positive, and the other 0"
            )
        for name in ("accumulate", "log_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("eval_interval", "checkpoint_interval", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


# May change between a run and its resumption; the number of steps only to a larger one. The numbers then agree to
# rounding; with another device, or another number of parts or processes, the draws of dropout differ too.
FREE_TO_CHANGE = {
    "max_iters",
    "max_epochs",
    "accumulate",
    "eval_interval",
    "checkpoint_interval",
    "log_interval",
    "device",
    "compile",
    "dtype",
}


class Trainer:
    """Trains a model whose forward is `model(x, y) -> (logits, loss)`.

    config, optim   what to do; see their classes
    model           moved to the device, trained in place
    dataset         what to train on; see `Batches`
    eval_dataset    what to measure the loss on, at each eval_interval and at the end
    out_dir         for metrics.jsonl (one JSON object a line) and checkpoint.pt; None writes nothing
    extra           plain values to keep in the checkpoint, e.g. the model's config and its vocabulary
    inputs          name -> what this run was given: {"corpus": text, "starting parameters": Path("a.params")}. Their
                    fingerprints are kept in the checkpoint, and a run with other inputs does not resume from it

    Callbacks get the trainer, and find in it `iter_num` (steps done), `epoch` (a float), `loss` (a float, nats per
    target), `rate` (share of the peak learning rate), `grad_norm`, `eval_loss`, `tokens_per_second`, and `model`.

    The randomness of step i (batch order, random examples, dropout) is a function of the seed, i, and the process. So a
    resumed run repeats an unbroken one, whatever callbacks draw in between, and no generator's state needs saving.
    Several processes give the losses of one, to rounding, as long as the model itself draws nothing.
    """

    def __init__(
        self,
        config: TrainerConfig,
        optim: OptimConfig,
        model: nn.Module,
        dataset,
        eval_dataset=None,
        out_dir: str | os.PathLike | None = None,
        extra: dict | None = None,
        inputs: dict | None = None,
    ):
        self.config, self.optim, self.extra = config, optim, extra or {}
        self.inputs = {name: fingerprint(value) for name, value in (inputs or {}).items()}
        self.rank, self.world = process_rank(), process_count()
        self.device = join_processes(config.device)
        self.out_dir = Path(out_dir) if out_dir is not None else None
        if self.device.type == "cpu" and fast.on():
            keep_freed_memory()
        self.dtype = pick_dtype(config.dtype, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        self.model = model.to(self.device)
        self.optimizers = make_optimizers(self.model, optim)
        self.batches = Batches(dataset, config.batch_size, config.batch_tokens, config.seed)
        self.eval_batches = None
        if eval_dataset is not None:
            # It may be the dataset that is trained on, or share parts with it: `evaluate` sets its epoch, and then
            # back.
            self.eval_batches = Batches(eval_dataset, config.batch_size, config.batch_tokens, config.seed)
        self.max_iters = config.max_iters or config.max_epochs * len(self.batches)

        trained = torch.compile(self.model) if config.compile else self.model
        self._trained = trained
        if self.world > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            with lost_processes_named():
                self._trained = DistributedDataParallel(trained, device_ids=devices)
            self._trained.broadcast_buffers = False  # they are constants: no need to exchange them at each step
        self._callbacks: dict[str, list[Callable]] = defaultdict(list)
        self.iter_num, self.loss, self.grad_norm, self.eval_loss = 0, math.nan, math.nan, math.nan
        self.rate, self.tokens_per_second = math.nan, math.nan

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.iter_num / len(self.batches)

    def add_callback(self, event: str, function: Callable[["Trainer"], None]) -> None:
        """Call `function(trainer)` at each "on_batch_end", "on_eval" (after an evaluation) or "on_end"."""
        if event not in ("on_batch_end", "on_eval", "on_end"):
            raise ValueError(f"there is no event {event!r}; there are on_batch_end, on_eval and on_end")
        self._callbacks[event].append(function)

    # ------------------------------------------------------------------------------------------------------------------
    # A step

    def step(self) -> int:
        """One update of the parameters with batch number `iter_num`. Returns how many tokens this process read.

        The batch comes in one part, unless its gradient is accumulated from several to save memory.
        """
        self._seed_step()
        self._trained.train()
        parts, targets = self._next_batch()
        self._set_learning_rates()
        total = torch.zeros((), device=self.device)
        for i, (x, y) in enumerate(parts):
            with self._exchange(last=i == len(parts) - 1):
                loss = self._forward(x, y) * count_targets(y)  # a sum over targets; `targets` makes it a mean
                self._backward(loss, targets)
            total += loss.detach()
        self._clip()
        self._update()
        self.loss = self._sum(float(total)) / max(1, targets)
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"the loss is {self.loss} at step {self.iter_num}; lower the learning rate")
        return sum(x.numel() for x, _ in parts)

    def _seed_step(self) -> None:
        """Make the dropout of this step a function of the seed, the step and the process."""
        torch.manual_seed(((self.config.seed * 1_000_003 + self.iter_num) * 1_000_003 + self.rank) % 2**63)

    def _next_batch(self) -> tuple[list[tuple], int]:
        """This process's parts (x, y) of batch number `iter_num`, and how many targets all processes' parts have.

        Each process and each part of an accumulated step takes its share of the same batch. The mean is over all
        targets of the batch, so that the shares, however uneven, add up to the gradient of the whole.
        """
        n, count = self.config.accumulate, self.world * self.config.accumulate
        parts = [self.batches.part(self.iter_num, self.rank + self.world * i, count) for i in range(n)]
        return parts, self._sum(sum(count_targets(y) for _, y in parts))

    def _set_learning_rates(self) -> None:
        """Each group of parameters has a peak of its own, and all follow the same schedule."""
        self.rate = rate_factor(self.optim, self.iter_num, self.max_iters)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.rate

    def _forward(self, x, y, model=None) -> torch.Tensor:
        """The mean loss over the targets of (x, y), with matrix products in the configured dtype."""
        x, y = x.to(self.device), y.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            _, loss = (model or self._trained)(x, y)
        return loss

    def _backward(self, loss: torch.Tensor, targets: int) -> None:
        """Add the gradient of this part's share in the mean loss; in float16 enlarged, lest it underflow."""
        # DistributedDataParallel averages over processes; their number turns the average into a sum.
        self.scaler.scale(loss * self.world / max(1, targets)).backward()

    def _exchange(self, last: bool):
        """Several processes exchange gradients once a step, with its last part."""
        return nullcontext() if self.world == 1 or last else self._trained.no_sync()

    def _clip(self) -> None:
        """Scale the gradient down to the norm `grad_clip`, if it is larger. FloatingPointError if it is not finite."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        limit = self.optim.grad_clip or math.inf
        self.grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if not math.isfinite(self.grad_norm) and not self.scaler.is_enabled():
            raise FloatingPointError(
                f"the gradient is {self.grad_norm} at step {self.iter_num}; lower the learning rate"
            )

    def _update(self) -> None:
        """Let each optimizer step, and clear the gradient.

        In float16 the gradient may have overflowed: then the step is skipped, and `scaler` enlarges less from now on.
        """
        for optimizer in self.optimizers:
            if math.isfinite(self.grad_norm):
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()

    # ------------------------------------------------------------------------------------------------------------------
    # The loop

    @lost_processes_named()
    def run(self, resume: bool = False) -> None:
        """Train to the end, and leave the model in evaluation mode.

        With `resume`, go on from the checkpoint in out_dir, if there is one; without, from where this trainer is. That
        is the start unless `load_checkpoint` was called, and a start deletes the checkpoint there and begins
        metrics.jsonl anew.

        Ctrl-C and SIGTERM end it after the step at hand, with a checkpoint, by `Stopped`, a KeyboardInterrupt.
        ValueError if another process is writing to out_dir.
        """
        with ExitStack() as stack:
            if self.out_dir is not None:
                stack.enter_context(own_folder(self.out_dir))
            self._stop = stack.enter_context(StopRequest())
            if resume:
                self.load_checkpoint()
            self._start_files()
            self._steps()

    def _steps(self) -> None:
        bar = tqdm(
            total=self.max_iters, initial=self.iter_num, unit="step", disable=self.rank > 0, **progress_options()
        )
        with bar:
            while self.iter_num < self.max_iters:
                self._timed_step()
                self.iter_num += 1
                bar.set_postfix_str(
                    f"epoch {self.epoch:.1f}, loss {self.loss:.3f}, {self.tokens_per_second:,.0f} tokens/s",
                    refresh=False,
                )
                bar.update()
                self._after_step(last=self.iter_num == self.max_iters)
                if stop := self._asked_to_stop():
                    self._stop_here(stop)
        self.model.eval()
        self._trigger("on_end")
        if self.world > 1:
            dist.barrier()  # nobody leaves while the first process is still writing

    def _asked_to_stop(self) -> int:
        """The number of the signal that asked this run, in any of its processes, to stop; 0 if none did."""
        if self.world == 1:
            return self._stop.signal
        # Signals reach the processes at different steps, and all have to leave at the same one.
        numbers = torch.tensor(self._stop.signal, device=self.device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def _stop_here(self, number: int) -> None:
        """Keep what has been done, and raise."""
        if self.out_dir is None:
            raise Stopped(number, f"step {self.iter_num} of {self.max_iters} was done, and nothing is kept of it")
        self.save_checkpoint()
        if self.world > 1:
            dist.barrier()  # the others would end the first process while it is writing
        raise Stopped(
            number,
            f"the first {self.iter_num} of {self.max_iters} steps are kept in {self.out_dir}, and the same "
            "command with --resume goes on from there",
        )

    @torch.no_grad()
    def evaluate(self, batches: Batches | None = None) -> float:
        """Mean loss over one epoch of `batches`, or of the eval dataset; the same draws each time."""
        batches = self.eval_batches if batches is None else batches
        self.model.eval()
        batches.set_epoch_again()
        total, count = 0.0, 0
        for step in range(len(batches)):
            x, y = batches.part(step, self.rank, self.world)
            targets = count_targets(y)
            total, count = total + float(self._forward(x, y, self.model)) * targets, count + targets
        self.batches.set_epoch_again()
        return self._sum(total) / max(1, self._sum(count))

    # ------------------------------------------------------------------------------------------------------------------
    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write checkpoint.pt: weights, optimizers, step, configs and `extra`."""
        if self.rank == 0 and self.out_dir is not None:
            save_torch(
                self.out_dir / "checkpoint.pt",
                {
                    "model": self.model.state_dict(),
                    "optimizers": [o.state_dict() for o in self.optimizers],
                    "scaler": self.scaler.state_dict(),
                    "iter_num": self.iter_num,
                    "max_iters": self.max_iters,
                    "config": asdict(self.config),
                    "optim": asdict(self.optim),
                    "extra": self.extra,
                    "inputs": self.inputs,
                },
            )

    def load_checkpoint(self) -> None:
        """Take up checkpoint.pt, if there is one. ValueError where it is damaged, or of another run.

        A run may become longer: with more steps than the checkpoint's run was to have, it goes on from there under the
        learning-rate schedule of the longer one, and says so.
        """
        path = None if self.out_dir is None else self.out_dir / "checkpoint.pt"
        found = path is not None and path.exists()
        if self._sum(found) not in (0, self.world):
            raise ValueError(
                f"{path}: only some processes find it; the folder must be on a disk that all of them share"
            )
        if not found:
            return
        saved = load_torch(path)
        kinds = {
            "model": dict,
            "optimizers": list,
            "scaler": dict,
            "iter_num": int,
            "max_iters": int,
            "config": dict,
            "optim": dict,
            "extra": dict,
            "inputs": dict,
        }
        if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()):
            raise ValueError(f"{path}: not a checkpoint of this version; use another folder")
        if changed := self._differences(saved):
            raise ValueError(f"{path} is of another run ({'; '.join(changed)}); use the old settings or another folder")
        if not 0 < saved["iter_num"] <= saved["max_iters"] or len(saved["optimizers"]) != len(self.optimizers):
            raise ValueError(f"{path}: not a checkpoint of this run; use another folder")
        try:
            for name, value in self.model.state_dict().items():
                if name in saved["model"] and saved["model"][name].dtype != value.dtype:  # torch would convert it
                    raise ValueError(f"{name} is {saved['model'][name].dtype} and not {value.dtype}")
            self.model.load_state_dict(saved["model"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"]):
                _take_up(optimizer, state)
            if saved["scaler"]:  # empty after a run in another dtype than float16
                self.scaler.load_state_dict(saved["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = str(error).strip().split("\n")[-1].strip()
            raise ValueError(f"{path} is of another model ({reason}); use the old settings or another folder") from None
        self.iter_num = saved["iter_num"]
        if self.max_iters > saved["max_iters"] and self.rank == 0:
            before = rate_factor(self.optim, self.iter_num - 1, saved["max_iters"])
            print(
                f"The run was to have {saved['max_iters']} steps, and goes on from step {self.iter_num} to "
                f"{self.max_iters}; the learning rate, by then at {before:.2g} of its peak, goes on at "
                f"{rate_factor(self.optim, self.iter_num, self.max_iters):.2g} of it"
            )

    def _differences(self, saved: dict) -> list[str]:
        """In what a checkpoint's run differs from this one: settings, `extra` and inputs."""
        now = {**asdict(self.config), **asdict(self.optim)}
        changed = [
            f"{name} was {value!r} and is {now.get(name)!r}"
            for name, value in {**saved["config"], **saved["optim"]}.items()
            if name not in FREE_TO_CHANGE and _differ(now.get(name), value)
        ]
        if self.max_iters < saved["max_iters"]:
            changed.append(f"it had {saved['max_iters']} steps and now has {self.max_iters}")
        changed += [
            f"{name} differs"
            for name in {**saved["extra"], **self.extra}
            if _differ(without_former_fields(saved["extra"].get(name)), self.extra.get(name))
        ]
        changed += [
            f"the content of {name} differs"
            for name in {**saved["inputs"], **self.inputs}
            if _differ(saved["inputs"].get(name), self.inputs.get(name))
        ]
        return changed

    # ------------------------------------------------------------------------------------------------------------------

    def _timed_step(self) -> None:
        start = time.perf_counter()
        tokens = self.step() * self.world
        self.tokens_per_second = tokens / (time.perf_counter() - start)

    def _after_step(self, last: bool) -> None:
        """What happens between steps: evaluation, metrics, callbacks, checkpoint."""
        config = self.config
        if self.eval_batches is not None and (last or _due(self.iter_num, config.eval_interval)):
            self.eval_loss = self.evaluate()
            self._write_metrics(eval_loss=self.eval_loss)
            self._trigger("on_eval")
        if last or _due(self.iter_num, config.log_interval):
            self._write_metrics(
                loss=self.loss,
                rate=self.rate,
                grad_norm=self.grad_norm if math.isfinite(self.grad_norm) else None,
                tokens_per_second=round(self.tokens_per_second),
            )
        self._trigger("on_batch_end")
        if last or _due(self.iter_num, config.checkpoint_interval):
            self.save_checkpoint()

    def _trigger(self, event: str) -> None:
        for function in self._callbacks[event]:
            function(self)

    def _sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()

    def _start_files(self) -> None:
        """Begin metrics.jsonl, or drop its lines from after the checkpoint, whose steps will be taken again.

        A new run removes an old checkpoint: if it were killed before its first own one, it would resume as the old run.
        """
        if self.rank > 0 or self.out_dir is None:
            return
        path = self.out_dir / "metrics.jsonl"
        if self.iter_num == 0:
            remove_own(self.out_dir / "checkpoint.pt")
        write_text(path, _lines_until(path, self.iter_num) if self.iter_num and path.exists() else "")

    def _write_metrics(self, **values) -> None:
        if self.rank > 0 or self.out_dir is None:
            return
        line = json.dumps({"iter": self.iter_num, "epoch": round(self.epoch, 4), **values})
        append_line(self.out_dir / "metrics.jsonl", line)


def count_targets(y: torch.Tensor) -> int:
    """How many targets there are in y; -1 is none."""
    return int((y != -1).sum())


def _lines_until(path: Path, step: int) -> str:
    """The lines of metrics.jsonl up to a step, without one that a kill cut short: that does not end in a newline."""
    kept = []
    for number, line in enumerate(read_text(path).splitlines(keepends=True), 1):
        try:
            if line.endswith("\n") and json.loads(line)["iter"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path}:{number}: not a line of metrics; remove it") from None
    return "".join(kept)


def _differ(first, second) -> bool:
    """Whether two values are not equal, of any types: those of a file may be anything."""
    try:
        return bool(first != second)
    except (RuntimeError, TypeError, ValueError):  # of a tensor with several elements; or nested without end
        return True


def _take_up(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load an optimizer's state. ValueError where what it holds does not fit the parameters: torch does not look."""
    optimizer.load_state_dict(state)
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if not torch.is_tensor(value) or value.numel() != 1 and value.shape != parameter.shape:
                raise ValueError(
                    f"its optimizer has {name} {tuple(getattr(value, 'shape', ()))} for a parameter of shape "
                    f"{tuple(parameter.shape)}"
                )
    lay_out_as_parameters(optimizer)


def lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Let what an optimizer holds lie in memory as the parameters do.

    torch's fused AdamW reads both from front to back, whatever their strides. The moments of a transposed view, saved
    and loaded for a contiguous parameter, would belong to other weights.
    """
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
