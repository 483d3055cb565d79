"""The output of `serve --example`: two questions, their answers, and the commands to ask more."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

_QUESTIONS = ("Qual a capital do Brasil?", "What is the capital of Brazil?")


def show(url: str) -> None:
    """Ask the server at `url` over HTTP, as a client does, and print questions and answers on stdout."""
    lines = ["", f"Ready at {url}", ""]
    for question in _QUESTIONS:
        try:
            answer = _ask(url, {"query": question})
        except OSError as error:
            lines += [f"  {question}", f"  could not be asked over HTTP: {error}", ""]
            continue
        cited = next((source for source in answer["sources"] if source["cited"]), None)
        origin = f"   ({cited['title']}, {cited['id']})" if cited else ""
        lines += [f"  {question}", f"  → {answer['text']}{origin}", ""]
    lines += [
        "To ask a question, plain or streamed:",
        f"  curl -s {url}/invocations -H 'Content-Type: application/json' -d '{_body(_QUESTIONS[0])}'",
        f"  curl -sN {url}/invocations -H 'Content-Type: application/json' -d '{_body(_QUESTIONS[1], stream=True)}'",
        "Stop with Ctrl-C.",
        "",
    ]
    print("\n".join(lines), file=sys.stdout, flush=True)


def _body(question: str, **more: object) -> str:
    return json.dumps({"query": question, **more}, ensure_ascii=False)


def _ask(url: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
