"""Learned dimensions, on the real classes of transformers and torchvision with small random weights."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clips import Measure
from vqeval import Dimension
from vqeval.checks import edits, scenes
from vqeval.learned import features

Folders = tuple[Path, Path]

pytestmark = pytest.mark.slow  # of importing transformers


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders of a small CLIP and a small DINOv2."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BitImageProcessor,
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        PreTrainedTokenizerFast,
    )  # fmt: skip

    torch.manual_seed(0)
    clip, dino = tmp_path_factory.mktemp("small-clip"), tmp_path_factory.mktemp("small-dino")
    size = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    text = {**size, "vocab_size": 8, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    vision = {**size, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(clip)
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "cat": 3, "<unk>": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.save_pretrained(clip)
    pictures = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**pictures).save_pretrained(clip)
    Dinov2Model(Dinov2Config(**size, image_size=32, patch_size=8)).save_pretrained(dino)
    BitImageProcessor(**pictures).save_pretrained(dino)
    return clip, dino


def test_all_that_is_asked_for_is_there(weights: Folders, measure: Measure) -> None:
    clip, dino = weights
    found = measure(scenes.pan(), clip=str(clip), dino=str(dino), prompt="a cat " * 30)
    for name in ("subject_consistency", "background_consistency", "text_alignment"):
        dimension = found.dimensions[name]
        assert dimension.value is not None and -1 <= dimension.value <= 1 and 0 <= (dimension.score or 0) <= 100
        assert name in found.composite_of
    assert found.dimensions["subject_consistency"].weights == dino.name
    assert found.dimensions["text_alignment"].weights == clip.name
    assert not found.dimensions["feature_loop"].counted
    assert found.composite is not None and set(found.asked) == {"clip", "dino", "prompt"}


def test_a_still_is_consistent_and_a_loop_is_found_in_features(weights: Folders, measure: Measure) -> None:
    _, dino = weights
    still = measure(edits.frozen(scenes.pan()), dino=str(dino)).dimensions
    assert still["subject_consistency"].value == pytest.approx(1, abs=1e-3)
    looped = measure(edits.looped(scenes.hand_held(), 32), dino=str(dino)).dimensions["feature_loop"]
    assert looped.value is not None and looped.value > 0.5
    assert looped.lag_seconds == pytest.approx(2.0, abs=0.26)


def test_consistency_is_that_of_vbench() -> None:
    """Worked by hand: cosines to the one before 0, 1 and to the first 0, 0."""
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert features.consistency(vectors, "w").value == pytest.approx(((0 + 0) / 2 + (1 + 0) / 2) / 2)
    assert features.consistency(vectors[:1], "w").reason == "too short: one picture"


def test_alignment_is_clip_score() -> None:
    found = features.alignment(np.array([[0.2, 0.0], [0.4, 0.0]]), np.array([1.0, 0.0]), "w")
    assert (found.value, found.score) == (pytest.approx(0.3), pytest.approx(75))


def test_missing_weights_are_a_sentence_and_no_composite(measure: Measure) -> None:
    found = measure(scenes.pan(32), clip="/nowhere/clip", dino="/nowhere/dino", prompt="a cat")
    assert found.composite is None and "a dimension that was asked for failed" in str(found.composite_reason)
    for name, what in (
        ("subject_consistency", "DINOv2"),
        ("background_consistency", "CLIP"),
        ("text_alignment", "CLIP"),
    ):
        dimension = found.dimensions[name]
        assert dimension.failed and dimension.value is None
        assert f"the weights of {what} could not be read from /nowhere/" in str(dimension.reason)
        assert "give a folder that holds them" in str(dimension.reason) and "\n" not in str(dimension.reason)


@pytest.mark.parametrize(
    ("package", "asked", "sentence"),
    [
        ("transformers", {"dino": "x"}, "DINOv2 needs a package that is missing"),
        ("pyiqa", {"image_quality": "musiq"}, "image quality needs pyiqa, which is not installed: pip install pyiqa"),
        ("torchvision.models", {"raft": "small"}, "RAFT needs torchvision, which is not installed"),
    ],
)
def test_missing_packages_are_a_sentence(
    package: str, asked: dict[str, str], sentence: str, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = measure(scenes.pan(32), **asked)
    failed = [dimension for dimension in found.dimensions.values() if dimension.failed]
    assert failed and all(sentence in str(dimension.reason) for dimension in failed)


def test_a_device_that_is_not_there(weights: Folders, measure: Measure) -> None:
    found = measure(scenes.pan(32), dino=str(weights[1]), device="nowhere")
    assert "--device nowhere cannot be used" in str(found.dimensions["subject_consistency"].reason)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights of torchvision's small RAFT."""
    import torch
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_raft(raft: Path, measure: Measure) -> None:
    clip = scenes.pan(16)
    alone = measure(clip, raft=str(raft)).dimensions["raft_motion"]
    assert alone.value is not None and alone.value > 0 and alone.score is None and "--reference" in str(alone.reason)
    assert alone.weights == "RAFT small, raft.pth"
    paired = measure(clip, raft=str(raft), reference=clip)
    assert paired.dimensions["raft_motion"].score == 100 and "raft_motion" in paired.composite_of


def test_weights_of_another_network(tmp_path: Path, measure: Measure) -> None:
    import torch

    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    found = measure(scenes.pan(16), raft=str(tmp_path / "other.pth")).dimensions["raft_motion"]
    assert found.failed and "these are weights of another network" in str(found.reason)


class Metric:
    """Stands in for a metric of pyiqa, whose weights are a download: the mean brightness, in 0..1."""

    metric_mode, score_range, lower_better = "NR", "0, 1", False

    def __call__(self, tensor: Any) -> Any:
        assert tuple(tensor.shape[:2]) == (1, 3)
        return tensor.mean()


@pytest.mark.parametrize(("lower_better", "score"), [(False, 40), (True, 60)])
def test_image_quality(lower_better: bool, score: float, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    def create_metric(name: str, **options: Any) -> Metric:
        made.append((name, options))
        metric = Metric()
        metric.lower_better = lower_better  # type: ignore[misc]
        return metric

    monkeypatch.setitem(sys.modules, "pyiqa", type("pyiqa", (), {"create_metric": staticmethod(create_metric)}))
    found = measure(scenes.one_colour(16, level=102), image_quality="musiq=some/file.pth").dimensions["image_quality"]
    assert found.score == pytest.approx(score, abs=2) and found.weights == "musiq, file.pth"
    assert made[0][0] == "musiq" and made[0][1]["pretrained_model_path"] == "some/file.pth"


def test_the_result_is_json(weights: Folders, measure: Measure) -> None:
    found = measure(scenes.pan(32), dino=str(weights[1]))
    assert json.loads(found.model_dump_json())["dimensions"]["subject_consistency"]["unit"] == "cosine"
    assert isinstance(found.dimensions["subject_consistency"], Dimension)
