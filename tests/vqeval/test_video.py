"""Decoding: any container, the video's own colours and times, and one sentence for what cannot be judged."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vqeval import VideoError
from vqeval.checks import edits, scenes
from vqeval.checks.clip import Clip, write
from vqeval.video import MOST_FRAMES, SMALL_AREA, read, sample

CONTAINERS = [
    (".mp4", "libx264"), (".mkv", "libx264"), (".mov", "mpeg4"), (".avi", "mpeg4"), (".webm", "libvpx-vp9"),
    (".mpg", "mpeg1video"), (".gif", "gif"),
]  # fmt: skip


def small(count: int = 24, rate: float = 25.0) -> Clip:
    return scenes.pan(count, rate=rate)


@pytest.mark.parametrize(("ending", "codec"), CONTAINERS)
def test_containers(ending: str, codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")
    path = tmp_path / f"clip{ending}"
    clip = small()
    if codec == "gif":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("gif", rate=25)
            stream.height, stream.width, stream.pix_fmt = 96, 160, "rgb8"
            for frame in clip.frames:
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="rgb8")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    else:
        write(clip, path, codec=codec, options={})
    video = read(path)
    assert (video.width, video.height, video.decoded) == (160, 96, 24)
    assert video.rate == pytest.approx(25, rel=0.05)
    assert video.seconds == pytest.approx(24 / 25, rel=0.05)
    assert video.luma.mean() == pytest.approx(clip.frames.mean(), abs=12)


@pytest.mark.parametrize("rate", [12.0, 16.0, 23.976, 30.0, 60.0])
def test_rates(rate: float, tmp_path: Path) -> None:
    video = read(write(small(rate=rate), tmp_path / "clip.mp4"))
    assert video.rate == pytest.approx(rate, rel=1e-3)
    assert len(video) == 24 and not video.variable


def test_a_rate_above_60_is_divided(tmp_path: Path) -> None:
    video = read(write(small(48, rate=120), tmp_path / "clip.mp4"))
    assert (len(video), video.decoded) == (24, 48)
    assert video.rate == pytest.approx(60, rel=1e-3)


def test_held_frames_of_a_variable_rate_count_for_their_time(tmp_path: Path) -> None:
    """A file that holds a frame for a second stands still for a second, though it has one frame for it."""
    path, clip = tmp_path / "clip.mkv", small(40)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "14"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(clip.frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number * 40 + (1000 if number >= 20 else 0), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video = read(path)
    assert video.variable and video.decoded == 40
    assert video.rate == pytest.approx(25, rel=0.02)
    assert len(video) == pytest.approx(40 + 25, abs=1)
    held = np.abs(np.diff(video.luma, axis=0)).max(axis=(1, 2)) == 0
    assert held.sum() == pytest.approx(25, abs=1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["itu709", "itu601"])
def test_colours_are_the_videos_own(full: bool, matrix: str, tmp_path: Path) -> None:
    """The same colours, written in two matrices and two ranges, are read as the same colours."""
    clip = Clip(np.tile(np.array([200, 60, 40], np.uint8), (12, 64, 64, 1)), 25)
    path = tmp_path / "clip.mp4"
    ranges = {False: av.video.reformatter.ColorRange.MPEG, True: av.video.reformatter.ColorRange.JPEG}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = {"itu709": 1, "itu601": 6}[matrix]
        stream.codec_context.color_range = ranges[full]
        for frame in clip.frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(
                stream.encode(picture.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=ranges[full]))
            )
        container.mux(stream.encode(None))
    assert read(path).stills[0][1][20, 20] == pytest.approx([200, 60, 40], abs=4)


@pytest.mark.parametrize("size", [(33, 47), (16, 16), (640, 18), (50, 31)])
def test_odd_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for number in range(20):
            frame = np.full((height, width, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    video = read(path)
    assert (video.width, video.height, len(video)) == (width, height, 20)
    assert video.luma[0].size <= SMALL_AREA * 1.1


def test_a_long_video_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqeval.video.MOST_FRAMES", 50)
    assert MOST_FRAMES > 2000
    video = read(write(small(120), tmp_path / "clip.mp4"))
    assert len(video) == 30 and video.decoded == 120
    assert video.rate == pytest.approx(25 / 4, rel=0.05)
    monkeypatch.setattr("vqeval.video.MOST_FRAMES", 20)
    with pytest.raises(VideoError, match="too long; cut it into parts of at most"):
        read(tmp_path / "clip.mp4")


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(VideoError, match=sentence) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_refuses_with_one_sentence(tmp_path: Path) -> None:
    refused(tmp_path / "none.mp4", "there is no such file")
    text = tmp_path / "text.mp4"
    text.write_text("no video at all\n" * 100)
    refused(text, "is not a video that FFmpeg can read")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refused(empty, "is not a video")
    one = write(small(1), tmp_path / "one.mp4")
    refused(one, "has one frame; a video of at least two")
    slow = write(small(12, rate=2), tmp_path / "slow.mp4")
    refused(slow, "has 2 frames a second; motion can be judged from 6 on")
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    refused(sound, "holds no video, only sound")


def test_refuses_ten_by_ten_pixels(tmp_path: Path) -> None:
    tiny = Clip(np.zeros((20, 10, 10, 3), np.uint8), 25)
    refused(write(tiny, tmp_path / "tiny.mkv", codec="ffv1", options={}), "10 x 10 pixels are too few, 16 x 16")


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264")])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_file_that_was_cut_off(ending: str, codec: str, share: float, tmp_path: Path) -> None:
    """The index of this mp4 stands at its start, as that of those that the examples write."""
    path = tmp_path / f"clip{ending}"
    clip = edits.noisy(small(60))
    with av.open(str(path), "w", options={"movflags": "faststart"} if ending == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(read(path)) == 60
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "breaks off|is not a video")


def test_sample_is_evenly_spaced(tmp_path: Path) -> None:
    path = write(small(100), tmp_path / "clip.mp4")
    pictures, rate = sample(path, 5, 100)
    assert (len(pictures), rate) == (20, pytest.approx(5, rel=0.01))
    pictures, rate = sample(path, 25, 30)
    assert len(pictures) == 25 and rate == pytest.approx(25 / 4, rel=0.01)
    pictures, rate = sample(path, 25, 1000, longest=80, seconds=2)
    assert len(pictures) == 50 and pictures[0].shape == (48, 80, 3)
