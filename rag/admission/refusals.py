"""The refusals of requests that never fit or never end in time, with changes that pass the same check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.errors import PromptTooLong


def too_slow(
    prompt_tokens: int, new_tokens: int, *, least_s: float, limit_s: float, most_new_tokens: int
) -> PromptTooLong:
    """Work that can't end by the deadline; `most_new_tokens` could."""
    return PromptTooLong(
        f"{prompt_tokens} prompt tokens and {new_tokens} new ones take at least {least_s:.0f} s here, and "
        f"{limit_s:.0f} s are left",
        field="max_new_tokens",
        value=new_tokens,
        limit=most_new_tokens,
        remedy="ask for fewer max_new_tokens, or stream: a stream may take longer",
        figures={"fixes": [_fix("max_new_tokens", most_new_tokens)] if most_new_tokens else []},
    )


def too_long(
    prompt_tokens: int,
    new_tokens: int,
    *,
    limit_tokens: int,
    context_tokens: int,
    figures: Mapping[str, object],
) -> PromptTooLong:
    """More tokens than the governed context, or than the whole one."""
    tokens = prompt_tokens + new_tokens
    fixes: list[dict[str, Any]] = []
    if prompt_tokens < limit_tokens:
        fixes.append(_fix("max_new_tokens", limit_tokens - prompt_tokens))
    if limit_tokens < tokens <= context_tokens:
        fixes.append(_fix("allow_long_context", True))
    fixes.append({"deploy": {"CONTEXT": tokens}, "effect": "a context that holds this request"})
    limit_name = "the governed context" if limit_tokens < context_tokens else "the context"
    return PromptTooLong(
        f"{prompt_tokens} prompt tokens and {new_tokens} new ones exceed {limit_name} of {limit_tokens}",
        field="query" if prompt_tokens >= limit_tokens else "max_new_tokens",
        value=f"{tokens} tokens",
        limit=f"{limit_tokens} tokens",
        remedy=_remedy(fixes[0]),
        figures={**figures, "fixes": fixes},
    )


def _fix(name: str, value: object) -> dict[str, Any]:
    return {"set": {name: value}}


def _remedy(fix: dict[str, Any]) -> str:
    ((name, value),) = (fix.get("set") or fix["deploy"]).items()
    setting = "true" if value is True else value
    return f"set {name} to {setting}" if "set" in fix else f"shorten the question, or deploy with {name}={setting}"
