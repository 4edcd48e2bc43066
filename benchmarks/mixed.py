"""What LVSA_AUTO=1 costs and gives a server with short and long requests: against the same server without LVSA.

Run it from the repository with the package installed; it starts two servers of a tiny Wan on the CPU, or on a GPU:

    python benchmarks/mixed.py --json benchmarks/results/mixed-cpu.json

Both servers run all the time and answer the same requests in turns, one at a time. Videos within the training length
must equal the plain server's, byte for byte; times are medians, with the ratio's bootstrap interval.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import root  # noqa: F401
import torch
from report import Results, interval, parser_of
from server import Server, digest, serving
from tqdm import tqdm

from lvsa_core.facts import shipped
from lvsa_vllm_omni.measure.machine import facts

#: Video frames of short and long requests; the training length is 81.
LENGTHS = {"short": (17, 49, 81), "long": (161, 241, 321)}
FIELDS = {"prompt": "a cat", "num_inference_steps": "2", "fps": str(shipped()["wan"]["fps"])}


def ask(server: Server, frames: int, size: str, seed: int) -> tuple[float, str]:
    """Seconds of a request, and its video's digest."""
    start = time.perf_counter()
    answer = server.video({**FIELDS, "num_frames": str(frames), "size": size, "seed": str(seed)})
    seconds = time.perf_counter() - start
    return seconds, digest(answer)


def measure(rounds: int, size: str) -> dict[str, Any]:
    """Short and long requests to both servers in turns."""
    found: dict[str, Any] = {}
    with serving(plain=True) as plain, serving(LVSA_AUTO="1", LVSA_STRICT="1") as auto:
        for frames in sorted(sum(LENGTHS.values(), ())):
            for server in (plain, auto):
                ask(server, frames, size, 0)
        for kind, lengths in LENGTHS.items():
            pairs: list[tuple[tuple[float, str], tuple[float, str]]] = []
            for seed in tqdm(range(rounds), unit=f"{kind} request"):
                order = [plain, auto] if seed % 2 else [auto, plain]
                answers = {id(server): ask(server, lengths[seed % len(lengths)], size, seed) for server in order}
                pairs.append((answers[id(plain)], answers[id(auto)]))
            ratios = [with_auto[0] / without[0] for without, with_auto in pairs]
            found[kind] = {
                "requests": rounds,
                "videos equal to the plain server's": sum(a[1] == b[1] for a, b in pairs),
                "seconds without LVSA, median": round(statistics.median(a[0] for a, _ in pairs), 3),
                "seconds with LVSA_AUTO=1, median": round(statistics.median(b[0] for _, b in pairs), 3),
                "ratio, median": round(statistics.median(ratios), 3),
                "its 95 % interval": [round(bound, 3) for bound in interval(ratios, "median")],
            }
        found["requests that ran sparse"] = auto.log.read_text().count("[LVSA] installed on ")
    return found


def main() -> None:
    """Measure, print, and keep."""
    parser = parser_of(__doc__, figure=False)
    parser.add_argument("--rounds", type=int, default=24, help="requests of each kind to each server")
    parser.add_argument("--size", default="128x128")
    options = parser.parse_args()
    device = torch.device(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    results = Results(options.json, facts(device, options.commit))
    found = measure(options.rounds, options.size)
    print(json.dumps(found, indent=1))
    results.save(found=found)


if __name__ == "__main__":
    main()
