"""What stops the start-up of an engine, each with one sentence."""

from typing import Any

import pytest

from lvsa_core.kernels import registry
from lvsa_vllm_omni import adopt
from tests.support.capabilities import drops_quantisation_it_has_not

# The engine starts in a thread of its own, whose exception pytest would report beside the one that reaches the caller.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


WRONG = {
    "misspelt": ({"LVSA_WAN_HOK": "1"}, "LVSA_WAN_HOK is not a setting of LVSA; did you mean LVSA_WAN_HOOK?"),
    "value": ({"LVSA_WAN_HOOK": "1", "LVSA_WINDOW_SIZE": "-3"}, "LVSA_WINDOW_SIZE is '-3', but must be greater"),
    "kernel": ({"LVSA_WAN_HOOK": "1", "LVSA_BACKEND": "flashinfer"}, "LVSA_BACKEND=flashinfer cannot run here: it n"),
    "preset": ({"LVSA_WAN_HOOK": "1", "LVSA_PRESET": "wan3"}, "no preset is named 'wan3': choose one of cosmos3, "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_stops_start_up(starting: Any, name: str) -> None:
    settings, sentence = WRONG[name]
    with pytest.raises(Exception) as error, starting(settings):
        pass
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_quantised_keys_and_values_are_refused(starting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the engine on the CPU, whose attention has none; by LVSA where its layers carry the setting."""
    from vllm_omni.diffusion.attention.layer import Attention

    if drops_quantisation_it_has_not():  # then nothing is quantised
        with starting({"LVSA_WAN_HOOK": "1"}, diffusion_kv_cache_dtype="fp8") as engine:
            layers = [module for model in engine.transformers for module in model.modules()]
            assert {module._kv_cache_dtype for module in layers if isinstance(module, Attention)} == {None}
    else:
        with pytest.raises(Exception) as error, starting({"LVSA_WAN_HOOK": "1"}, diffusion_kv_cache_dtype="fp8"):
            pass
        assert "fp8" in str(error.value) and "'auto'" in str(error.value)

    init = Attention.__init__

    def quantised(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._kv_cache_dtype = "fp8"

    monkeypatch.setattr(Attention, "__init__", quantised)
    with pytest.raises(Exception) as error, starting({"LVSA_WAN_HOOK": "1"}):
        pass
    assert "LVSA reads keys and values unquantised, but diffusion_kv_cache_dtype is 'fp8'" in str(error.value)


def test_a_hook_that_does_not_fit_stops_start_up(starting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    def forward(self: Any, latents: Any, timestep: Any) -> None: ...

    monkeypatch.setattr(WanTransformer3DModel, "forward", forward)
    with pytest.raises(Exception) as error, starting({"LVSA_WAN_HOOK": "1"}):
        pass
    assert "LVSA_WAN_HOOK: WanTransformer3DModel.forward(self: Any, latents" in str(error.value)
    assert "lacks hidden_states; install vllm and vllm-omni 0.22 to 0.30" in str(error.value)


def test_a_ring_that_cannot_be_replaced_is_refused(starting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a version of the engine whose layers keep their ring elsewhere; here a single worker's have none."""
    from lvsa_core import Placement
    from lvsa_vllm_omni import compat

    monkeypatch.setattr(compat, "placement", lambda config: Placement(ring=2))
    refused = pytest.raises(Exception, match=r"attention layer has no ring that LVSA can replace: use Ulysses")
    with refused, starting({"LVSA_WAN_HOOK": "1"}):
        pass


def test_a_kernel_that_breaks_the_device_stops_start_up(starting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence arrives though nothing on the device can be freed then."""
    registry.select.cache_clear()
    tested: list[Any] = []

    def self_test(*call: Any) -> str:
        tested.append(call)
        return "its self-test raised RuntimeError"

    def nothing_works() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(registry, "unusable", lambda device: "an illegal memory access" if tested else None)
    monkeypatch.setattr(registry, "self_test", self_test)
    monkeypatch.setattr(registry, "_broken", {})
    monkeypatch.setattr(adopt, "release", nothing_works)
    with pytest.raises(Exception) as error, starting({"LVSA_WAN_HOOK": "1"}):
        pass
    assert "the attention kernel sdpa has put cpu out of use for this process (its self-test raised" in str(error.value)
    assert "leave it out with LVSA_SKIP_KERNELS=sdpa" in str(error.value)
