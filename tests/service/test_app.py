"""What `POST /verify` answers: verdicts as the verifier itself gives them, as lines or as one object."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx2
import pytest

from genprm_trl.client import VerifierClient
from genprm_trl.generation import TransformersGenerator
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.records import StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.sandbox import ExecutionResult, LocalSandbox
from genprm_trl.service import ServiceLimits
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.running_service import direct, lines, rows, running, solutions, wait_for
from tests.helpers.scripted_generator import Reply, ScriptedGenerator, checking_script
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def verdict_of(row: dict) -> dict:
    """A verdict's row without what the clock decides."""
    for chain in row["chains"]:
        for judgement in chain:
            for code_round in judgement["code_rounds"]:
                code_round["seconds"] = 0.0
    return row


def test_verdicts_equal_those_of_the_verifier_itself():
    """A real model that samples, with the same seed, in another order and in other company."""
    generator = TransformersGenerator(tiny_model(), tiny_tokenizer())
    options = {"n": 3, "seed": 5, "threshold": 0.4}
    prm = GenPRM(generator, None, GenPRMProtocol(mode="analysis", max_step_tokens=12), max_chains=4)
    expected = {v.id: v.to_dict() for v in prm.with_options(**options).verify_all(solutions(6, steps=2))}
    with running(prm) as service:
        answer = service.post({"solutions": rows(6, steps=2)[::-1], **options})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert {row["id"]: row for row in lines(answer)} == expected
    assert len({j["rationale"] for row in expected.values() for chain in row["chains"] for j in chain}) > 30


def test_code_runs_in_the_sandbox():
    def script(prompt: str) -> str:
        return checking_script(prompt) if "Paragraph" in prompt else "whatever the health check asks"

    prm = GenPRM(ScriptedGenerator(script), LocalSandbox())
    [expected] = [v.to_dict() for v in prm.verify_all(solutions(1), progress=False)]
    with running(prm) as service:
        [row] = lines(service.post({"solutions": rows(1)}))
        samples = service.metrics()
    assert verdict_of(row) == verdict_of(expected)
    assert row["chains"][0][0]["code_rounds"][0]["output"] == "True"
    assert samples["genprm_code_blocks_total ok"] == 1
    assert samples["genprm_code_block_seconds_count"] == 1


def test_lines_come_while_others_are_still_judged():
    release = threading.Event()

    async def script(prompt: str) -> str:
        if "9 + 0" in prompt:
            await asyncio.to_thread(release.wait)
        return "{Yes}$\n</output>\n"

    with running(direct(script)) as service:
        body = {"solutions": rows(10)}
        with httpx2.stream("POST", f"{service.url}/verify", json=body, timeout=30) as answer:
            arriving = answer.iter_lines()
            first = [json.loads(next(arriving))["id"] for _ in range(9)]
            assert sorted(first) == [f"s{i}" for i in range(9)]
            release.set()
            assert json.loads(next(arriving))["id"] == "s9"
            assert list(arriving) == []


@pytest.mark.parametrize(
    ("accept", "parameter", "kind"),
    [
        ("*/*", None, "application/x-ndjson"),
        ("application/json", None, "application/json"),
        ("application/json, application/x-ndjson", None, "application/x-ndjson"),
        ("*/*", False, "application/json"),
        ("application/json", True, "application/x-ndjson"),
    ],
)
def test_one_object_or_lines(accept, parameter, kind):
    with running(direct()) as service:
        body = {"solutions": rows(3), **({} if parameter is None else {"stream": parameter})}
        answer = service.post(body, headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind
    if kind == "application/json":
        content = answer.json()
        assert [row["id"] for row in content["verdicts"]] == ["s0", "s1", "s2"]
        assert content["errors"] == []


def test_options_of_a_request():
    with running(
        direct(lambda prompt: "{No}$\n</output>\n" if "1 = " in prompt else "{Yes}$\n</output>\n")
    ) as service:
        [plain] = lines(service.post({"solutions": rows(1, steps=4)}))
        body = {"solutions": rows(1, steps=4), "n": 4, "stop": "first_error", "threshold": 0.9}
        [asked] = lines(service.post(body))
        [other] = lines(service.post({"solutions": rows(1), "mode": "analysis"}))
        [adaptive] = lines(service.post({"solutions": rows(1, steps=4), "n": 5, "adaptive": "exact"}))
        [bare] = lines(service.post({"solutions": rows(1, steps=4), "n": 2, "rationales": False}))
    assert (len(plain["chains"]), plain["prediction"], len(plain["rewards"])) == (1, 1, 4)
    assert (len(asked["chains"]), asked["threshold"], len(asked["rewards"])) == (4, 0.9, 2)
    assert plain["chains"][0][0]["rationale"].startswith("<output>")
    assert other["chains"][0][0]["rationale"].startswith("<analyze>")
    assert len(adaptive["chains"]) == 3
    assert bare["rewards"] == plain["rewards"]
    assert bare["chains"][1][1] == {**plain["chains"][0][1], "rationale": "", "code_rounds": []}
    assert Verdict.from_dict(bare).chains[0][0].status == "ok"


class Brevity(Verifier):
    """No more than a verifier must be: without a generator, chains or options."""

    async def verify(self, solution):
        rewards = [1.0 if len(step) < 80 else 0.0 for step in solution.steps]
        chain = [StepJudgement("", reward, "ok") for reward in rewards]
        return Verdict(solution.id, rewards, prediction_from_rewards(rewards), [chain])


def test_any_verifier_is_served():
    with running(Brevity()) as service:
        [row] = lines(service.post({"solutions": [{"id": "a", "problem": "p", "steps": ["short", "long " * 20]}]}))
        same = service.post({"solutions": rows(1), "n": 1, "stop": "never", "adaptive": "off"})
        refused = {name: service.post({"solutions": rows(1), name: 2 if name == "n" else 0}) for name in ("n", "seed")}
        health, samples = service.get("/health").json(), service.metrics()
    assert (row["rewards"], row["prediction"]) == ([1.0, 0.0], 1)
    assert same.status_code == 200
    assert {name: answer.status_code for name, answer in refused.items()} == {"n": 422, "seed": 422}
    assert refused["n"].json()["error"]["message"] == "Brevity has n=1, which cannot be changed"
    assert refused["seed"].json()["error"]["message"] == "Brevity has no option 'seed'"
    assert health["defaults"] == {"n": 1, "stop": "never", "adaptive": "off"}
    assert samples["genprm_solutions_total verdict"] == 2


def test_rows_get_ids_and_keep_their_labels():
    table = [{"problem": "p", "steps": ["a", "b"], "label": 1, "level": [[["anything"]]]}, {"id": 7, **rows(1)[0]}]
    table[1]["id"] = 7
    with running(direct()) as service:
        answer = service.post({"solutions": table})
    assert {row["id"]: row["label"] for row in lines(answer)} == {"row-1": 1, "7": None}


def test_texts_that_are_hard_to_put_into_lines():
    strange = "a\u2028b\x85c\x0bd\u0000e\ud83d\ude42 数学 \r\n"
    with running(direct(lambda _: Reply("{Yes}$\u2028\n</output>\n"))) as service:
        answer = service.post({"solutions": [{"id": strange, "problem": strange, "steps": [strange]}]})
        assert len(answer.text.splitlines()) == 1
    assert json.loads(answer.text)["id"] == strange.encode("utf-16", "surrogatepass").decode("utf-16")


def test_an_error_of_one_solution_does_not_end_the_stream():
    class Defective(GenPRM):
        async def verify(self, solution):
            if solution.id == "s1":
                raise KeyError("the secret text of a step")
            return await super().verify(solution)

        def with_options(self, **changes):
            changed = super().with_options(**changes)
            changed.__class__ = Defective
            return changed

    prm = Defective(ScriptedGenerator(lambda _: "{Yes}$\n</output>\n"), None, GenPRMProtocol(mode="direct"))
    with running(prm) as service:
        answer = service.post({"solutions": rows(3)})
        whole = service.post({"solutions": rows(3), "stream": False})
        samples = service.metrics()
    by_id = {row["id"]: row for row in lines(answer)}
    assert by_id["s1"]["error"]["type"] == "internal"
    assert "secret" not in answer.text
    assert "rewards" in by_id["s0"]
    assert "rewards" in by_id["s2"]
    assert [row["id"] for row in whole.json()["verdicts"]] == ["s0", "s2"]
    assert [row["id"] for row in whole.json()["errors"]] == ["s1"]
    assert samples["genprm_solutions_total error"] == 2


def test_concurrent_clients_all_get_theirs():
    prm = direct(delay=0.002, max_chains=16)
    with running(prm) as service:

        async def client(number: int) -> list[str]:
            async with httpx2.AsyncClient(timeout=60) as http:
                table = rows(4, steps=2, start=10 * number)
                answer = await http.post(f"{service.url}/verify", json={"solutions": table, "n": 1 + number % 3})
                return sorted(row["id"] for row in lines(answer))

        async def everybody() -> list[list[str]]:
            return await asyncio.gather(*(client(number) for number in range(40)))

        answers = asyncio.run(everybody())
        samples = service.metrics()
    assert answers == [sorted(row["id"] for row in rows(4, start=10 * number)) for number in range(40)]
    assert samples["genprm_solutions_total verdict"] == 160
    assert samples["genprm_chains_total"] == sum(4 * (1 + number % 3) for number in range(40))
    for gauge in ("solutions_waiting", "solutions_running", "chains_waiting", "chains_running"):
        assert samples[f"genprm_{gauge}"] == 0


def test_a_small_request_does_not_wait_for_all_of_a_large_one():
    order: list[str] = []

    async def script(prompt: str) -> str:
        order.append("small" if "p500" in prompt else "large")
        await asyncio.sleep(0.005)
        return "{Yes}$\n</output>\n"

    with running(direct(script, max_chains=2)) as service:

        async def both() -> None:
            async with httpx2.AsyncClient(timeout=60) as http:
                large = asyncio.create_task(http.post(f"{service.url}/verify", json={"solutions": rows(200)}))
                await asyncio.to_thread(wait_for, lambda: len(order) > 10)
                at = len(order)
                await http.post(f"{service.url}/verify", json={"solutions": rows(3, start=500)})
                assert "small" in order[at : at + 8]
                assert len(order) < 150
                await large

        asyncio.run(both())


def test_a_silent_stream_shows_signs_of_life():
    with running(direct(delay=0.5), ServiceLimits(heartbeat_seconds=0.05)) as service:
        answer = service.post({"solutions": rows(1)})
    assert answer.text.startswith("\n\n\n")
    assert [row["id"] for row in lines(answer)] == ["s0"]


class Failing(LocalSandbox):
    """A sandbox whose blocks fail for as long as it is told to."""

    failures = 0

    def session(self):
        session = super().session()
        run = session.run

        async def run_or_fail(code):
            if Failing.failures > 0:
                Failing.failures -= 1
                return ExecutionResult("", "sandbox_error", 0.0, "No session could be started.")
            return await run(code)

        session.run = run_or_fail
        return session


def judging(prompt: str) -> str:
    return checking_script(prompt) if "Paragraph" in prompt else "whatever the health check asks"


@pytest.mark.parametrize("stream", [True, False])
def test_a_fault_of_the_sandbox_is_a_503(stream):
    with running(GenPRM(ScriptedGenerator(judging), Failing())) as service:
        Failing.failures = 100
        answer = service.post({"solutions": rows(2), "stream": stream})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["type"] == "sandbox"
        Failing.failures = 0
        assert service.post({"solutions": rows(2), "stream": stream}).status_code == 200
        samples = service.metrics()
    assert samples["genprm_solutions_total error"] == samples["genprm_solutions_total verdict"] == 2
    assert samples["genprm_code_blocks_total sandbox_error"] >= 2


def test_a_fault_of_the_sandbox_with_one_solution_leaves_the_others_theirs():
    with running(GenPRM(ScriptedGenerator(judging), Failing(), max_chains=1)) as service:
        Failing.failures = 1
        table = {row["id"]: row for row in lines(service.post({"solutions": rows(3)}))}
        Failing.failures = 1
        whole = service.post({"solutions": rows(3), "stream": False}).json()
    assert sorted(table) == ["s0", "s1", "s2"]
    assert [row["error"]["type"] for row in table.values() if "error" in row] == ["sandbox"]
    assert len(whole["verdicts"]) == 2
    assert [row["error"]["type"] for row in whole["errors"]] == ["sandbox"]


def test_a_client_asks_again_after_a_fault_of_the_sandbox():
    with running(GenPRM(ScriptedGenerator(judging), Failing())) as service:
        Failing.failures = 1
        verdicts = list(VerifierClient(service.url).verify_all(solutions(2), progress=False))
    assert Failing.failures == 0
    assert {judgement.status for verdict in verdicts for chain in verdict.chains for judgement in chain} == {"ok"}


def test_code_that_ends_its_process_is_no_fault_of_the_sandbox():
    def script(prompt: str) -> str:
        return judging(prompt).replace("print(", "import os; os._exit(1); print(")

    with running(GenPRM(ScriptedGenerator(script), LocalSandbox())) as service:
        answer = service.post({"solutions": rows(1)})
    assert answer.status_code == 200
    assert lines(answer)[0]["chains"][0][0]["code_rounds"][0]["status"] == "killed"


def test_the_schema_describes_the_request():
    with running(direct()) as service:
        schema = service.get("/openapi.json").json()
    body = schema["paths"]["/verify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["solutions"]
    assert {"n", "mode", "stop", "threshold", "seed"} <= set(body["properties"])
    assert set(schema["paths"]) == {"/verify", "/health", "/health/live", "/metrics"}
