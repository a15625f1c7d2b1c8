"""A CUDA GPU computes what the CPU computes, for every model of the core; skipped where there is none."""

import pytest
import torch

from mingpt.conv_attention import (
    AttentionAttentionNet,
    AttentionNet,
    ConvAttentionConfig,
    ConvAttentionNet,
    ConvNet,
    SmearAttentionNet,
)
from mingpt.low_rank import LowRank
from mingpt.model import GPT, GPTConfig
from mingpt.optim import OptimConfig
from mingpt.trainer import Trainer, TrainerConfig
from projects.benchmark.steps import OneBatch
from projects.birthplace.variants import VARIANTS, make_variant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

CONFIG = dict(vocab_size=50, block_size=32, n_layer=4, n_head=2, n_embd=32)
NET = ConvAttentionConfig(vocab_size=50, block_size=32, n_embd=32, n_head=2)
MODELS = {
    "GPT": lambda: GPT(GPTConfig(**CONFIG)),
    "GPT, rotary": lambda: GPT(GPTConfig(**CONFIG, positions="rotary", qk_norm=True)),
    **{
        name: lambda name=name: make_variant(name, GPTConfig(**CONFIG), shift=False, bottleneck_dim=8)
        for name in VARIANTS
    },
    **{
        kind.__name__: lambda kind=kind: kind(NET)
        for kind in (ConvAttentionNet, AttentionAttentionNet, SmearAttentionNet, AttentionNet, ConvNet)
    },
    "LowRank": lambda: LowRank(50, 8, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_agree(name):
    on_cpu = MODELS[name]()
    on_gpu = MODELS[name]()
    on_gpu.load_state_dict(on_cpu.state_dict())
    on_gpu.cuda()
    idx = torch.randint(0, 50, (3, 33))
    results = []
    for model in (on_cpu, on_gpu):
        device = next(model.parameters()).device
        logits, loss = model(idx[:, :-1].to(device), idx[:, 1:].to(device))
        loss.backward()
        gradients = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
        results.append((logits.detach().cpu(), loss.detach().cpu(), gradients))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-5, rtol=1e-5)
    assert results[0][2].keys() == results[1][2].keys()
    for key, gradient in results[0][2].items():
        torch.testing.assert_close(results[1][2][key], gradient, atol=1e-4, rtol=1e-3)


def test_generation_with_a_cache_gives_the_same_tokens():
    model = GPT(GPTConfig(**CONFIG))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    expected = model.generate(prompts, 20)
    model.cuda()
    assert model.generate(prompts, 20) == expected == model.generate(prompts, 20, use_cache=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_trainer_learns_one_batch_and_resumes_to_the_last_bit(dtype, tmp_path):
    tokens = torch.randint(0, 50, (4, 33))

    def run(iters, folder, resume=False):
        torch.manual_seed(0)
        trainer = Trainer(
            TrainerConfig(max_iters=60, batch_size=4, dtype=dtype, device="cuda", checkpoint_interval=iters),
            OptimConfig(learning_rate=1e-2, schedule="constant"),
            GPT(GPTConfig(**CONFIG)),
            OneBatch(tokens[:, :-1], tokens[:, 1:]),
            out_dir=tmp_path / folder,
        )
        if iters < 60:
            trainer.add_callback("on_batch_end", stop_after(iters))
        try:
            trainer.run(resume=resume)
        except KeyboardInterrupt:
            pass
        return trainer.loss

    def stop_after(iters):
        def stop(trainer):
            if trainer.iter_num == iters + 1:  # the checkpoint of the step before has been written
                raise KeyboardInterrupt

        return stop

    whole = run(60, "whole")
    assert whole < 1.0
    run(30, "parts")
    assert run(60, "parts", resume=True) == whole
