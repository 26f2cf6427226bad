"""The client against real servers that are busy, slow, broken, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.service import ServiceLimits
from genprm_trl.verifier import GenPRM
from genprm_trl.verifier.client import ServiceError, VerifierClient
from tests.helpers.conformance import VerifierConformance
from tests.helpers.judging_generator import Judging
from tests.helpers.running_service import TOKEN, direct, running, solutions, wait_for, yes
from tests.helpers.scripted_generator import Reply


class TestVerifierClient(VerifierConformance):
    @pytest.fixture
    def verifier(self) -> Iterator[VerifierClient]:
        with running(GenPRM(Judging("m"), None, GenPRMProtocol("analysis"), n=3, max_chains=4)) as service:
            yield VerifierClient(service.url, n=2, batch_size=2)


def judged(client: VerifierClient, count: int = 5, start: int = 0) -> list[str]:
    return sorted(v.id for v in client.verify_all(solutions(count, start=start), progress=False))


def ids(count: int, start: int = 0) -> list[str]:
    return sorted(solution.id for solution in solutions(count, start=start))


def test_verdicts_are_those_of_the_verifier():
    prm = direct(lambda prompt: "{No}$\n</output>\n" if "3 + 1" in prompt else yes(prompt), n=2)
    expected = sorted((v.to_dict() for v in prm.verify_all(solutions(20, steps=2))), key=lambda v: v["id"])
    with running(prm) as service:
        client = VerifierClient(service.url, batch_size=3, concurrency=4)
        found = sorted((v.to_dict() for v in client.verify_all(solutions(20, steps=2))), key=lambda v: v["id"])
        assert found == expected
        one = asyncio.run(client.verify(solutions(1, steps=2)[0]))
        assert one.to_dict() == expected[0]
        further = asyncio.run(client.verify_further(solutions(1, steps=2)[0], one))
        assert further.to_dict() == expected[0]
        assert service.metrics()["genprm_http_requests_total 200 /verify"] == 9


def test_options_and_token_reach_the_server(monkeypatch):
    with running(direct(), token=TOKEN) as service:
        with pytest.raises(ServiceError, match=r"status 401.*Authorization"):
            judged(VerifierClient(service.url))
        monkeypatch.setenv("GENPRM_SERVICE_TOKEN", TOKEN)
        options: dict[str, Any] = {"n": 3, "mode": "analysis", "stop": "first_error", "threshold": 0.25, "seed": 9}
        [verdict] = VerifierClient(service.url, **options, rationales=False).verify_all(solutions(1), progress=False)
        assert judged(VerifierClient(service.url, token=TOKEN)) == ids(5)
    assert (len(verdict.chains), verdict.threshold, verdict.chains[0][0].rationale) == (3, 0.25, "")


def test_options_can_be_changed():
    with running(direct()) as service:
        one = VerifierClient(service.url, threshold=0.25)
        three = one.with_options(n=3)
        for client, n in ((one, 1), (three, 3)):
            [verdict] = client.verify_all(solutions(1), progress=False)
            assert (len(verdict.chains), verdict.threshold, client.n) == (n, 0.25, n)
    with pytest.raises(ConfigError, match="n must be at least 1"):
        one.with_options(n=0)


def test_verdicts_stream_from_a_lazy_iterable():
    taken = 0

    def lazily() -> Iterator[Solution]:
        nonlocal taken
        for solution in solutions(100):
            taken += 1
            yield solution

    with running(direct(delay=0.01, max_chains=4)) as service:
        stream = VerifierClient(service.url, batch_size=4, concurrency=2).verify_all(lazily(), progress=False)
        next(stream)
        assert taken < 40
        assert len(list(stream)) == 99


def test_leaving_the_stream_ends_the_work():
    prm = direct(delay=0.01, max_chains=4)
    with running(prm) as service:
        stream = VerifierClient(service.url).verify_all(solutions(1000), progress=False)
        next(stream)
        stream.close()
        wait_for(lambda: service.metrics()["genprm_solutions_running"] == 0)
        assert len(prm.generator.calls) < 500


def test_equal_ids_do_not_get_into_each_others_way():
    table = [Solution("same", f"p{i}", ["s"]) for i in range(3)] + solutions(2)
    with running(direct()) as service:
        found = list(VerifierClient(service.url).verify_all(table, progress=False))
    assert sorted(v.solution_digest for v in found) == sorted(s.digest for s in table)


def test_a_busy_server_is_asked_again():
    with running(direct(delay=0.02, max_chains=1), ServiceLimits(max_queue=1, max_requests=2)) as service:
        client = VerifierClient(service.url, batch_size=2, concurrency=4)
        assert judged(client, 12) == ids(12)
        assert service.metrics()["genprm_http_requests_total 429 /verify"] > 0


def test_single_solutions_that_cannot_be_judged_do_not_spoil_the_others():
    table = [*solutions(8), Solution("blank", "p", ["  "]), Solution("long", "p", ["x"] * 9)]
    table[3:3] = [Solution("odd", "p", ["\ud800"])]
    found = []
    with (
        running(direct(), ServiceLimits(max_steps=4)) as service,
        pytest.raises(ServiceError, match=r"'odd' \(and 2 others\)") as caught,
    ):
        found += (v.id for v in VerifierClient(service.url).verify_all(table, progress=False))
    assert sorted(found) == ids(8)
    assert set(caught.value.refused) == {"odd", "blank", "long"}
    assert "at most 4" in caught.value.refused["long"]


def test_options_that_the_server_refuses():
    with running(direct(), ServiceLimits(max_n=2)) as service, pytest.raises(ServiceError, match="n is 3; at most 2"):
        judged(VerifierClient(service.url, n=3))


def test_a_server_that_stays_down_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(GenPRMError, match=r"stays unavailable.*ClientConnectorError") as caught:
        judged(VerifierClient(f"http://127.0.0.1:{port}", patience=1))
    assert re.search(r"given up after [0-9.]+ s", str(caught.value))


def test_a_server_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0), backlog=16) as mute:
        client = VerifierClient(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout=0.2, patience=0)
        with pytest.raises(ServiceError, match="Timeout on reading"):
            judged(client)


def test_a_failing_engine_is_waited_for_and_finished_work_is_kept():
    failing = threading.Event()

    def script(prompt: str) -> str:
        if failing.is_set() and "p7" in prompt:
            failing.clear()
            raise GenPRMError("the engine died")
        return yes(prompt)

    prm = direct(script)
    failing.set()
    with running(prm) as service:
        assert judged(VerifierClient(service.url, batch_size=10), 10) == ids(10)
    judging = [prompt for prompt, _ in prm.generator.calls if "<|im_start|>" in prompt]
    assert len(judging) == 11  # nothing but the one that failed was judged twice


def test_a_stopping_server_hands_over_to_another():
    slow, fast = direct(delay=0.2, max_chains=2), direct()
    with running(fast) as second, running(slow, shutdown_seconds=0.3) as first:
        client = VerifierClient([first.url, second.url], batch_size=16, concurrency=2)
        found = []
        for verdict in client.verify_all(solutions(32), progress=False):
            found.append(verdict.id)
            first.server.should_exit = len(found) > 16
        assert sorted(found) == ids(32)
    assert 0 < len([p for p, _ in slow.generator.calls if "<|im_start|>" in p]) < 16


def test_waiting_until_the_model_is_loaded():
    with running(direct()) as service:
        state = service.app.state.service
        state._prm, prm = None, state._prm
        client = VerifierClient(service.url)
        with pytest.raises(ServiceError, match=r"not ready after 0.2 s: .*being loaded"):
            asyncio.run(client.wait_until_ready(0.2))
        threading.Timer(0.5, lambda: setattr(state, "_prm", prm)).start()
        asyncio.run(client.wait_until_ready(20))
        assert judged(client) == ids(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": []}, "at least one server"),
        ({"urls": "127.0.0.1:8000"}, "not the URL of a server"),
        ({"urls": "ftp://host"}, "not the URL of a server"),
        ({"urls": "http://"}, "not the URL of a server"),
        ({"urls": "http://h:port"}, "not the URL of a server"),
        ({"urls": "http://h", "batch_size": 0}, "batch_size"),
        ({"urls": "http://h", "n": 0}, "n must be at least 1"),
        ({"urls": "http://h", "patience": -1}, "patience"),
    ],
)
def test_unusable_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        VerifierClient(**options)


@contextlib.contextmanager
def faulty(*answers: Any) -> Iterator[tuple[str, list[list[str]]]]:
    """A server that gives each request the next of the answers; its URL, and the ids that each request asked about.

    An answer is a status with headers, or a list of what the stream holds: how many true verdicts come, and bytes that
    are sent as they are. None breaks the connection off.
    """
    asked: list[list[str]] = []
    remaining = iter(answers)
    app = FastAPI()

    @app.post("/verify")
    async def verify(request: Request) -> Response:
        table = (await request.json())["solutions"]
        asked.append([row["id"] for row in table])
        answer = next(remaining)
        if isinstance(answer, tuple):
            status, headers = answer
            return JSONResponse({"error": {"message": "as told"}}, status, headers)
        verdicts = [(await direct().verify(Solution.from_dict(row))).to_dict() for row in table]

        async def stream() -> AsyncGenerator[bytes, None]:
            left = iter(verdicts)
            for part in answer:
                if part is None:
                    raise ConnectionError("broken off")
                if isinstance(part, bytes):
                    yield part
                else:
                    for _ in range(part):
                        yield json.dumps(next(left)).encode() + b"\n"

        return StreamingResponse(stream())

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        ((500, {}), 0),
        ((502, {"Retry-After": "soon"}), 0),
        ((503, {"Retry-After": "1"}), 0),
        ((429, {"Retry-After": "1.5"}), 0),
        ((408, {}), 0),
        ([], 0),
        ([None], 0),
        ([2], 2),
        ([2, None], 2),
        ([2, b'{"id": "s4", "rewards": [0.', None], 2),
        ([2, b"not JSON\n"], 2),
        ([2, b"[]\n"], 2),
        ([2, b'{"id": "s4"}\n'], 2),
        ([2, b"\n\n", b'{"id": "s4", "error": {"type": "engine", "message": "died"}}\n', 1], 3),
        ([1, b'{"id": "s4", "error": null}\n', 1], 2),
    ],
)
def test_what_is_missing_is_asked_for_again(fault, kept, caplog):
    caplog.set_level("INFO", logger="genprm_trl")
    with faulty(fault, [5]) as (url, asked):
        assert judged(VerifierClient(url)) == ids(5)
    assert [len(request) for request in asked] == [5, 5 - kept]
    if isinstance(fault, tuple) and fault[1].get("Retry-After", "").startswith("1"):
        assert re.search(r"trying again in [1-9]\.\d s", caplog.text)


@pytest.mark.parametrize(("status", "message"), [(401, "status 401"), (404, "status 404"), (413, "status 413")])
def test_what_would_not_be_better_next_time_is_not_tried_again(status, message):
    with faulty((status, {})) as (url, asked), pytest.raises(ServiceError, match=f"{message}: as told"):
        judged(VerifierClient(url))
    assert len(asked) == 1


def test_an_answer_about_something_else_is_an_error():
    other = json.dumps({"id": "s0", "rewards": [1.0], "prediction": -1, "solution_digest": "0" * 16}).encode()
    with faulty([other + b"\n"]) as (url, _), pytest.raises(ServiceError, match="not asked about"):
        judged(VerifierClient(url))


def test_a_solution_that_meets_a_defect_again_and_again_is_left_out():
    defect = b'{"id": "s2", "error": {"type": "internal", "message": "internal error (KeyError)"}}\n'
    found = []
    with (
        faulty([2, defect], [defect], [defect], [1]) as (url, asked),
        pytest.raises(ServiceError, match=r"'s2': .*KeyError") as caught,
    ):
        found += (v.id for v in VerifierClient(url).verify_all(solutions(4), progress=False))
    assert set(caught.value.refused) == {"s2"}
    assert asked == [["s0", "s1", "s2", "s3"], ["s2", "s3"], ["s2", "s3"], ["s3"]]


def test_a_long_wait_is_said(monkeypatch, caplog):
    monkeypatch.setattr("genprm_trl.verifier.client._QUIET", 0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ServiceError, match="stays unavailable"):
            judged(VerifierClient(f"http://127.0.0.1:{unused.getsockname()[1]}", patience=2))
    assert "trying again in" in caplog.text


def test_progress_renews_patience():
    answers = [[1]] * 6
    with faulty(*answers) as (url, asked):
        assert judged(VerifierClient(url, patience=0), 6) == ids(6)
    assert [len(request) for request in asked] == [6, 5, 4, 3, 2, 1]


def test_replies_of_any_text_come_through():
    strange = "a\u2028b\x85c\x1c \ud83d\ude42 数学"
    with running(
        direct(lambda _: Reply("{Yes}$" + strange.encode("utf-16", "surrogatepass").decode("utf-16")))
    ) as service:
        [verdict] = VerifierClient(service.url).verify_all(solutions(1), progress=False)
    assert "\u2028" in verdict.chains[0][0].rationale
