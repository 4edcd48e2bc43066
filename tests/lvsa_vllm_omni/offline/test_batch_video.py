"""Frames as the engine nests them, and the mp4 read back."""

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lvsa_vllm_omni.offline import frames_of, write_mp4

RNG = np.random.default_rng(0)
VIDEO = RNG.random((5, 16, 32, 3), dtype=np.float32)
BYTES = (VIDEO * 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        [VIDEO[None]],  # Wan
        VIDEO,
        list(VIDEO),
        [[*VIDEO]],
        [Image.fromarray(frame) for frame in BYTES],  # HunyuanVideo 1.5
        [[Image.fromarray(frame) for frame in BYTES]],
        BYTES,
    ],
)
def test_frames_of_any_nesting(images: Any) -> None:
    frames = list(frames_of(images))
    assert all(frame.dtype == np.uint8 for frame in frames)
    np.testing.assert_array_equal(np.stack(frames), BYTES)


def test_values_are_clipped_not_wrapped() -> None:
    (frame,) = frames_of([np.full((2, 2, 3), 1.5, np.float32) * [1, -1, 0.2]])
    np.testing.assert_array_equal(frame[0, 0], [255, 0, 76])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "no frames"),
        (None, "shape"),
        (np.full((1, 2, 2, 3), np.nan), "NaN"),
        (np.zeros((2, 2, 4)), "shape"),
    ],
)
def test_what_is_no_video_is_refused(images: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        list(frames_of(images))


@pytest.mark.parametrize("fps", [16.0, 24.0, 23.976, 7.5])
def test_mp4_is_read_back(tmp_path: Path, fps: float) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)]
    frames = [np.full((48, 80, 3), colour, np.uint8) for colour in colours for _ in range(3)]
    written = write_mp4(tmp_path / "clip.mp4", frames, fps)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        assert stream.codec_context.name == "h264" or written["codec"] == "mpeg4"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-6)
        assert stream.frames == len(pictures) == 12
        for index, picture in enumerate(pictures):
            assert picture.time == pytest.approx(index / fps, abs=1e-3)
            pixels = picture.reformat(format="rgb24", src_colorspace="itu709").to_ndarray()
            assert pixels.shape == (48, 80, 3)
            assert np.abs(pixels.astype(int) - colours[index // 3]).max() <= 6
    assert written == {
        "file": "clip.mp4",
        "codec": written["codec"],
        "frames": 12,
        "height": 48,
        "width": 80,
        "fps": fps,
        "seconds": pytest.approx(12 / fps, abs=1e-3),
    }
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_without_x264_the_video_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    assert write_mp4(tmp_path / "clip.mp4", [BYTES[0]] * 3, 16.0)["codec"] == "mpeg4"
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ([np.zeros((15, 32, 3), np.uint8)], "32x15 cannot be an mp4, both sides must be even"),
        ([BYTES[0], np.zeros((32, 32, 3), np.uint8)], "picture 1 is 32x32, the first is 32x16"),
    ],
)
def test_a_failed_mp4_leaves_nothing(tmp_path: Path, frames: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        write_mp4(tmp_path / "clip.mp4", frames, 16.0)
    assert os.listdir(tmp_path) == []
