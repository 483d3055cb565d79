"""What people write by hand: Flask, one model, `generate` under a lock. The alternative that throughput.py measures.

python -m benchmarks.naive_server MODEL_DIRECTORY PORT
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
from flask import Flask, jsonify, request
from transformers import AutoModelForCausalLM, AutoTokenizer


def create_app(directory: str) -> Flask:
    """POST /invocations {"query", "max_new_tokens"} → {"text", "usage"}; /ping."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    lock = threading.Lock()
    app = Flask("naive")

    @app.get("/ping")
    def ping() -> str:
        return ""

    @app.post("/invocations")
    def invocations() -> Any:
        body = request.get_json()
        ids = tokenizer(body["query"], return_tensors="pt")
        count = int(body["max_new_tokens"])
        with lock, torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        new = output[0, ids["input_ids"].shape[1] :]
        return jsonify(text=tokenizer.decode(new), usage={"completion_tokens": len(new)})

    return app


if __name__ == "__main__":
    create_app(sys.argv[1]).run("127.0.0.1", int(sys.argv[2]), threaded=True)
