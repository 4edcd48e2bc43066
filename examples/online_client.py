#!/usr/bin/env python
"""Ask a running server for videos: submit, wait, download.

    python examples/online_client.py --prompt "A red fox runs through fresh snow" --num-frames 321 --size 832x480
    python examples/online_client.py --prompts-file prompts.txt --num-frames 321 --lvsa sparsity_scale=0.75
    python examples/online_client.py --id video_123 --output-dir outputs/online

All prompts are submitted at once, and each video is written as soon as it is there: OUTPUT_DIR/<id>.mp4. The ids are
kept in OUTPUT_DIR/jobs.jsonl. After an interruption the same command waits for the same jobs and submits nothing twice.
--id fetches any job of the server by its id.

It uses OpenAI's client; LVSA's knobs go as extra_params, which any client can send: examples/curl.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.offline.files import atomic_path
from lvsa_vllm_omni.offline.prompts import PromptFileError, read_prompts_file

INTERRUPTED = 130
#: Seconds between two questions for the state of the jobs.
POLL = 1.0
DONE = ("completed", "failed", "cancelled", "expired")


def main(argv: Sequence[str] | None = None) -> int:
    """0: every video is there, 1: some failed, 2: nothing was tried, 130: interrupted."""
    arguments = parse(argv)
    try:
        import openai
        from tqdm import tqdm
    except ImportError as error:
        return complain(f"{error.name} is not installed: uv pip install openai tqdm")
    client = openai.OpenAI(base_url=f"{arguments.url.rstrip('/')}/v1", api_key=arguments.api_key, max_retries=0)
    record = arguments.output_dir / "jobs.jsonl"
    try:
        requests = [] if arguments.id else list(bodies(arguments))
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        jobs = dict.fromkeys(arguments.id or [], "") or submit(client, requests, record)
        failed: dict[str, str] = {}
        with tqdm(total=len(jobs), unit="video", dynamic_ncols=True) as bar:
            while jobs:
                for name in list(jobs):
                    state, reason = follow(client, name, arguments.output_dir / f"{name}.mp4")
                    if state in DONE:
                        del jobs[name]
                        bar.update()
                    if state in DONE and state != "completed":
                        failed[name] = reason
                        bar.write(f"failed: {name}: {reason}", file=sys.stderr)
                bar.set_postfix_str(f"{len(jobs)} waiting or running" if jobs else "")
                if jobs:
                    time.sleep(POLL)
        return 1 if failed else 0
    except (PromptFileError, ValueError, OSError) as error:
        return complain(str(error))
    except openai.APIConnectionError:
        return complain(f"no server answers at {arguments.url}: start one with lvsa serve MODEL, or name it with --url")
    except openai.APIStatusError as error:
        return complain(f"the server refuses: {said(error)}")
    except KeyboardInterrupt:
        print(f"\ninterrupted: the same command goes on; the ids are in {record}", file=sys.stderr)
        return INTERRUPTED


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", action="append", metavar="TEXT", help="repeat it for several videos")
    what.add_argument("--prompts-file", metavar="FILE", help="one prompt a line, or JSON lines as for offline_lvsa.py")
    what.add_argument("--id", action="append", help="a job that was submitted before")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--num-frames", type=int)
    parser.add_argument("--size", help="WIDTHxHEIGHT")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fps", type=int)
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--guidance", type=float)
    parser.add_argument(
        "--lvsa", action="append", default=[], metavar="KEY=VALUE", help="a knob of LVSA, see docs/settings.md"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/online"))
    return parser.parse_args(argv)


def bodies(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What is posted for each prompt; a prompt's own values win.

    Raises:
        ValueError: a knob or a prompt that cannot be sent.
    """
    knobs: dict[str, Any] = {}
    for text in arguments.lvsa:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--lvsa {text}: give KEY=VALUE, such as sparsity_scale=0.75")
        try:
            knobs[key] = json.loads(value)
        except ValueError:
            knobs[key] = value
    common = {
        "negative_prompt": arguments.negative_prompt, "num_frames": arguments.num_frames, "size": arguments.size,
        "seed": arguments.seed, "fps": arguments.fps, "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
    }  # fmt: skip
    if arguments.prompts_file is None:
        specs = [{"prompt": prompt} for prompt in arguments.prompt]
    else:
        specs = [spec.model_dump(exclude_none=True) for spec in read_prompts_file(arguments.prompts_file)]
    made = []
    for spec in specs:
        if unknown := spec.keys() & {"horizon", "image"}:
            raise ValueError(f"{arguments.prompts_file}: a server is not asked by {min(unknown)}: give num_frames")
        if {"height", "width"} <= spec.keys():
            spec["size"] = f"{spec.pop('width')}x{spec.pop('height')}"
        own = {**knobs, **spec.pop("lvsa", {})}
        body = {name: value for name, value in {**common, **spec}.items() if value is not None}
        made.append({**body, **({"extra_params": json.dumps({"lvsa": own})} if own else {})})
    return made


def submit(client: Any, requests: Sequence[dict[str, Any]], record: Path) -> dict[str, str]:
    """Submit what has not been submitted; returns prompts by id. Each id is written before the next is asked for."""
    lines = record.read_text().splitlines() if record.exists() else []
    kept = [json.loads(line) for line in lines]
    jobs: dict[str, str] = {}
    for number, request in enumerate(requests):
        known = [one["id"] for one in kept if (one["number"], one["request"]) == (number, request)]
        if not known:
            body = dict(request)
            known = [client.videos.create(prompt=body.pop("prompt"), extra_body=body).id]
            with record.open("a") as file:
                file.write(json.dumps({"id": known[0], "number": number, "request": request}) + "\n")
        jobs[known[-1]] = request["prompt"]
    return jobs


def follow(client: Any, name: str, target: Path) -> tuple[str, str]:
    """The state of a job, and why it failed; its video is written when it is there."""
    import openai

    if target.exists():
        return "completed", ""
    try:
        job = client.videos.retrieve(name)
    except openai.NotFoundError:
        return "failed", f"the server does not know it any more; delete its line in {target.parent / 'jobs.jsonl'}"
    except openai.APIStatusError as error:
        return "failed", said(error)
    if job.status == "completed":
        with atomic_path(target) as draft:
            draft.write_bytes(client.videos.download_content(name).read())
    return job.status, str(getattr(job.error, "message", None) or "no reason is given")


def said(error: Any) -> str:
    """The server's sentence."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or body.get("detail") or error.message).splitlines()[0]


def complain(sentence: str) -> int:
    """Nothing could be done."""
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
