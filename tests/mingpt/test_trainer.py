"""The training loop: it learns, and it can be killed and resumed exactly. Several processes: test_scale.py."""

import functools
import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.support.checkpoints import load_torch, save_torch
from mingpt.support.command import Stopped
from mingpt.trainer import Trainer, TrainerConfig


class Sums:
    """Examples whose target is a function of the input; some targets are not to be learned, unevenly many."""

    def __init__(self, count=50, T=12, seed=0):
        self.x = torch.randint(0, 13, (count, T), generator=torch.Generator().manual_seed(seed))
        self.y = self.x.cumsum(1) % 13
        for i in range(count):
            self.y[i, : i % T] = -1

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def gpt(dropout=0.0) -> GPT:
    torch.manual_seed(1)
    return GPT(GPTConfig(vocab_size=13, block_size=12, n_layer=2, n_head=2, n_embd=32, dropout=dropout))


CONFIG = dict(max_iters=12, batch_size=8, device="cpu", dtype="float32")
OPTIM = dict(optimizer="muon", learning_rate=3e-3, warmup_iters=3)


def trainer(out_dir=None, dropout=0.0, model=None, inputs=None, **changes) -> Trainer:
    optim = OptimConfig(
        **{**OPTIM, **{k: changes.pop(k) for k in list(changes) if k in OptimConfig.__dataclass_fields__}}
    )
    return Trainer(
        TrainerConfig(**{**CONFIG, **changes}),
        optim,
        model or gpt(dropout),
        Sums(),
        Sums(20, seed=1),
        out_dir,
        inputs=inputs,
    )


def losses_of(made: Trainer, resume=False) -> list[float]:
    losses = []
    made.add_callback("on_batch_end", lambda t: losses.append(t.loss))
    made.run(resume)
    return losses


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer, dtype", [("adamw", "float32"), ("muon", "float32"), ("muon", "bfloat16")])
def test_one_batch_is_learned_by_heart(optimizer, dtype):
    made = trainer(
        max_iters=70 if optimizer == "adamw" else 50,
        optimizer=optimizer,
        learning_rate=1e-2,
        muon_learning_rate=0.06,
        dtype=dtype,
        batch_size=50,
        schedule="linear",
    )
    losses = losses_of(made)
    assert losses[0] > 2.2 and losses[-1] < 0.3


def test_losses_are_means_over_targets_and_training_is_reproducible():
    made, again = trainer(max_iters=5), trainer(max_iters=5)
    model, batches = gpt(), made.batches
    x, y = batches.part(0)
    losses = losses_of(made)
    assert losses[0] == pytest.approx(model(x, y)[1].item(), rel=1e-5)
    assert losses == losses_of(again)
    assert losses_of(trainer(max_iters=5, seed=1)) != losses


def test_accumulation_changes_nothing():
    whole, parts = losses_of(trainer()), losses_of(trainer(accumulate=4))
    assert parts == pytest.approx(whole, rel=1e-3)


def test_callbacks_do_not_disturb_the_randomness_of_training():
    calm = losses_of(trainer(dropout=0.3))
    disturbed = trainer(dropout=0.3)
    disturbed.add_callback("on_batch_end", lambda t: torch.rand(7))
    assert losses_of(disturbed) == calm


def test_evaluation_and_metrics(tmp_path):
    made = trainer(tmp_path, eval_interval=5, log_interval=4)
    seen = []
    made.add_callback("on_eval", lambda t: seen.append((t.iter_num, t.eval_loss)))
    made.run()
    lines = metrics(tmp_path)
    assert [(l["iter"], l["eval_loss"]) for l in lines if "eval_loss" in l] == seen and [i for i, _ in seen] == [
        5,
        10,
        12,
    ]
    assert [l["iter"] for l in lines if "loss" in l] == [4, 8, 12]
    x, y = torch.stack([x for x, _ in Sums(20, seed=1)][:20]), Sums(20, seed=1).y
    assert seen[-1][1] == pytest.approx(made.model.eval()(x, y)[1].item(), rel=1e-4), "the mean over all targets"


class Stop(Exception):
    pass


def stop_at(made, step):
    if made.iter_num == step:
        raise Stop


def stopping(step) -> type[Trainer]:
    """A Trainer to put into a project, which stops at the end of that step."""

    class Stopping(Trainer):
        def _after_step(self, last):
            super()._after_step(last)
            stop_at(self, step)

    return Stopping


@pytest.mark.parametrize("dropout, dtype", [(0.0, "float32"), (0.2, "float32"), (0.2, "bfloat16"), (0.0, "float16")])
def test_resume_is_exact(tmp_path, dropout, dtype):
    unbroken = trainer(tmp_path / "a", dropout, dtype=dtype)
    expected = losses_of(unbroken)

    broken = trainer(tmp_path / "b", dropout, checkpoint_interval=5, dtype=dtype)
    broken.add_callback("on_batch_end", lambda t: stop_at(t, 8))
    with pytest.raises(Stop):
        broken.run()
    resumed = trainer(tmp_path / "b", dropout, checkpoint_interval=5, dtype=dtype)
    assert losses_of(resumed, resume=True) == expected[5:]
    assert [l["loss"] for l in metrics(tmp_path / "b") if "loss" in l] == expected, "each step stands there once"
    for a, b in zip(unbroken.model.parameters(), resumed.model.parameters()):
        assert torch.equal(a, b)


def train_slowly(folder: str, pause: float) -> None:
    """What a process does until it is killed: 30 steps, each `pause` seconds longer than it takes."""
    torch.set_num_threads(1)  # a fork has no other threads
    made = trainer(Path(folder), 0.2, checkpoint_interval=3, max_iters=30)
    made.add_callback("on_batch_end", lambda t: time.sleep(pause))
    made.run(resume=True)


def test_kill_nine_and_resume(tmp_path):
    # Forked where there is such a thing: a new process takes seconds to import torch.
    processes = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")

    def start(folder, pause):
        process = processes.Process(target=train_slowly, args=(str(tmp_path / folder), pause))
        process.start()
        return process

    unbroken, run = start("whole", 0), start("killed", 0.05)
    while not (tmp_path / "killed" / "checkpoint.pt").exists() or len(metrics(tmp_path / "killed")) < 8:
        assert run.exitcode is None
        time.sleep(0.01)
    run.kill()  # SIGKILL
    run.join()
    assert 3 <= load_torch(tmp_path / "killed" / "checkpoint.pt")["iter_num"] < 30
    resumed = start("killed", 0)
    for process in (resumed, unbroken):
        process.join(120)
        assert process.exitcode == 0
    whole, killed = ([l["loss"] for l in metrics(tmp_path / name) if "loss" in l] for name in ("whole", "killed"))
    assert len(whole) == 30 and killed == whole


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(
        ValueError, match=r"is of another run \(learning_rate was 0.003 and is 0.1\); use the old settings"
    ):
        trainer(tmp_path, learning_rate=0.1).run(resume=True)
    assert losses_of(trainer(tmp_path, accumulate=2, log_interval=3), resume=True) == [], (
        "these may change; it was done"
    )
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a file of parameters that can be loaded safely"):
        trainer(tmp_path).run(resume=True)


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"model": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="loaded safely"):
        trainer(tmp_path).run(resume=True)
    assert not (tmp_path / "exploded").exists()


def test_a_diverging_run_stops_with_a_reason():
    model = gpt()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="the gradient is nan at step 0; lower the learning rate"):
        trainer(model=model).run()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gradient_that_is_not_finite_moves_no_weight(dtype):
    made = trainer(dtype=dtype, batch_size=50)
    before = [p.detach().clone() for p in made.model.parameters()]
    weight = made.model.transformer.h[0].attn.c_attn.weight  # Muon's; AdamW's gradients are finite
    weight.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    if dtype == "float32":
        with pytest.raises(FloatingPointError, match="the gradient is"):
            made.step()
    else:
        scale = made.scaler.get_scale()
        made.step()
        assert made.scaler.get_scale() < scale
    for old, new in zip(before, made.model.parameters()):
        assert torch.equal(old, new)


def test_a_new_run_forgets_the_checkpoint_of_an_old_one(tmp_path):
    trainer(tmp_path).run()
    fresh = trainer(tmp_path)
    fresh.add_callback("on_batch_end", lambda t: stop_at(t, 2))
    with pytest.raises(Stop):
        fresh.run()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_evaluating_on_the_training_set_changes_no_draw():
    class Noisy(Sums):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitem__(self, i):
            return (self.x[i] + self.epoch) % 13, self.y[i]

    def run(evaluated):
        data = Noisy()
        return losses_of(
            Trainer(
                TrainerConfig(**{**CONFIG, "max_iters": 20}, eval_interval=2),
                OptimConfig(**OPTIM),
                gpt(),
                data,
                data if evaluated else None,
            )
        )

    assert run(True) == run(False)


def test_a_finished_run_resumes_to_its_end(tmp_path):
    trainer(tmp_path).run()
    again, seen = trainer(tmp_path), []
    again.add_callback("on_end", lambda t: seen.append(t.iter_num))
    again.run(resume=True)
    assert seen == [12] and not again.model.training


def test_epochs_fix_the_number_of_steps():
    assert trainer(max_iters=0, max_epochs=3).max_iters == 3 * 7  # 50 examples, 8 at a time, the last 2 included


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(max_iters=0), "max_iters is 0 and max_epochs 0; exactly one of them must be positive"),
        (dict(max_epochs=2), "max_iters is 12 and max_epochs 2; exactly one"),
        (dict(batch_tokens=9), "batch_size is 8 and batch_tokens 9; exactly one"),
        (dict(accumulate=0), "accumulate is 0; it must be at least 1"),
        (dict(seed=-1), "seed is -1; it must not be negative"),
        (dict(device="tpu9"), "device 'tpu9' cannot be used here"),
        (dict(dtype="int8"), "dtype is 'int8'; it must be one of auto, float32"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(**changes)


def test_an_unknown_event_is_refused():
    with pytest.raises(ValueError, match="there is no event 'on_batch'; there are on_batch_end, on_eval"):
        trainer().add_callback("on_batch", print)


def test_a_resumption_may_lay_the_weights_out_otherwise(tmp_path):
    """Weights that `from_pretrained` maps are transposed views; a fresh model's are not."""

    def transposed():
        model = gpt()
        for block in model.transformer.h:
            block.mlp.c_fc.weight = torch.nn.Parameter(block.mlp.c_fc.weight.detach().T.contiguous().T)
        return model

    options = dict(optimizer="adamw", learning_rate=1e-2, checkpoint_interval=6)
    whole = trainer(model=transposed(), **options)
    whole.run()
    first = trainer(tmp_path, model=transposed(), **options)
    first.add_callback("on_batch_end", lambda t: stop_at(t, 7))
    with pytest.raises(Stop):
        first.run()
    resumed = trainer(tmp_path, **options)
    resumed.run(resume=True)
    assert resumed.iter_num == 12
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_an_evaluation_leaves_the_draws_of_training_alone():
    """Also where the dataset hands its epoch on to one that both share."""

    class Drawn(Sums):
        def __init__(self):
            super().__init__()
            self.epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x + self.epoch) % 13, y

    class Passing:
        def __init__(self, inner):
            self.inner, self.set_epoch = inner, inner.set_epoch

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, i):
            return self.inner[i]

    def losses(eval_interval):
        dataset = Passing(Drawn())
        made = Trainer(
            TrainerConfig(**CONFIG, eval_interval=eval_interval), OptimConfig(**OPTIM), gpt(), dataset, dataset
        )
        seen = losses_of(made)
        return seen, made

    without, _ = losses(0)
    with_some, made = losses(9)  # in the middle of the second epoch of 7 batches
    assert with_some == without
    before = made.evaluate()
    made.batches.part(2 * len(made.batches))  # another epoch
    assert made.evaluate() == before


def test_a_float16_run_goes_on_from_a_float32_one(tmp_path):
    trainer(tmp_path, max_iters=12, checkpoint_interval=6).run()
    resumed = trainer(tmp_path, max_iters=12, checkpoint_interval=6, dtype="float16")
    resumed.load_checkpoint()
    assert resumed.iter_num == 12 and resumed.scaler.is_enabled()


def test_a_large_seed_is_a_seed():
    assert losses_of(trainer(seed=20240101)) == losses_of(trainer(seed=20240101)) != losses_of(trainer(seed=20240102))


def test_what_is_no_checkpoint_or_of_another_model_is_one_line(tmp_path):
    trainer(tmp_path, max_iters=2).run()
    larger = GPT(GPTConfig(vocab_size=13, block_size=12, n_layer=3, n_head=2, n_embd=32))
    with pytest.raises(ValueError, match=r"^\S*checkpoint.pt is of another model \(.*\); use the old settings[^\n]*$"):
        trainer(tmp_path, model=larger, max_iters=2).load_checkpoint()
    for other in ([1, 2], {"model": {}}):
        torch.save(other, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError, match="checkpoint.pt: not a checkpoint of this version; use another folder"):
            trainer(tmp_path, max_iters=2).load_checkpoint()


def test_a_checkpoint_knows_the_content_of_its_inputs(tmp_path):
    (tmp_path / "pairs.tsv").write_text("one")
    inputs = {"corpus": "Anna was born in Gdynia.", "pairs": tmp_path / "pairs.tsv"}
    trainer(tmp_path / "run", inputs=inputs).run()
    trainer(tmp_path / "run", inputs=inputs).run(resume=True)
    other = {**inputs, "corpus": "Anna was born in Gdansk."}
    with pytest.raises(ValueError, match=r"is of another run \(the content of corpus differs\); use the old settings"):
        trainer(tmp_path / "run", inputs=other).run(resume=True)
    (tmp_path / "pairs.tsv").write_text("two")  # under the same name, and as long
    with pytest.raises(ValueError, match=r"\(the content of pairs differs\)"):
        trainer(tmp_path / "run", inputs=inputs).run(resume=True)
    with pytest.raises(ValueError, match=r"\(the content of corpus differs; the content of pairs differs\)"):
        trainer(tmp_path / "run").run(resume=True)


def test_a_run_may_become_longer_and_says_what_the_rate_does(tmp_path, capsys):
    longer = losses_of(trainer(max_iters=20, schedule="constant"))
    first = losses_of(trainer(tmp_path, max_iters=12, schedule="constant"))
    assert first == longer[:12], "the schedule of these runs is constant"
    assert losses_of(trainer(tmp_path, max_iters=20, schedule="constant"), resume=True) == longer[12:]
    assert "The run was to have 12 steps, and goes on from step 12 to 20; the learning rate" in capsys.readouterr().out
    assert [line["iter"] for line in metrics(tmp_path) if "loss" in line] == list(range(1, 21))
    with pytest.raises(ValueError, match=r"it had 20 steps and now has 15"):
        trainer(tmp_path, max_iters=15, schedule="constant").run(resume=True)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_steps_done(tmp_path, number, status):
    expected = losses_of(trainer(dropout=0.2))
    stopped = trainer(tmp_path, 0.2)
    stopped.add_callback("on_batch_end", lambda t: os.kill(os.getpid(), number) if t.iter_num == 7 else None)
    with pytest.raises(
        Stopped, match=f"the first 7 of 12 steps are kept in {tmp_path}, and the same command with --resume"
    ) as end:
        stopped.run()
    assert end.value.status == status
    assert losses_of(trainer(tmp_path, 0.2), resume=True) == expected[7:]
    nowhere = trainer()
    nowhere.add_callback("on_batch_end", lambda t: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="step 1 of 12 was done, and nothing is kept of it"):
        nowhere.run()


@pytest.mark.parametrize("moment", ["load_checkpoint", "_trigger"])
def test_a_signal_where_there_are_no_more_steps_is_not_lost(tmp_path, moment, monkeypatch):
    """While a finished run is taken up again, or in its last callbacks: the study that goes on has to end, too."""
    trainer(tmp_path, max_iters=2).run()
    finished = trainer(tmp_path, max_iters=2)
    work = getattr(finished, moment)

    def interrupted(*words):
        work(*words)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(finished, moment, interrupted)
    with pytest.raises(Stopped, match="stopped by Ctrl-C"):
        finished.run(resume=True)


def test_a_checkpoint_whose_model_had_a_field_of_earlier_versions_resumes(tmp_path):
    def run(steps, resume, **former):
        made = trainer(tmp_path, max_iters=steps)
        made.extra = {"model": {**asdict(made.model.config), **former}}
        made.run(resume=resume)
        return made

    run(2, False, attention="auto")
    assert run(3, True).iter_num == 3


def test_a_users_checkpoint_in_the_folder_is_kept(tmp_path):
    (tmp_path / "checkpoint.pt").write_text("the user's")
    trainer(tmp_path, max_iters=2).run()
    assert (tmp_path / "checkpoint.pt.kept").read_text() == "the user's" and load_torch(tmp_path / "checkpoint.pt")


def test_each_entry_of_a_checkpoint_may_be_anything_and_is_refused_in_one_line(tmp_path):
    trainer(tmp_path, max_iters=2).run()
    path = tmp_path / "checkpoint.pt"
    saved = load_torch(path)
    wrong = [
        (name, value)
        for name in saved
        if name != "scaler"
        for value in (None, 7.5, "x", [1], {"a": {"b": 1}}, torch.ones(2))
    ]
    wrong += [("iter_num", -1), ("iter_num", 10**30), ("max_iters", 0), ("optimizers", []), ("optimizers", [{}, {}])]
    states = [
        {**state, "state": {0: {"step": 1, "momentum": "x", "exp_avg": torch.ones(3)}}} for state in saved["optimizers"]
    ]
    wrong += [
        ("optimizers", states),
        ("optimizers", [{**state, "state": [1]} for state in saved["optimizers"]]),
        ("optimizers", [{**state, "param_groups": {}} for state in saved["optimizers"]]),
        ("model", dict.fromkeys(saved["model"], 1.0)),
        ("model", {name: value.to(torch.complex64) for name, value in saved["model"].items()}),
    ]
    for name, value in wrong:
        save_torch(path, {**saved, name: value})
        with pytest.raises(ValueError, match="checkpoint.pt") as found:
            trainer(tmp_path, max_iters=2).run(resume=True)
        assert "\n" not in str(found.value), (name, value)


def test_metrics_that_are_no_metrics_are_named(tmp_path):
    made = trainer(tmp_path, max_iters=4, checkpoint_interval=2)
    made.add_callback("on_batch_end", lambda t: stop_at(t, 3))
    with pytest.raises(Stop):
        made.run()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("[1, 2]\n")
    with pytest.raises(ValueError, match="metrics.jsonl:4: not a line of metrics; remove it"):
        trainer(tmp_path, max_iters=4, checkpoint_interval=2).run(resume=True)


def test_a_compiled_run_takes_a_smaller_last_batch(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="eager")
    )  # the usual one takes a minute
    assert losses_of(trainer(compile=True, max_iters=8)) == pytest.approx(losses_of(trainer(max_iters=8)), rel=1e-4)
