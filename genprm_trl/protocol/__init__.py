"""The text formats of verification: rendering, parsing and the script of a chain. Pure text, nothing heavy."""

from genprm_trl.protocol.base import Segment, VerificationProtocol
from genprm_trl.protocol.critique import critique_prompt, parse_critique, vote
from genprm_trl.protocol.genprm import (
    MODES,
    CodeBlock,
    GenPRMProtocol,
    Mode,
    Rationale,
    last_code_block,
    parse_rationale,
)
from genprm_trl.protocol.synthesis import Synthesis, parse_synthesis, synthesis_prompt

__all__ = [
    "MODES",
    "CodeBlock",
    "GenPRMProtocol",
    "Mode",
    "Rationale",
    "Segment",
    "Synthesis",
    "VerificationProtocol",
    "critique_prompt",
    "last_code_block",
    "parse_critique",
    "parse_rationale",
    "parse_synthesis",
    "synthesis_prompt",
    "vote",
]
