"""Train Toy Wan's transformer on the latents of its world.

    python -m toy.train outputs/toy/transformer.pt
    python -m toy.train outputs/toy/images.pt --images 0.5

An hour on one core; called again it goes on where it was. The loss at each noise level is divided by what is usual
there, so that all of them count alike. With --images, so many of the clips have their first frame given, as Wan 2.2 5B
has it: without noise, and its tokens at time 0.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from lvsa_vllm_omni.tiny.toy import TEXT, toy_transformer
from toy import world
from toy.pipeline import FewTokens, load

BATCH, STEPS = 16, 5500
MATRIX_RATE, OTHER_RATE, DECAY_FROM = 4e-3, 2e-3, 0.3
#: Weight of the past in the average of the weights, and in that of the usual error.
AVERAGE, USUAL = 0.997, 0.99
#: Share of prompts that are left out, and of single words.
NO_PROMPT, NO_WORD = 0.1, 0.05
#: Steps between two states on the disk.
SAVED = 250
#: Places of the noise levels at which a usual error is kept.
LEVELS = 32


def text(clips: world.Clips, generator: torch.Generator) -> Tensor:
    """Build the words' embeddings and a token of padding, [B, 4, channels], with some left out."""
    skies = len(world.COLOURS) + len(world.SPEEDS)
    numbers = torch.stack([clips.colour, clips.speed + len(world.COLOURS), clips.sky + skies], 1)
    words = functional.one_hot(numbers, TEXT).float()
    keep = torch.rand(len(words), 1, generator=generator) >= NO_PROMPT
    keep = keep & (torch.rand(len(words), 3, generator=generator) >= NO_WORD)
    return functional.pad(words * keep[..., None], (0, 0, 0, 1))


def given_first(time: Tensor, given: Tensor) -> Tensor:
    """The time of every token, [B] to [B, tokens]; 0 for the first frame of the clips where it is given, [B]."""
    patches = (world.SIDE // 2) ** 2
    each = time[:, None].repeat(1, world.LENGTH * patches)
    each[given, :patches] = 0
    return each


def errors(guess: Tensor, wanted: Tensor, given: Tensor) -> Tensor:
    """Mean squared error of each clip, [B]; of those where it is given, [B], the first frame counts as right."""
    squared = (guess - wanted).square()
    squared[given, :, 0] = 0
    return squared.mean((1, 2, 3, 4))


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024), all matrices of a shape at once and in float32.

    PyTorch's own takes them one by one in bfloat16, which half of the CPUs have no instructions for: there it takes a
    third of a step. Rates are those of AdamW (Moonshot, 2025: 0.2 times the root of the longer side).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix along the orthogonal matrix nearest to its gradient's average (Nesterov)."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[torch.nn.Parameter, Tensor]]] = {}
            for matrix in group["params"]:
                past = self.state[matrix].setdefault("past", torch.zeros_like(matrix))
                past.lerp_(matrix.grad, 1 - group["momentum"])
                shapes.setdefault(matrix.shape, []).append((matrix, matrix.grad.lerp(past, group["momentum"])))
            for (rows, columns), pairs in shapes.items():
                for (matrix, _), way in zip(pairs, _orthogonal(torch.stack([w for _, w in pairs])), strict=True):
                    matrix.add_(way, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Five steps of the quintic Newton-Schulz iteration towards the nearest orthogonal matrices, [N, rows, columns]."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def optimizers(model: torch.nn.Module, steps: int) -> tuple[list[Any], list[Any]]:
    """Muon for the matrices of the blocks, AdamW for the rest; both rates fall as a cosine after their first part."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    kinds: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=MATRIX_RATE),
        torch.optim.AdamW(others, lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]

    def rate(step: int) -> float:
        late = max(0.0, (step / steps - DECAY_FROM) / (1 - DECAY_FROM))
        return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * min(late, 1.0))) / 2)

    return kinds, [torch.optim.lr_scheduler.LambdaLR(kind, rate) for kind in kinds]


def main() -> None:
    """Train, with a state on the disk now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the state is kept")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--images", type=float, default=0.0, help="share of clips whose first frame is given")
    arguments = parser.parse_args()
    if not 0 <= arguments.images <= 1:
        parser.error(f"--images takes a share from 0 to 1, got {arguments.images:g}")
    state = load(arguments.file, "parts", "average") if arguments.file.exists() else {}
    for name in ("head_dim", "images") if state else ():
        if (kept := state.get(name, 0.0)) != (asked := getattr(arguments, name)):
            option = "--" + name.replace("_", "-")
            parser.error(f"{arguments.file} was trained with {option} {kept:g}, not {asked:g}: name another file")
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = toy_transformer(head_dim=arguments.head_dim)
    FewTokens.put_into(model)
    model.to(device)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    kinds, schedules = optimizers(model, arguments.steps)
    usual = torch.ones(LEVELS)
    parts = [model, *kinds, *schedules]
    done = 0
    if state:
        for part, kept in zip(parts, state["parts"], strict=True):
            part.load_state_dict(kept)
        average, usual, done = state["average"], state["usual"], state["done"]
        generator.set_state(state["generator"])
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    model.compile_repeated_blocks()

    bar = tqdm(range(done, arguments.steps), initial=done, total=arguments.steps, unit="step", mininterval=10)
    shown = 0.0
    for step in bar:
        clips = world.draw(BATCH, generator)
        clean = world.latents(clips)
        noise = torch.randn(clean.shape, generator=generator)
        level = torch.sigmoid(0.8 + 1.2 * torch.randn(BATCH, generator=generator))
        mixed = torch.lerp(clean, noise, level[:, None, None, None, None])
        words = text(clips, generator)
        time, given = level * 1000, torch.zeros(BATCH, dtype=torch.bool)
        if arguments.images:
            given = torch.rand(BATCH, generator=generator) < arguments.images
            mixed[given, :, 0] = clean[given, :, 0]
            time = given_first(time, given)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            guess = model(mixed.to(device), time.to(device), words.to(device), return_dict=False)[0]
        error = errors(guess.float(), (noise - clean).to(device), given)
        place = (level * LEVELS).long().clamp(max=LEVELS - 1)
        loss = (error / usual[place].to(device)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*kinds, *schedules):
            part.step()
        for kind in kinds:
            kind.zero_grad()
        keep = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name.replace("_orig_mod.", "")].lerp_(value, 1 - keep)
            for where, what in zip(place.tolist(), error.tolist(), strict=True):
                usual[where] = torch.lerp(torch.tensor(what), usual[where], USUAL)
        shown = 0.98 * shown + 0.02 * float(error.detach().mean()) if shown else float(error.detach().mean())
        bar.set_postfix(error=f"{shown:.4f}", refresh=False)
        if (step + 1) % SAVED == 0 or step + 1 == arguments.steps:
            state = {
                "parts": [part.state_dict() for part in parts], "average": average, "usual": usual,
                "done": step + 1, "generator": generator.get_state(), "head_dim": arguments.head_dim,
                "images": arguments.images,
            }  # fmt: skip
            draft = arguments.file.with_suffix(".part")
            torch.save(state, draft)
            os.replace(draft, arguments.file)


if __name__ == "__main__":
    main()
