"""A reasoner for solutions of any text: it finds the first step right and runs a line of code for it, and so on."""

from __future__ import annotations

from typing import Any

from genprm_trl.generation.loading import load_tokenizer
from tests.helpers.scripted_generator import ScriptedGenerator

BACKEND = "tests.helpers.plain_reasoner:PlainReasoner"


class PlainReasoner(ScriptedGenerator):
    """Finds every step right, in the form that the synthesis of rationales asks for."""

    def __init__(self, model: str, tokenizer: Any = None):
        super().__init__(_critique, load_tokenizer(model) if tokenizer is None else tokenizer, max_context=100_000)


def _critique(prompt: str) -> str:
    asked, _, turn = prompt.rpartition("Check the solution one paragraph at a time")
    done, steps = turn.count("### Paragraph "), asked.count("</paragraph_")
    closing = "</verify>\n\n" if done > 1 else ""  # the request itself names the heading once
    if done > steps:
        return f"{closing}\\boxed{{-1}}"
    return (
        f"{closing}### Paragraph {done}\n<analyze>\nIt is said.\n</analyze>\n<verify>\n```python\nprint({done})\n```\n"
    )
