"""A chain as a judge of steps: what came of its script, as the record of one step's judgement after the other."""

from __future__ import annotations

from genprm_trl.chain import Chain, ChainEnd
from genprm_trl.records import StepJudgement


class ChainJudge:
    """Judges the steps of a solution in order.

    Args:
        chain: Of the script of a verification protocol.
    """

    def __init__(self, chain: Chain[None]):
        self._chain = chain
        self._is_full = False

    async def judge_step(self) -> StepJudgement:
        """Judges the next step. Whatever the model writes or does not write ends in a judgement with a status.

        Raises:
            GenPRMError: The generator is closed, or nothing can be expected of it any more.
        """
        if self._is_full:
            # The model's context: the history only grows, so nothing that follows can fit either.
            return StepJudgement("", 0.5, "truncated")
        judged = await self._chain.advance()
        assert not isinstance(judged, ChainEnd), "a protocol judges every step"
        verdict, passage = judged
        self._is_full = verdict.status == "truncated"
        return StepJudgement(passage.text, verdict.reward, verdict.status, passage.code_rounds, passage.num_tokens)

    async def close(self) -> None:
        """Ends the chain."""
        await self._chain.close()
