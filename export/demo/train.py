"""Trains the demo model from scratch on drawn scenes, on the CPU and from one seed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from export.demo.batches import make_batch
from export.demo.captions import known_text
from export.demo.model import DemoModel, create_demo

MAX_LOGIT_SCALE = 4.6  # CLIP's cap is ln 100 = 4.6052; this stays below it when rounded to FP16


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the weights, besides code, libraries and machine."""

    seed: int = 1
    steps: int = 1200
    warmup: int = 50  # steps
    rate: float = 2e-3  # peak learning rate


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a training run after a step."""

    step: int  # from 1
    loss: float
    accuracy: float  # of the batch's images among the batch's captions, 0 to 1
    elapsed: float  # seconds


def _freeze_unknown_words(model: DemoModel) -> None:
    """Zero the token embeddings of all words outside the captions and keep them zero.

    Untrained embeddings would be noise; zeros have no effect, and compress well.
    """
    weight = model.clip.token_embedding.weight  # [vocabulary, width]
    known = torch.zeros(len(weight), 1)
    known[model.tokenizer(known_text()).flatten()] = 1
    known[0] = 0  # padding, which the causal mask hides from the end token
    with torch.no_grad():
        weight.mul_(known)
    weight.register_hook(lambda gradient: gradient * known)


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _learn(model: DemoModel, rng: np.random.Generator) -> tuple[float, float]:
    """Add one batch's gradients; return its loss and its accuracy."""
    batch = make_batch(rng, model)
    images, texts, scale = model.clip(batch.pixels, batch.tokens)  # [48, D], [48, D], scalar
    loss = open_clip.ClipLoss()(images, texts, scale)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.clip.parameters(), 1.0)
    right = (images @ texts.T).argmax(dim=1) == torch.arange(len(images))
    return loss.item(), right.double().mean().item()


def train(recipe: Recipe, report: Callable[[Progress], None]) -> DemoModel:
    """Train from scratch with OpenCLIP's own contrastive loss.

    Args:
        recipe: Seed and schedule; equal ones give equal weights with equal machine and libraries.
        report: Called after every step.

    Returns:
        The trained model in FP32, ready to evaluate; ``save_checkpoint`` rounds it to FP16.
    """
    torch.manual_seed(recipe.seed)
    model = create_demo(checkpoint=None)
    _freeze_unknown_words(model)
    model.clip.train()
    optimizer = torch.optim.AdamW(
        model.clip.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    started = time.monotonic()
    for step in range(recipe.steps):
        rng = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(step,)))
        loss, right = _learn(model, rng)
        optimizer.step()
        schedule.step()
        model.clip.zero_grad()
        with torch.no_grad():
            model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        elapsed = time.monotonic() - started
        report(Progress(step + 1, loss, right, elapsed))
    model.clip.eval()
    return model


def save_checkpoint(model: DemoModel, path: Path) -> None:
    """Write the weights as FP16 safetensors, which ``create_demo`` and OpenCLIP load."""
    state = {name: value.half().contiguous() for name, value in model.clip.state_dict().items()}
    save_file(state, path)
