"""Does a server keep working? Many clients at once, bad input, and a disk that is full, on the real HTTP server.

Run it from the repository with the package installed; it starts servers of a tiny Wan on the CPU, or on a GPU:

    python benchmarks/reliability.py clients --json benchmarks/results/reliability-clients.json
    python benchmarks/reliability.py input --json benchmarks/results/reliability-input.json
    python benchmarks/reliability.py disk --json benchmarks/results/reliability-disk.json
    python benchmarks/reliability.py ends --json benchmarks/results/reliability-ends.json

`clients`: 200 requests of 8 clients in mixed lengths, sizes and knobs, some deleted, some hung up on. Every video that
comes must equal, byte for byte, that of the same request alone, and memory must be as it was. `input`: generated
settings and generated knobs of requests: none is accepted that is not one, and each error names its field. `disk`:
journal and latents where nothing can be written: every request has its video. `ends`: a server that is asked to end
while it computes, one whose worker is killed, one whose model's folder is emptied; each with LVSA and without.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import root  # noqa: F401
import torch
from report import Results, parser_of
from server import Server, digest, serving
from tqdm import tqdm

from lvsa_core.facts import shipped
from lvsa_vllm_omni.measure.machine import facts

#: Of the mix: video frames (21 latent frames are 81), pixels, and what a request brings for LVSA.
FRAMES, SIZES = (17, 89, 97), ("64x64", "96x64")
KNOBS: tuple[dict[str, Any] | None, ...] = (
    None, {"enabled": False}, {"sparsity_scale": 0.5}, {"window_size": 8}, {"recipe": "long"},
    {"rotate_keyframes": False},
)  # fmt: skip
SAME = {"prompt": "a cat", "num_inference_steps": "2", "fps": str(shipped()["wan"]["fps"])}
#: What clients do with a request: wait for it, submit a job and fetch it, delete the job, hang up.
WAYS, WEIGHTS = ("wait", "job", "delete", "hang up"), (10, 6, 2, 2)
#: What generated knobs and settings are set to.
ODD: tuple[Any, ...] = (
    None,
    "",
    "x",
    "1; rm -rf /",
    -1,
    0,
    1,
    12,
    0.5,
    1e308,
    "nan",
    True,
    [],
    {},
    [1],
    {"a": 1},
    "é",
    "9" * 400,
)
WORDS = ("9" * 400, "", "0", "1", "-1", "no", "x", "1e9", "nan", "inf", "0.5", "12", "None", "{}", "auto", "long")


def request(chance: random.Random) -> dict[str, str]:
    """A request of the mix."""
    knobs = chance.choice(KNOBS)
    brings = {} if knobs is None else {"extra_params": json.dumps({"lvsa": knobs})}
    numbers = {"num_frames": str(chance.choice(FRAMES)), "size": chance.choice(SIZES), "seed": str(chance.randrange(2))}
    return {**SAME, **numbers, **brings}


def clients(count: int, workers: int, seed: int) -> dict[str, Any]:
    """Many clients at once; then each request that was answered once more, alone."""
    chance = random.Random(seed)
    asked = [(request(chance), chance.choices(WAYS, WEIGHTS)[0]) for _ in range(count)]
    with serving(LVSA_STRICT="1") as server:
        server.video(request(chance))
        made: list[tuple[dict[str, str], str, str]] = []
        memory: list[float] = []

        def run(one: tuple[dict[str, str], str]) -> tuple[dict[str, str], str, str]:
            fields, way = one
            return fields, way, _as(server, way, fields)

        with ThreadPoolExecutor(workers) as pool:
            for done in tqdm(pool.map(run, asked), total=count, unit="request"):
                made.append(done)
                memory.append(server.memory())
        videos = {json.dumps(fields): digest for fields, _, digest in made if len(digest) == 64}
        alone = {key: digest(server.video(json.loads(key))) for key in tqdm(sorted(videos), unit="alone")}
        fallbacks = server.log.read_text().count("[LVSA-FALLBACK]")
    videos_made = [(json.dumps(fields), digest) for fields, _, digest in made if len(digest) == 64]
    part = max(count // 4, 1)
    return {
        "requests": count,
        "clients": workers,
        "outcomes": dict(Counter(f"{way}: {digest if len(digest) != 64 else 'video'}" for _, way, digest in made)),
        "videos": len(videos_made),
        "kinds of requests": len(videos),
        "differ from the same request alone": sum(alone[key] != digest for key, digest in videos_made),
        "fallbacks": fallbacks,
        "MB, mean of the first quarter": round(sum(memory[:part]) / part, 1),
        "MB, mean of the last quarter": round(sum(memory[-part:]) / part, 1),
    }


def _as(server: Server, way: str, fields: dict[str, str]) -> str:
    """What becomes of a request: the digest of its video, or a word."""
    form = {name: (None, value) for name, value in fields.items()}
    if way == "wait":
        return digest(server.video(fields))
    if way == "hang up":
        try:
            with server.client(1) as client:
                client.post("/v1/videos/sync", files=form)
        except httpx.TimeoutException:
            return "hung up"
        return "was quicker"
    with server.client() as client:
        job = client.post("/v1/videos", files=form).json()["id"]
        if way == "delete":
            return f"deleted, {client.delete(f'/v1/videos/{job}').status_code}"
        while (state := client.get(f"/v1/videos/{job}").json())["status"] in ("queued", "in_progress"):
            time.sleep(0.5)
        return digest(client.get(f"/v1/videos/{job}/content")) if state["status"] == "completed" else state["status"]


def bad(chance: random.Random) -> tuple[str, Any]:
    """A knob of a request, of which most are wrong."""
    from lvsa_vllm_omni.request_knobs import NAMES

    name = chance.choice([*NAMES, *NAMES, "windows", "preset", "journal", "", "__class__"])
    return name, chance.choice(ODD)


def wrong_input(settings: int, requests: int, over_http: int, seed: int) -> dict[str, Any]:
    """Generated settings and knobs; what is refused must name its field."""
    from lvsa_vllm_omni.request_knobs import NAMES, chosen
    from lvsa_vllm_omni.settings import LvsaSettings, SettingsError
    from lvsa_vllm_omni.variables import PREFIX

    chance, found = random.Random(seed), Counter[str]()
    names, before = [name.upper() for name in vars(LvsaSettings())], dict(os.environ)
    for _ in tqdm(range(settings), unit="setting"):
        name, value = chance.choice([*names, "WINDOW", "WAN_HOK"]), chance.choice(WORDS)
        try:
            os.environ[PREFIX + name] = value
            LvsaSettings.load()
            found["settings accepted" if name in names else "settings accepted that are none"] += 1
        except SettingsError as error:
            found["settings refused" if name in str(error) else "settings refused without their name"] += 1
        finally:
            os.environ.clear()
            os.environ.update(before)
    for _ in tqdm(range(requests), unit="knob"):
        name, value = bad(chance)
        try:
            chosen(LvsaSettings(), {name: value})
            found["knobs accepted" if name in NAMES else "knobs accepted that are none"] += 1
        except ValueError as error:
            found["knobs refused" if name in str(error) else "knobs refused without name"] += 1
    with serving() as server:
        plain = {**SAME, "num_frames": "17", "size": "64x64", "seed": "1"}
        first = digest(server.video(plain))
        for _ in tqdm(range(over_http), unit="request"):
            name, value = bad(chance)
            answer = server.video({**plain, "extra_params": json.dumps({"lvsa": {name: value}})})
            found[f"over HTTP: status {answer.status_code}"] += 1
            if 400 <= answer.status_code < 500 and name not in answer.text:
                found["over HTTP: refused without name"] += 1
        found["over HTTP: the next request differs"] += digest(server.video(plain)) != first
    return dict(sorted(found.items()))


def disk() -> dict[str, Any]:
    """Journal and latents where nothing can be written."""
    found: dict[str, Any] = {}
    fields = {**SAME, "num_frames": "89", "size": "64x64", "seed": "1"}
    with tempfile.TemporaryDirectory() as folder:
        places = {"a folder, a file": (folder, __file__), "a full disk": ("/dev/full", "/dev/full/latents"),
                  "a read-only place": ("/proc/lvsa.jsonl", "/proc/lvsa")}  # fmt: skip
        with serving() as server:
            plain = digest(server.video(fields))
        for name, (journal, latents) in places.items():
            with serving(LVSA_JOURNAL=journal, LVSA_KEEP_LATENTS=latents) as server:
                same = [digest(server.video(fields)) == plain for _ in range(3)]
                lines = server.log.read_text().splitlines()
            warned = {key: sum(f"{key}=" in line and "cannot be written" in line for line in lines) for key in
                      ("LVSA_JOURNAL", "LVSA_KEEP_LATENTS")}  # fmt: skip
            found[name] = {"right videos of 3": sum(same), "warnings": warned}
    return found


LONG_JOB = {**SAME, "num_frames": "97", "size": "96x64", "seed": "1", "num_inference_steps": "80"}


def ends(plain: bool) -> dict[str, Any]:
    """What a server does that is asked to end, or that loses a process, while it computes; and one whose model moves.

    Args:
        plain: the engine's own server, without LVSA.
    """
    found: dict[str, Any] = {}
    for name, options in (("one device", ()), ("Ulysses 2", ("--usp", "2"))):
        with serving(*options, plain=plain) as server:
            found[f"{name}: SIGTERM"] = _ended(server, server.process.terminate)
        with serving(*options, plain=plain) as server:
            worker = next(one for one in server.family() if "DiffusionWorker" in " ".join(one.cmdline()))
            found[f"{name}: a worker killed"] = _ended(server, worker.kill)
    fields = {**SAME, "num_frames": "97", "size": "96x64", "seed": "1"}
    with serving(plain=plain) as server:
        before, moved = digest(server.video(fields)), server.checkpoint.with_name("moved")
        server.checkpoint.rename(moved)
        server.checkpoint.mkdir()
        found["the model's folder is emptied"] = "same video" if digest(server.video(fields)) == before else "differs"
    return found


def _ended(server: Server, event: Callable[[], None]) -> dict[str, Any]:
    """What becomes of a long request, the next one and the server's processes after an event in the middle of it."""
    family = server.family()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_word, server, LONG_JOB, 120)
        time.sleep(5)
        event()
        start = time.monotonic()
        found: dict[str, Any] = {"the request": answer.result()}
        found["its seconds"] = round(time.monotonic() - start, 1)
    found["the next request"] = _word(server, {**SAME, "num_frames": "17", "size": "64x64", "seed": "1"}, 30)
    tqdm.write(json.dumps(found))
    left = psutil.wait_procs(family, timeout=max(0, start + 120 - time.monotonic()))[1]
    found["processes left after 120 s"] = f"{len(left)} of {len(family)}"
    return found


def _word(server: Server, fields: Mapping[str, str], seconds: float) -> str:
    """How a request ends: the answer's status, or the kind of error."""
    try:
        with server.client(seconds) as client:
            form = {name: (None, value) for name, value in fields.items()}
            return f"status {client.post('/v1/videos/sync', files=form).status_code}"
    except httpx.TransportError as error:
        return type(error).__name__


def main() -> None:
    """Run a part, print what it found, and keep it."""
    parser = parser_of(__doc__, figure=False)
    parser.add_argument("part", choices=("clients", "input", "disk", "ends"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--settings", type=int, default=5000)
    parser.add_argument("--knobs", type=int, default=2000)
    parser.add_argument("--over-http", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.device(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    results = Results(options.json, facts(device, options.commit))
    if options.part == "clients":
        found = clients(options.requests, options.clients, options.seed)
    elif options.part == "input":
        found = wrong_input(options.settings, options.knobs, options.over_http, options.seed)
    elif options.part == "disk":
        found = disk()
    else:
        found = {"with LVSA": ends(plain=False), "without": ends(plain=True)}
    for name, value in found.items():
        print(f"| {name} | {value} |")
    results.save(found=found)


if __name__ == "__main__":
    main()
