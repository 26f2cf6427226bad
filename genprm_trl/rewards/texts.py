"""Prompts and completions as TRL hands them to reward functions, as plain text."""

from __future__ import annotations

from typing import Any


def completion_text(completion: Any) -> str:
    """What the policy wrote: the text itself, or the text of its messages, those of tools left out.

    Args:
        completion: A string, or a list of messages whose content is a string or a list of typed parts.
    """
    if isinstance(completion, str):
        return completion
    return "\n".join(
        _content(message) for message in completion or [] if message.get("role", "assistant") == "assistant"
    )


def problem_text(prompt: Any) -> str:
    """What the policy was asked: the text itself, or the last user message.

    Args:
        prompt: A string, or a list of messages.
    """
    if isinstance(prompt, str):
        return prompt
    asked = [_content(message) for message in prompt or [] if message.get("role") == "user"]
    return asked[-1] if asked else ""


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # typed parts, of which only text can be judged
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
