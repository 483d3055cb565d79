"""Measures the latency of a running engine, so that a plan can use figures of the machine it is for.

Sends this project's request body to …/invocations and chat completions to any other address; answers are streamed as
server-sent events. Prompts of several lengths, one at a time, give the prefill rate as the slope of TTFT; the time
between tokens gives TPOT, of one session alone and of several at once.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from capacity.errors import CapacityError, InvalidInput
from capacity.planning.measurements import MeasuredLatency

_WORDS = ("river", "stone", "lamp", "cloud", "paper", "garden", "window", "bridge")


class RefusedPrompt(CapacityError):  # noqa: N818 - named for what happened
    """The engine refused a prompt, as too long."""


@dataclass(frozen=True, slots=True)
class LatencySample:
    """One streamed answer: seconds to its first token and, on average, between tokens (None if it had one token)."""

    ttft_s: float
    tpot_s: float | None
    prompt_tokens: int
    completion_tokens: int


def measure(
    url: str,
    *,
    prompt_words: Sequence[int] = (16, 64, 160, 384),
    repeats: int = 3,
    sessions: int = 8,
    new_tokens: int = 32,
    timeout_s: float = 120.0,
    log: Callable[[str], None] = lambda line: None,
) -> MeasuredLatency:
    """Latency of the engine at `url` (the endpoint's full address), with one session and with `sessions` at once.

    `log` gets a line a request. Raises CapacityError where the engine can't be reached or the answer can't be parsed.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidInput("url", f"{url[:80]!r} is not an http address")
    samples: list[LatencySample] = []
    _sample(
        url, _prompt(prompt_words[0], 0), new_tokens, timeout_s
    )  # warm-up: the first request initialises what is lazy
    for words in prompt_words:
        for turn in range(repeats):
            try:
                sample = _sample(url, _prompt(words, turn + 1), new_tokens, timeout_s)
            except RefusedPrompt as error:
                if not samples:
                    raise
                log(f"prompts of {words} words and more are left out: {error}")
                break
            samples.append(sample)
            log(f"{sample.prompt_tokens} tokens in: first after {sample.ttft_s:.3f} s, {sample.completion_tokens} out")
        else:
            continue
        break
    together = []
    if sessions > 1:
        with ThreadPoolExecutor(sessions) as pool:
            prompts = [_prompt(prompt_words[0], turn) for turn in range(sessions)]
            together = list(pool.map(lambda prompt: _sample(url, prompt, new_tokens, timeout_s), prompts))
        log(f"{sessions} sessions at once: {sum(sample.completion_tokens for sample in together)} tokens out")
    return fit(samples, together)


def fit(samples: Sequence[LatencySample], together: Sequence[LatencySample] = ()) -> MeasuredLatency:
    """A line fitted to TTFT over prompt tokens, and the median time between tokens, alone and `together`.

    Raises CapacityError where no answer had two tokens.
    """
    tpots = [sample.tpot_s for sample in samples if sample.tpot_s is not None]
    if not samples or not tpots:
        raise CapacityError("no answer had two tokens, so TPOT is unknown; raise --new-tokens")
    lengths, firsts = [sample.prompt_tokens for sample in samples], [sample.ttft_s for sample in samples]
    slope, floor = 0.0, 0.0
    if len(set(lengths)) > 1:
        slope, floor = statistics.linear_regression(lengths, firsts)
    if slope <= 0 or floor < 0:  # noise exceeds the slope: the longest prompt gives a lower bound
        longest = max(samples, key=lambda sample: sample.prompt_tokens)
        slope, floor = longest.ttft_s / longest.prompt_tokens, 0.0
    tpot, added = statistics.median(tpots), 0.0
    concurrent = [sample.tpot_s for sample in together if sample.tpot_s is not None]
    if len(concurrent) > 1:
        added = max(0.0, (statistics.median(concurrent) - tpot) / (len(concurrent) - 1))
    return MeasuredLatency(
        prefill_tokens_per_s=round(1 / slope, 3),
        ttft_floor_s=round(floor, 6),
        tpot_s=round(tpot, 6),
        tpot_added_s=round(added, 7),
        context_tokens=max(sample.prompt_tokens + sample.completion_tokens for sample in samples),
    )


def _prompt(words: int, turn: int) -> str:
    """A question of about `words` words; each `turn` differs from the first word on, so no cached prefix is reused."""
    filler = " ".join(_WORDS[(index * 7 + turn) % len(_WORDS)] for index in range(words))
    return f"{_WORDS[turn % len(_WORDS)]} {turn}: {filler}. Count slowly from one to two hundred."


def _sample(url: str, prompt: str, new_tokens: int, timeout_s: float) -> LatencySample:
    request = urllib.request.Request(
        url,
        data=json.dumps(_body(url, prompt, new_tokens)).encode(),
        headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
    )
    begin = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return _read(answer, begin)
    except urllib.error.HTTPError as error:
        kind = RefusedPrompt if 400 <= error.code < 500 else CapacityError
        body = error.read(200).decode("utf-8", "replace")
        raise kind(f"{url} answered {error.code}: {body}") from error
    except OSError as error:
        raise CapacityError(f"{url} can't be reached: {error}") from error


def _body(url: str, prompt: str, new_tokens: int) -> dict[str, Any]:
    """For …/invocations generation without retrieval, every answer of the same length; else chat completions."""
    if url.rstrip("/").endswith("/invocations"):
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        return {"query": prompt, "mode": "generate", "stream": True, **lengths}
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": new_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _read(stream: IO[bytes], begin: float) -> LatencySample:
    first = last = 0.0
    pieces, usage = 0, None
    for event in _events(stream):
        if event.get("type") == "error" or "error" in event:
            raise CapacityError(f"the engine failed: {json.dumps(event)[:300]}")
        if event.get("type") == "text" or any(
            (choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()
        ):
            last = time.perf_counter()
            first = first or last
            pieces += 1
        usage = event.get("usage") or usage
    if not pieces or not usage:
        raise CapacityError("the answer had no text or no usage; is this a streaming endpoint?")
    tokens = int(usage["completion_tokens"])
    tpot = (last - first) / (tokens - 1) if tokens > 1 and pieces > 1 else None
    return LatencySample(first - begin, tpot, int(usage["prompt_tokens"]), tokens)


def _events(stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream."""
    for line in stream:
        text = line.decode("utf-8", "replace").strip()
        if not text.startswith("data:") or text.removeprefix("data:").strip() == "[DONE]":
            continue
        try:
            event = json.loads(text.removeprefix("data:"))
        except json.JSONDecodeError as error:
            raise CapacityError(f"an event is not JSON: {text[:120]}") from error
        if isinstance(event, dict):
            yield event
