"""Jobs of a batch, as far as they go without an engine."""

from pathlib import Path
from types import ModuleType

from lvsa_vllm_omni.offline import Job
from lvsa_vllm_omni.offline.arguments import parser
from lvsa_vllm_omni.offline.files import write_json
from lvsa_vllm_omni.offline.record import video_record


def jobs(script: ModuleType, checkpoint: Path, *argv: str) -> list[Job]:
    """Those that the script makes of a command line."""
    prompt = () if "--prompts-file" in argv or "--prompt" in argv else ("--prompt", "a cat")
    _, found = script.prepare(parser("").parse_args(["--model", str(checkpoint), *prompt, *argv]))
    return list(found)


def finish(job: Job, folder: Path) -> None:
    """Write what a job leaves when it is done."""

    class Output:
        stage_durations = {"stage_0_gen_ms": 12.5}  # noqa: RUF012
        peak_memory_mb = 1024.0

    job.video(folder).write_bytes(b"video")
    write_json(job.record(folder), video_record(job.settings, 21, {"file": "x"}, {"generation": 1.0}, Output()))
