"""What of a request can be told without vLLM; the engine itself is tested in `tests/vllm`."""

from __future__ import annotations

import pytest

from genprm_trl.generation.base import SamplingParams
from genprm_trl.generation.vllm_generator import _named_tokens


def test_more_tokens_than_the_engine_takes_by_name_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    assert _named_tokens(SamplingParams(logprobs=20, logprob_token_ids=tuple(range(128)))) == [*range(128)]
    assert not caplog.records
    for _ in range(2):
        assert _named_tokens(SamplingParams(logprobs=20, logprob_token_ids=tuple(range(129)))) == []
    [record] = caplog.records
    assert "have 129 tokens in this vocabulary, and vLLM reports at most 128 by name" in record.getMessage()
