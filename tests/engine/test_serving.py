"""The real HTTP server, as a user starts it."""

import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from lvsa_core import plan
from lvsa_core.decide import decide
from tests.support.capabilities import has_module
from tests.support.server import REQUEST, START_UP_SECONDS, Server, frames, launch, wait

EXAMPLES = Path(__file__).parents[2] / "examples"


def stop(server: Server) -> None:
    """End the server and what it started."""
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def misspelt(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a misspelt setting, started beside the good one: each spends most of its start importing."""
    running = launch(checkpoint, tmp_path_factory.mktemp("misspelt") / "log", LVSA_WAN_HOK="1")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def server(checkpoint: Path, misspelt: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As a user starts it, with the engine's warm-up."""
    log = tmp_path_factory.mktemp("server") / "log"
    running = launch(checkpoint, log, "--max-seconds", "1200", by_lvsa=True, warm_up=True)
    try:
        wait(running.healthy, running)
        yield running
    finally:
        stop(running)


def test_lvsa_serve_says_what_the_server_does(server: Server) -> None:
    """The engine's own server in the same process, with LVSA on for the family of the checkpoint."""
    (line,) = server.lines("[LVSA] serving")
    assert line.endswith("family=wan preset=wan; requests from 85 frames on are sparse, shorter ones are dense")
    assert server.lines("[LVSA] enabled for wan")
    assert server.log.read_text().index("[LVSA] serving") < server.log.read_text().index("INFO")
    (warm_up,) = server.lines("[LVSA] total_lat_frames")
    assert warm_up.startswith("[LVSA] total_lat_frames=1 num_patches=1024 dense: ")
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode().split("\0")
    assert {"LVSA_WAN_HOOK=1", "VLLM_OMNI_ASYNC_OUTPUT_TIMEOUT=1200"} <= {*environment}


@pytest.mark.oldest
def test_a_long_video_then_another_then_an_impossible_one(server: Server) -> None:
    status, body = server.post(**REQUEST, num_frames=97, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (97, 64, 64)
    assert server.lines("[LVSA] total_lat_frames=25 window=3 n_first=1 kfi=2 global_count=13 attended_per_frame=20/25")

    status, body = server.post(**{**REQUEST, "size": "96x64"}, num_frames=125, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (125, 64, 96)
    assert server.lines("[LVSA] installed on 2 blocks num_patches=24 total_lat_frames=32")

    sizes = ({"size": "8x8"}, {"size": "64x17000"}, {"size": "abc"}, {"size": "", "width": "0", "height": "64"})
    for impossible in (*sizes, {"num_frames": 5001}):
        status, body = server.post(**{**REQUEST, "num_frames": 97, **impossible})
        # Where the engine knows no errors of its clients, those that a model finds are its own.
        assert 400 <= status < (500 if has_module("errors") else 501), (impossible, status, body[:500])
        assert json.loads(body)["error"]["message"]

    status, body = server.post(**REQUEST, num_frames=97, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (97, 64, 64)
    assert len(server.lines("[LVSA] total_lat_frames=25 ")) == 2
    assert not server.lines("[LVSA-FALLBACK]")


def test_the_server_is_healthy_while_it_denoises(server: Server) -> None:
    """What probes of docker/ rest on; the answers are late only while the video is encoded."""
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(server.post, **{**REQUEST, "num_inference_steps": 40}, num_frames=129, fps=16)
        healthy = []
        while not answer.done():
            healthy.append(server.healthy(timeout=60))
            time.sleep(0.05)
    assert answer.result()[0] == 200
    assert all(healthy) and len(healthy) > 6


def test_requests_bring_knobs(server: Server) -> None:
    """Over the form field ``extra_params``, as curl and OpenAI's client send it."""
    half, dense = (
        {"extra_params": json.dumps({"lvsa": knobs})} for knobs in ({"sparsity_scale": 0.5}, {"enabled": False})
    )
    status, plain = server.post(**REQUEST, num_frames=105, fps=16)
    before = len(server.lines("[LVSA] total_lat_frames=27 "))
    assert status == 200 and before == 1
    status, body = server.post(**REQUEST, num_frames=105, fps=16, **half)
    assert status == 200 and frames(body) == (105, 64, 64) and body != plain
    assert "attended_per_frame=10/27" in server.lines("[LVSA] total_lat_frames=27 ")[-1]
    status, body = server.post(**REQUEST, num_frames=105, fps=16, **dense)
    assert status == 200 and "dense: the request asks for it" in server.lines("[LVSA] total_lat_frames=27 ")[-1]

    status, body = server.post(**REQUEST, num_frames=105, extra_params=json.dumps({"lvsa": {"window": 1}}))
    assert status == (400 if has_module("errors") else 500)  # an older engine calls every error its own
    assert "extra_params.lvsa has no knob 'window'; did you mean window_size?" in json.loads(body)["error"]["message"]
    assert server.post(**REQUEST, num_frames=105, fps=16) == (200, plain)


def test_the_openai_client_sends_knobs(server: Server) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    body = {"num_inference_steps": 2, "num_frames": 109, "size": "64x64", "seed": 1}
    knobs = {"lvsa": {"sparsity_scale": 0.5, "anchor_boost": 1, "rotate_after": 0.5}}
    job = client.videos.create(prompt="a cat", extra_body={**body, "extra_params": json.dumps(knobs)})
    while (job := client.videos.retrieve(job.id)).status in ("queued", "in_progress"):
        time.sleep(0.2)
    assert job.status == "completed", job
    assert frames(client.videos.download_content(job.id).read()) == (109, 64, 64)
    assert "attended_per_frame=10/28" in server.lines("[LVSA] total_lat_frames=28 ")[-1]
    ran = {name: value for name, value in job.model_dump()["stage_durations"].items() if name.startswith("lvsa.")}
    assert ran["lvsa.outcome=sparse"] == ran["lvsa.kernel=sdpa"] == 1 and 0 < ran["lvsa.density"] < 1
    assert (ran["lvsa.latent_frames"], ran["lvsa.sparse_steps"]) == (28, 2)
    assert ran["lvsa.anchors=anchor_boost=1 rotate_after=0.5"] == 1
    last = plan(28, reference_frames=21, sparsity_scale=0.5, step=0)
    assert ran["lvsa.attended_per_frame"] == last.attended_per_frame
    _, decision = decide(28, 1, {"reference_frames": 21, "n_first": 1, "sparsity_scale": 0.5})
    assert ran["lvsa.attention_seconds"] > 0 and f"lvsa.reason={decision.reason}" in ran


def test_metrics_tell_what_ran(server: Server) -> None:
    """``lvsa serve`` gives its processes a folder for their metrics, so that every layout shows them."""
    assert server.post(**REQUEST, num_frames=97, fps=16)[0] == server.post(**REQUEST, num_frames=17, fps=16)[0] == 200
    page = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=30, trust_env=False).text
    counted = [line for line in page.splitlines() if line.startswith("lvsa_requests_total{")]
    for outcome, reason in {
        "sparse": "beyond the attention budget of N latent frames",
        "dense": "within the attention budget of N latent frames (training horizon N)",
    }.items():
        labels = f'model="WanPipeline",outcome="{outcome}",reason="{reason}"'
        assert any(labels in line.replace("Wan22Pipeline", "WanPipeline") for line in counted), page[:3000]
    for metric in ("lvsa_request_density_bucket{", "lvsa_attention_seconds_sum{"):
        assert metric in page


def test_the_client_submits_waits_and_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    client = importlib.import_module("online_client")
    where = ["--url", f"http://127.0.0.1:{server.port}", "--output-dir", str(tmp_path / "out")]
    sizes = ["--num-frames", "113", "--size", "64x64", "--seed", "3", "--steps", "2"]
    both = ["--prompt", "a cat", "--prompt", "a dog", *sizes, "--lvsa", "sparsity_scale=0.5", *where]
    assert client.main(both) == 0
    files = sorted((tmp_path / "out").glob("*.mp4"))
    assert [frames(file.read_bytes()) for file in files] == [(113, 64, 64)] * 2
    made = server.lines("[LVSA] total_lat_frames=29 ")
    assert len(made) == 2 and all("attended_per_frame=10/29" in line for line in made)

    lost = files[0].read_bytes()
    files[0].unlink()  # as if it had been interrupted before the download
    assert client.main(both) == 0
    assert files[0].read_bytes() == lost and len(server.lines("[LVSA] total_lat_frames=29 ")) == 2
    assert client.main(["--id", files[0].stem, *where[:2], "--output-dir", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / files[0].name).read_bytes() == lost

    capsys.readouterr()
    for words, sentence in {
        ("--prompt", "a", "--lvsa", "window"): "error: --lvsa window: give KEY=VALUE, such as sparsity_scale=0.75",
        ("--prompts-file", "/nowhere"): "error: ",
        ("--prompt", "a", "--url", "http://127.0.0.1:9"): "error: no server answers at http://127.0.0.1:9: start one",
    }.items():
        assert client.main([*where[:2], "--output-dir", str(tmp_path / "bad"), *sizes, *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith(sentence) and said.count("\n") == 1
    for job, sentence in {
        ("--id", "video_nobody"): "failed: video_nobody: the server does not know it any more",
        ("--prompt", "a", "--lvsa", "window=1"): "extra_params.lvsa has no knob 'window'; did you mean window_size?",
    }.items():
        assert client.main([*job, *where[:2], "--output-dir", str(tmp_path / "failed")]) == 1
        assert sentence in capsys.readouterr().err


def test_a_wrong_setting_stops_the_server_with_one_sentence(misspelt: Server) -> None:
    assert misspelt.process.wait(START_UP_SECONDS) == 1
    sentence = "error: LVSA_WAN_HOK is not a setting of LVSA; did you mean LVSA_WAN_HOOK?"
    assert misspelt.log.read_text().splitlines()[-1] == sentence
    assert "Traceback" not in misspelt.log.read_text()


def test_it_ends_when_asked_to_while_it_computes(server: Server) -> None:
    """The last test of this server: the request is lost, and nothing waits for it."""
    with ThreadPoolExecutor() as pool:
        long = {**REQUEST, "num_inference_steps": 200, "size": "256x256"}  # minutes
        answer = pool.submit(server.post, **long, num_frames=133, fps=16)
        wait(lambda: answer.done() or bool(server.lines("[LVSA] total_lat_frames=34 ")), server)
        server.process.terminate()
        # A thread that still computes on one device is cut off where Python ends, by an abort at times.
        assert server.process.wait(60) in (0, -signal.SIGABRT)
    assert "Application shutdown complete" in server.log.read_text()
    assert answer.exception() is not None or answer.result()[0] == 500


def test_it_ends_when_one_of_its_workers_is_lost(checkpoint: Path, tmp_path: Path) -> None:
    """What starts servers starts again what has ended; one that answers with errors for ever would stay."""
    running = launch(checkpoint, tmp_path / "log", "--usp", "2", by_lvsa=True)
    try:
        wait(running.healthy, running)
        assert not running.lines("[LVSA] total_lat_frames")  # nor has it made a picture to warm up
        children = psutil.Process(running.process.pid).children(recursive=True)
        next(child for child in children if "DiffusionWorker" in " ".join(child.cmdline())).kill()
        assert running.process.wait(120) == 1
        (line,) = running.lines("[LVSA] the server ends, as it has lost a worker (")
        assert line.endswith("): start it again")
    finally:
        stop(running)
