"""The sandbox as the service sees it: whether code can run."""

from __future__ import annotations

import asyncio
import logging
import time

from genprm_trl._loops import SharedCall
from genprm_trl.errors import GenPRMError
from genprm_trl.sandbox.base import Sandbox

logger = logging.getLogger(__name__)


class ObservedSandbox:
    """Knows whether a sandbox can run code. A good answer counts for a while, and one question is asked at a time.

    Args:
        sandbox: The sandbox.
        fresh_seconds: How long a good answer counts.
        patience: Seconds that an answer may take.
    """

    def __init__(self, sandbox: Sandbox, *, fresh_seconds: float = 10.0, patience: float = 30.0):
        self._sandbox, self._fresh, self._patience = sandbox, fresh_seconds, patience
        self._answered = float("-inf")
        self._said = ""
        self._question = SharedCall(self._ask)

    async def trouble(self) -> str | None:
        """Why code cannot run, or None if it can."""
        if time.monotonic() - self._answered < self._fresh:
            return None
        return await self._question()

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(self._patience):
                await self._sandbox.check()
        except TimeoutError:
            return f"the sandbox did not answer within {self._patience:.0f} s"
        except GenPRMError as error:
            if str(error) != self._said:  # once, however often it is asked for
                self._said = str(error)
                logger.warning("%s", error)
            return "code cannot run; the server's log says why"  # it may name paths, and anybody may ask
        self._answered, self._said = time.monotonic(), ""
        return None
