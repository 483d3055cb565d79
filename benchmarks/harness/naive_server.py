"""The baseline of throughput.py: Flask, one model, `generate` under a lock.

python -m benchmarks.harness.naive_server MODEL_DIRECTORY PORT [auto | float32]
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
from flask import Flask, jsonify, request
from transformers import AutoModelForCausalLM, AutoTokenizer


def create_app(directory: str, dtype: str) -> Flask:
    """POST /invocations {"query", "max_new_tokens"} → {"text", "usage"}; /ping. `dtype` auto: the checkpoint's."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    lock = threading.Lock()
    app = Flask("naive")

    @app.get("/ping")
    def ping() -> str:
        return ""

    @app.post("/invocations")
    def invocations() -> Any:
        body = request.get_json()
        ids = tokenizer(body["query"], return_tensors="pt", return_token_type_ids=False).to(model.device)
        with lock, torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=int(body["max_new_tokens"]), do_sample=False)
        prompt_tokens = ids["input_ids"].shape[1]
        new = output[0, prompt_tokens:]
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(new)}
        return jsonify(text=tokenizer.decode(new), usage=usage)

    return app


if __name__ == "__main__":
    dtype = sys.argv[3] if len(sys.argv) > 3 else "auto"
    create_app(sys.argv[1], dtype).run("127.0.0.1", int(sys.argv[2]), threaded=True)
