"""The text formats of verification: rendering, parsing and the script of a chain. Pure text, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.protocol.base import Segment as Segment
    from genprm_trl.protocol.base import VerificationProtocol as VerificationProtocol
    from genprm_trl.protocol.critique import CriticProtocol as CriticProtocol
    from genprm_trl.protocol.critique import critique_prompt as critique_prompt
    from genprm_trl.protocol.critique import parse_critique as parse_critique
    from genprm_trl.protocol.critique import vote as vote
    from genprm_trl.protocol.genprm import MODES as MODES
    from genprm_trl.protocol.genprm import CodeBlock as CodeBlock
    from genprm_trl.protocol.genprm import GenPRMProtocol as GenPRMProtocol
    from genprm_trl.protocol.genprm import Mode as Mode
    from genprm_trl.protocol.genprm import Rationale as Rationale
    from genprm_trl.protocol.genprm import last_code_block as last_code_block
    from genprm_trl.protocol.genprm import parse_rationale as parse_rationale
    from genprm_trl.protocol.synthesis import Synthesis as Synthesis
    from genprm_trl.protocol.synthesis import parse_synthesis as parse_synthesis
    from genprm_trl.protocol.synthesis import synthesis_prompt as synthesis_prompt
    from genprm_trl.protocol.thinkprm import ThinkPRMProtocol as ThinkPRMProtocol

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".base": ["Segment", "VerificationProtocol"],
        ".critique": ["CriticProtocol", "critique_prompt", "parse_critique", "vote"],
        ".genprm": ["CodeBlock", "GenPRMProtocol", "MODES", "Mode", "Rationale", "last_code_block", "parse_rationale"],
        ".synthesis": ["Synthesis", "parse_synthesis", "synthesis_prompt"],
        ".thinkprm": ["ThinkPRMProtocol"],
    },
)
