"""Coverage-guided fuzzing of request bodies, by libFuzzer through atheris, in a separate process.

    python -m tests.fuzz_bodies CORPUS_DIRECTORY -runs=5000

The seed bodies are written to the directory. A body that causes a 5xx, an exception, or a refusal without a message
ends the process with a crash report, whose last line names the file that reproduces it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["inference", "rag"]):
    from inference import create_app
    from rag.serving.lifecycle import Boot
    from rag.settings import Settings
from tests.fakes import fake_pipeline
from tests.unit.serving.test_fuzz import BODIES, TYPES


def main() -> None:
    """Does not return: libFuzzer exits the process, with status 0 if nothing was found."""
    for number, body in enumerate(BODIES):
        (Path(sys.argv[1]) / f"body-{number}").write_bytes(b"\0" + json.dumps(body).encode())
    pipeline = fake_pipeline()
    boot = Boot(lambda _: pipeline)
    boot.start()
    boot.join()
    client = create_app(Settings(), boot).test_client()

    def one(data: bytes) -> None:
        content_type = TYPES[data[0] % len(TYPES)] if data else TYPES[0]
        with client.post("/invocations", data=data[1:], content_type=content_type, buffered=True) as response:
            assert response.status_code < 500, response.data
            assert response.status_code < 400 or response.get_json()["error"]["message"]
        pipeline.sessions.close_all()
        usage = pipeline.admission.usage()
        assert (usage.reserved_blocks, usage.waiting) == (0, 0)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
