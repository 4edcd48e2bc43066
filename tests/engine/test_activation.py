"""When LVSA is active, when it stops start-up, and what it does about a surprise."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core import plan
from lvsa_core.kernels import registry
from lvsa_vllm_omni import hooks, journal, runner, seam
from lvsa_vllm_omni.hooks import VideoTokens
from lvsa_vllm_omni.settings import LvsaSettings
from tests.support.capabilities import computing
from tests.support.engine import DTYPE
from tests.support.log import Log

# The engine starts in a thread of its own, whose exception pytest would report beside the one that reaches the caller.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

LONG = 97  # video frames of 25 latent frames; the training horizon is 21


def lines(log: Log, start: str) -> list[str]:
    return [record.getMessage() for record in log.records if record.getMessage().startswith(start)]


@pytest.fixture(scope="module")
def dense_video(starting: Any) -> np.ndarray:
    """A long video of the plain engine; also looks at the layers of an engine on which nothing asks for LVSA."""
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    unused: list[tuple[str, ...]] = []
    stop_watching = runner.install(lambda *model: unused.append(model), LvsaSettings.load())
    with starting() as engine:
        assert unused == [("Wan22Pipeline", "LVSA_WAN_HOOK", "")]
        stop_watching()
        assert seam.MARK not in vars(WanTransformer3DModel)
        (transformer,) = engine.transformers
        assert seam.scope_of(transformer) is None
        for block in transformer.blocks:
            assert type(block.attn1.attn.attention) is block.attn1.attn.attn_impl_cls
            assert "Lvsa" not in type(block.attn1.attn.attention).__name__
        return engine.video(LONG)


@pytest.fixture(scope="module")
def sparse_video(starting: Any) -> np.ndarray:
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        (transformer,) = engine.transformers
        for block in transformer.blocks:
            assert type(block.attn1.attn.attention).__name__ == "LvsaImpl"
            assert type(block.attn1.attn.attention.dense) is block.attn1.attn.attn_impl_cls
            assert type(block.attn2.attn.attention) is block.attn2.attn.attn_impl_cls
        return engine.video(LONG)


@pytest.mark.oldest
def test_no_setting_no_change(dense_video: np.ndarray, sparse_video: np.ndarray) -> None:
    assert np.abs(dense_video - sparse_video).max() > 0.01


def test_the_engines_warm_up_is_dense(starting: Any, calls: list[Any], log: Log) -> None:
    """A picture of 512 x 512 pixels, which most other tests do without."""
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}, warm_up=True) as engine:
        assert journal.counts == {"request:dense": 1} and not calls
        (line,) = lines(log, "[LVSA] total_lat_frames")
        assert line.startswith("[LVSA] total_lat_frames=1 num_patches=1024 dense: ")
        assert not lines(log, "[LVSA] installed on")
        engine.video(LONG, steps=1)
        assert journal.counts == {"request:dense": 1, "request:sparse": 1} and calls
        assert len(lines(log, "[LVSA] installed on 2 blocks num_patches=16")) == 1


def test_auto_is_the_same_beyond_the_training_horizon(starting: Any, sparse_video: np.ndarray, log: Log) -> None:
    with starting({"LVSA_AUTO": "true"}) as engine:
        assert np.array_equal(engine.video(LONG), sparse_video)
        engine.video(17, steps=1)
    assert len(lines(log, "[LVSA] enabled for wan")) == 1
    assert lines(log, "[LVSA] hooked WanTransformer3DModel: blocks=2 family=wan preset=wan reference=21 dense=")
    (hooked,) = lines(log, "[LVSA] hooked")
    assert hooked.endswith("kernel=sdpa (passed over flash, flashinfer: it needs a CUDA device, not cpu)")
    assert lines(log, "[LVSA] installed on 2 blocks num_patches=16 total_lat_frames=25 backend=sdpa family=wan")
    assert lines(log, "[LVSA] total_lat_frames=25 window=3 n_first=1 kfi=2 global_count=13 attended_per_frame=20/25")
    assert lines(log, "[LVSA] total_lat_frames=5 num_patches=16 dense: LVSA_AUTO leaves requests within the training")
    assert not lines(log, "[LVSA-FALLBACK]")


def test_the_diagnostics_of_each_step(starting: Any, sparse_video: np.ndarray, log: Log) -> None:
    asked = {"enable": True, "mem_log": True, "step_time_log": True, "mask_log": "once"}
    with starting({"LVSA_CONFIG": json.dumps(asked)}) as engine:
        log.clear()
        assert np.array_equal(engine.video(LONG), sparse_video)
        steps = [line.split("step=")[1].split()[0] for line in lines(log, "[LVSA-TIME]")]
        assert steps == ["0", "1", "2"]
        assert all(float(line.split("dt=")[1].rstrip("s")) > 0 for line in lines(log, "[LVSA-TIME]"))
        memory = r"\[LVSA-MEM\] step=(\d) (?:cpu|cuda)=0 alloc=\d+\.\d+GB reserved=\d+\.\d+GB peak=\d+\.\d+GB"
        assert re.findall(memory, "\n".join(lines(log, "[LVSA-MEM]"))) == steps
        (mask,) = lines(log, "[LVSA-MASK]")
        head, *rows = mask.splitlines()
        assert head.startswith("[LVSA-MASK] step=0 total_lat_frames=25 window=3 ")
        pattern = plan(25, reference_frames=21)
        assert [[letter != "." for letter in row] for row in rows] == [
            [pattern.allows(q, k) for k in range(25)] for q in range(25)
        ]


@pytest.mark.oldest
def test_chosen_by_name(starting: Any, sparse_video: np.ndarray, dense_video: np.ndarray) -> None:
    by_name = {"per_role": {"self": {"backend": "LVSA"}}}
    with starting({"LVSA_WINDOW_SIZE": "12"}, diffusion_attention_config=by_name) as engine:
        assert np.array_equal(engine.video(LONG), sparse_video)
    with starting({"LVSA_WAN_HOOK": "0", "LVSA_ENABLE": "1"}, diffusion_attention_config=by_name) as engine:
        assert np.array_equal(engine.video(LONG), dense_video)


def test_the_chosen_dense_backend_stays_the_dense_path(starting: Any, dense_video: np.ndarray) -> None:
    chosen = {"per_role": {"self": {"backend": "TORCH_SDPA"}}}
    with starting({"LVSA_WAN_HOOK": "1"}, diffusion_attention_config=chosen) as engine:
        (transformer,) = engine.transformers
        layer = transformer.blocks[0].attn1.attn
        assert getattr(layer, "backend_explicit", True) and layer.backend_pref == "TORCH_SDPA"
        assert type(layer.attention.dense) is layer.attn_impl_cls
        assert not np.array_equal(engine.video(LONG), dense_video)


def test_a_model_that_the_engine_lacks_matters_only_if_asked_for(
    starting: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.forget_families()
    monkeypatch.setitem(hooks.SPECS, "cosmos3", replace(hooks.COSMOS3, transformer="vllm_omni.no_such_model:Model"))
    with starting({"LVSA_ENABLE": "1"}) as engine:
        engine.video(LONG, steps=1)
    assert lines(log, "[LVSA] enabled for wan, hunyuan: ")
    assert lines(log, "[LVSA] installed on 2 blocks")
    with pytest.raises(Exception) as error, starting({"LVSA_COSMOS3_HOOK": "1"}):
        pass
    hooks.forget_families()
    assert "LVSA_COSMOS3_HOOK: this vLLM-Omni has no vllm_omni.no_such_model" in str(error.value)


@pytest.fixture
def sdpa_fails_its_self_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def self_test(kernel: Any, *given: Any) -> str | None:
        return "its self-test is off by 1, allowed is 0.1" if kernel.name == "sdpa" else None

    monkeypatch.setattr(registry, "self_test", self_test)
    registry.select.cache_clear()
    yield
    registry.select.cache_clear()


@pytest.mark.usefixtures("sdpa_fails_its_self_test")
def test_the_next_kernel_and_why(starting: Any, sparse_video: np.ndarray, log: Log) -> None:
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        assert np.abs(engine.video(LONG) - sparse_video).max() < 1e-3
    (hooked,) = lines(log, "[LVSA] hooked")
    assert "not cpu; sdpa: its self-test is off by 1, allowed is 0.1; " in hooked
    assert "kernel=sdpa-concatenated (passed over flash" in hooked
    assert lines(log, "[LVSA] installed on 2 blocks num_patches=16 total_lat_frames=25 backend=sdpa-concatenated")


@pytest.mark.usefixtures("sdpa_fails_its_self_test")
def test_a_kernel_that_fails_its_self_test_stops_start_up(starting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("sdpa-ascend", "sdpa-concatenated")
    left = {name: kernel for name, kernel in registry.KERNELS.items() if name not in others}
    monkeypatch.setattr(registry, "KERNELS", left)  # a new one: taking keys out and back would change their order
    with pytest.raises(Exception) as error, starting({"LVSA_WAN_HOOK": "1", "LVSA_BACKEND": "sdpa"}):
        pass
    assert "LVSA_BACKEND=sdpa: attention kernel 'sdpa' does not run for torch.float32 with head" in str(error.value)
    assert "on cpu (sdpa: its self-test is off by 1, allowed is 0.1); choose auto or switch" in str(error.value)


def test_vllm_plugins_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.plugins
    import vllm_omni.plugins

    from lvsa_vllm_omni import plugin

    monkeypatch.setenv("LVSA_WAN_HOOK", "1")
    for named, active in (("another", False), ("another,lvsa", True)):
        monkeypatch.setenv("VLLM_PLUGINS", named)
        vllm.plugins.plugins_loaded = vllm_omni.plugins.omni_plugins_loaded = False
        plugin.deactivate()
        vllm_omni.plugins.load_omni_general_plugins()
        assert plugin.is_active() is active
    vllm_omni.plugins.load_omni_general_plugins()  # again: nothing more happens
    plugin.register()
    plugin.deactivate()


def wrong_video(transformer: Any, arguments: Any) -> VideoTokens:
    """A video of frames with one patch too many: what a changed upstream model would look like."""
    return VideoTokens(25, 17)


def masked(forward: Any) -> Any:
    """The engine's self-attention with a mask that hides nothing: what a model that pads its batch would send."""

    def with_mask(self: Any, q: Any, k: Any, v: Any, metadata: Any = None) -> Any:
        if self.role == "self":
            metadata.attn_mask = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device)
        return forward(self, q, k, v, metadata)

    return with_mask


def watch_dense(patch: pytest.MonkeyPatch, dense: Any, ran: list[int], index: int) -> None:
    """Note ``index`` whenever a layer's dense attention runs."""
    forward = dense.forward
    patch.setattr(dense, "forward", lambda *given, **named: ran.append(index) or forward(*given, **named))


def test_a_surprise_goes_dense_with_one_line_or_fails(
    starting: Any, dense_video: np.ndarray, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    from vllm_omni.diffusion.attention.layer import Attention

    from lvsa_vllm_omni.hooks import WAN
    from lvsa_vllm_omni.hooks.wan_hook import video

    monkeypatch.setitem(WAN.__dict__, "video", wrong_video)
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        log.clear()
        journal.reset()
        assert np.array_equal(engine.video(LONG), dense_video)
        (line,) = lines(log, "[LVSA-FALLBACK]")
        assert line.startswith("[LVSA-FALLBACK] origin=attention reason=sequence-length seq_len=400 family=wan ")
        assert journal.counts["fallback:sequence-length"] == 3 * 2 * 2  # steps, branches of guidance, blocks
        with monkeypatch.context() as patch:
            ran: list[int] = []
            for index, block in enumerate(engine.transformers[0].blocks):
                watch_dense(patch, computing(block.attn1.attn, DTYPE).dense, ran, index)
            engine.video(LONG, steps=1)
        assert ran == [0, 1] * 2  # each layer has its own way out, in both branches of guidance
        assert len(lines(log, "[LVSA-FALLBACK]")) == 2  # every request says it

        with monkeypatch.context() as patch:
            patch.setattr(Attention, "forward", masked(Attention.forward))
            patch.setitem(WAN.__dict__, "video", video)
            journal.reset()
            assert np.abs(engine.video(LONG) - dense_video).max() < 2e-4
            assert journal.counts["fallback:mask"] == 3 * 2 * 2

        scope = seam.scope_of(engine.transformers[0])
        monkeypatch.setenv("LVSA_STRICT", "1")
        scope.settings = LvsaSettings.load()
        with pytest.raises(Exception, match=r"reason=sequence-length.*LVSA_STRICT=1 makes this an error"):
            engine.video(LONG)
