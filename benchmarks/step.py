"""The denoising step that ``gpu_step.py`` times: diffusers' transformers with random weights, dense and under LVSA."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import HunyuanVideo15Transformer3DModel, WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from layer import Inputs, difference
from models import Model
from torch import Tensor, nn

from lvsa_core import Pattern, TokenLayout, attend
from lvsa_core.diffusers import enable_lvsa
from lvsa_core.diffusers.processors import Unmasked
from lvsa_core.kernels import KernelUnavailable
from lvsa_vllm_omni.measure.apart import first_line
from lvsa_vllm_omni.measure.dense import DENSE, Dense
from lvsa_vllm_omni.measure.timing import interleaved, medians, normal, seconds

KERNELS = ("FlashAttention-3", "SDPA cuDNN", "SDPA flash")
GUIDANCE, STEP_SIZE = 5.0, 0.02  # of the update, which only has to be there
WARM_UP = 2  # blocks: they use every kernel and all the memory that the others use
SIDES = ("dense", "lvsa")
#: Where diffusers' classes have their blocks.
BLOCKS = {"WanTransformer3DModel": "blocks", "HunyuanVideo15Transformer3DModel": "transformer_blocks"}

#: Dense attention of the step that runs; :func:`fastest_dense` finds it.
_dense: Dense = DENSE["SDPA flash"]


@torch.library.custom_op("lvsa_benchmark::dense", mutates_args=())
def dense_op(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The dense kernel, as opaque to torch.compile as LVSA's operator is."""
    return _dense(q, k, v, scale).contiguous()


@dense_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return q.new_empty(q.shape)


def _backend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    out: Tensor = dense_op(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    return out


# The benchmark's kernel goes by the name of a backend of diffusers' that nothing else here uses: the dispatcher takes
# no new names, and its own FlashAttention-3 is another package's.
BACKEND = AttentionBackendName.FLEX
_AttentionBackendRegistry.register(BACKEND)(_backend)


def fastest_dense(
    model: Model, layout: TokenLayout, dtype: torch.dtype, noise: torch.Generator
) -> tuple[str, dict[str, float], dict[str, str]]:
    """Choose the fastest dense kernel at a shape.

    Returns:
        Its name; seconds of a layer by all that are right, and by LVSA; why the others are not.
    """
    global _dense
    inputs = Inputs.of(model, layout, dtype, noise)
    rows = [0, layout.q_tokens // 2, layout.q_tokens - 1]
    expected = inputs.exact(rows, Pattern(layout.grid.frames))
    calls: dict[str, Callable[[], Tensor]] = {}
    failed: dict[str, str] = {}
    for name in KERNELS:
        call = partial(DENSE[name], *inputs.tensors, inputs.scale)
        try:
            found = difference(call()[0, rows], expected)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a library raises that does not fit the device
            failed[name] = first_line(error)
            continue
        if inputs.right(found):
            calls[name] = call
        else:
            failed[name] = f"wrong, off by {found}"
    if not calls:
        raise KernelUnavailable(f"no dense attention runs at this size: {failed}")
    pattern = model.pattern(layout.grid.frames)
    sides = {**calls}
    if not pattern.is_dense:
        sides["LVSA"] = partial(attend, *inputs.tensors, pattern, layout)
    once = sum(seconds(call, noise.device) for call in sides.values())
    times = medians(interleaved(sides, noise.device, max(2, min(10, int(1 / once))))[0])
    fastest = min(calls, key=times.__getitem__)
    _dense = DENSE[fastest]
    return fastest, {"LVSA": times[fastest], **times}, failed


def build(model: Model, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' transformer with random weights of ordinary size: all zeros would draw less power, and run faster.

    They are made on the device. As a checkpoint's loader does, those that the class says stay in float32.
    """
    shape = model.shape
    sizes: dict[str, Any] = {
        "num_attention_heads": shape.heads, "attention_head_dim": shape.head_size, "num_layers": shape.blocks,
    }  # fmt: skip
    transformer: Any
    with init_empty_weights():
        if shape.text_tokens:
            side = shape.head_size * 7 // 16 // 2 * 2  # height and width each turn 56 of 128 numbers of a head
            axes = (shape.head_size - 2 * side, side, side)
            transformer = HunyuanVideo15Transformer3DModel(
                **sizes, mlp_ratio=shape.ffn / shape.hidden, rope_axes_dim=axes
            )
        else:
            transformer = WanTransformer3DModel(**sizes, ffn_dim=shape.ffn)
    wide = {*(transformer._keep_in_fp32_modules or ())}
    for module_name, module in transformer.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            kept = torch.float32 if wide & {*module_name.split("."), name} else dtype
            random = torch.empty(weight.shape, dtype=kept, device=device)
            if weight.ndim > 1:
                random.normal_(std=weight[0].numel() ** -0.5)
            else:
                random.fill_(name == "weight")
            setattr(module, name, nn.Parameter(random, requires_grad=False))
    return transformer.to(device).eval()


class Pipeline:
    """What LVSA needs of a pipeline."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.components = {"transformer": transformer}


class DenoisingStep:
    """A denoising step of a video: the transformer's two calls, with and without the prompt, and the update.

    ``enable_lvsa`` works by hooks on the transformer's call: LVSA's side calls the transformer, the dense side its
    ``forward``. Every step has another timestep, so that LVSA's side has another step's anchors.
    """

    def __init__(self, model: Model, transformer: Any, latent_frames: int, noise: torch.Generator) -> None:
        self.transformer, self.device, self.time = transformer, noise.device, 1000.0
        config, shape = transformer.config, model.shape
        dtype, joint = transformer.proj_out.weight.dtype, bool(shape.text_tokens)

        def random(*shape: int) -> Tensor:
            return normal(1, *shape, dtype=dtype, device=noise.device, noise=noise)

        size = (pixels // shape.vae_spatial_factor for pixels in (model.height, model.width))
        self.latents = random(config.in_channels, latent_frames, *size)
        width = config.text_embed_dim if joint else config.text_dim
        self.prompts = [{"encoder_hidden_states": random(shape.text_tokens or shape.cross_tokens, width)} for _ in "12"]
        if joint:  # all of the text is real, and there are neither quoted words nor an image
            mask = torch.ones(1, shape.text_tokens, dtype=torch.long, device=noise.device)
            for prompt in self.prompts:
                prompt |= {
                    "encoder_attention_mask": mask, "encoder_attention_mask_2": mask[:, :0],
                    "encoder_hidden_states_2": random(0, config.text_embed_2_dim),
                    "image_embeds": random(0, config.image_embed_dim),
                }  # fmt: skip
        self.layers = [block.attn if joint else block.attn1 for block in blocks(transformer)]
        stock = [_with_backend(layer.processor) for layer in self.layers]
        # HunyuanVideo's processor would make a mask of S x S; LVSA's own sparse calls do without it too.
        dense = [Unmasked(processor) for processor in stock] if joint else stock
        self.processors = {"dense": dense, "lvsa": dense if model.pattern(latent_frames).is_dense else stock}
        self.restored = [layer.processor for layer in self.layers]
        self.pipeline = Pipeline(transformer)
        self.lvsa = enable_lvsa(self.pipeline, reference_latent_frames=model.horizon)

    @torch.no_grad()
    def forward(self, side: str, prompt: int = 0) -> Tensor:
        """One of the two calls, on one side."""
        for layer, processor in zip(self.layers, self.processors[side], strict=True):
            layer.processor = processor
        call = self.transformer if side == "lvsa" else self.transformer.forward
        timestep = torch.full((1,), self.time, device=self.device)
        out: Tensor = call(hidden_states=self.latents, timestep=timestep, **self.prompts[prompt], return_dict=False)[0]
        return out

    def __call__(self, side: str) -> Tensor:
        """The latents of the next step: guidance, and Euler's step."""
        self.time -= 1
        conditional, unconditional = self.forward(side, 0), self.forward(side, 1)
        velocity = unconditional + GUIDANCE * (conditional - unconditional)
        return self.latents[:, : velocity.shape[1]] - STEP_SIZE * velocity

    def close(self) -> None:
        """Give the untouched transformer back."""
        self.lvsa.disable()
        for layer, processor in zip(self.layers, self.restored, strict=True):
            layer.processor = processor


def blocks(transformer: Any) -> Any:
    """The transformer's blocks."""
    return getattr(transformer, BLOCKS[type(transformer).__name__])


def _with_backend(processor: Any) -> Any:
    """The same processor on the benchmark's dense kernel."""
    processor = copy.copy(processor)
    processor._attention_backend = BACKEND
    return processor


def warm_up(step: DenoisingStep, compiled: bool) -> str | None:
    """Some blocks of both sides; why they are not compiled, if that fails."""
    transformer, reason = step.transformer, None
    every, name = blocks(transformer), BLOCKS[type(transformer).__name__]
    setattr(transformer, name, every[:WARM_UP])
    try:
        if compiled:
            try:
                for block in every:  # as vLLM-Omni does: once for all lengths
                    block.compile(dynamic=True)
                step.forward("dense")
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no C compiler, or a compiler that does not fit the device
                reason = first_line(error)
        if reason or not compiled:
            for block in every:
                block._compiled_call_impl = None
        for side in SIDES * 2:  # again, as the first change of sides may compile the other anew
            step(side)
    finally:
        setattr(transformer, name, every)
    return reason


def timed(step: DenoisingStep, case_seconds: float, most: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of the runs of each side, which take turns in changing order, and the largest memory of each.

    Args:
        case_seconds: for the runs of both sides together, of which there are at least two, or one if it alone takes
            so long.

    Raises:
        RuntimeError: if an output is not finite.
    """
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    peaks = dict.fromkeys(SIDES, 0)
    out: list[Tensor] = []
    cuda = step.device.type == "cuda"
    for run in range(most):
        spent = sum(map(sum, times.values()))
        if spent > case_seconds or (run >= 2 and spent / run * (run + 1) > case_seconds):
            break
        for side in SIDES if run % 2 == 0 else SIDES[::-1]:
            out.clear()  # what the run before left is not this one's
            if cuda:
                torch.cuda.reset_peak_memory_stats(step.device)
            times[side].append(seconds(lambda: out.append(step(side)), step.device))  # noqa: B023
            if cuda:
                peaks[side] = max(peaks[side], torch.cuda.max_memory_allocated(step.device))
            if not out[0].isfinite().all():
                raise RuntimeError(f"the output of {side} is not finite")
    return times, peaks


def measure(
    model: Model, transformer: Any, latent: int, compiled: bool, noise: torch.Generator, case_seconds: float, most: int
) -> dict[str, Any]:
    """All numbers of one case.

    Args:
        latent: frames. case_seconds, most: see :func:`timed`.
    """
    layout, pattern, weight = model.layout(latent), model.pattern(latent), transformer.proj_out.weight
    dense, layers, failed = fastest_dense(model, layout, weight.dtype, noise)
    step = DenoisingStep(model, transformer, latent, noise)
    try:
        reason = warm_up(step, compiled)
        times, peaks = timed(step, case_seconds, most)
        report = step.lvsa.report()
    finally:
        step.close()
    middle = medians(times)
    calls = 2 * model.shape.blocks
    shares = {side: calls * layers[name] / middle[side] for side, name in (("dense", dense), ("lvsa", "LVSA"))}
    return {
        "frames": model.frames(latent), "latent_frames": latent, "tokens": layout.q_tokens, "density": pattern.density,
        "dense_pattern": pattern.is_dense, "kernel": report.kernel or f"dense {dense}", "report": str(report),
        "dense": dense, "layer_seconds": layers, "dense_failed": failed, "dtype": str(weight.dtype),
        "layers": model.shape.blocks, "parameters": sum(x.numel() for x in transformer.parameters()),
        "compiled": compiled and not reason, "not_compiled": reason, "repeats": len(times["dense"]), "times": times,
        "seconds": middle, "ratio": middle["dense"] / middle["lvsa"], "peak_bytes": peaks,
        "attention_share": shares,
    }  # fmt: skip
