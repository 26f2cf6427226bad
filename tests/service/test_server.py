"""From start to end: readiness, what clients that hang up leave behind, metrics, logs, and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.errors import GenPRMError
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.sandbox import FusionSandbox, LocalSandbox
from genprm_trl.service import ServiceLimits, create_app
from genprm_trl.service.metrics import Metrics
from genprm_trl.service.observed_generator import ObservedGenerator
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.fusion_server import FusionServer
from tests.helpers.running_service import TOKEN, direct, lines, rows, running, wait_for, yes
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def test_not_ready_before_the_model_is_there():
    with running(direct()) as service:
        service.app.state.service._prm, prm = None, service.app.state.service._prm
        health = service.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "the model is being loaded")
        assert service.get("/health/live").status_code == 200
        refused = service.post({"solutions": rows(1)})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_ready")
        assert "retry-after" in refused.headers
        service.app.state.service._prm = prm
        assert service.get("/health").json()["defaults"]["n"] == 1


def test_not_ready_while_the_engine_fails_and_ready_again_after():
    broken = threading.Event()

    def script(prompt: str) -> str | Reply:
        if broken.is_set():
            raise GenPRMError("the engine died")
        return yes(prompt)

    with running(direct(script)) as service:
        assert service.get("/health").status_code == 200
        broken.set()
        answer = service.post({"solutions": rows(1)})  # nobody knew
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"] == {"type": "engine", "message": "the engine died"}
        health = service.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "the engine died")
        assert service.post({"solutions": rows(1)}).status_code == 503
        assert service.metrics()["genprm_ready"] == 0
        broken.clear()
        assert service.get("/health").status_code == 200
        assert "rewards" in lines(service.post({"solutions": rows(1)}))[0]
        assert service.metrics()["genprm_ready"] == 1


def test_not_ready_where_code_cannot_run():
    refusing = LocalSandbox(required=("nonsense",))
    with running(GenPRM(ScriptedGenerator(yes), refusing)) as service:
        health = service.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "code cannot run; the server's log says why")
        assert service.post({"solutions": rows(1)}).status_code == 503
        assert service.get("/health/live").status_code == 200
    # Without code there is nothing to ask.
    with running(GenPRM(ScriptedGenerator(yes), refusing, GenPRMProtocol("analysis"))) as service:
        assert service.get("/health").status_code == 200


def test_ready_again_once_code_runs_again(caplog):
    pytest.importorskip("sandbox_fusion")
    with (
        FusionServer().running() as server,
        running(GenPRM(ScriptedGenerator(yes), FusionSandbox(server.endpoint))) as service,
    ):
        assert service.get("/health").status_code == 200
        service.app.state.service._sandbox._fresh = 0.0
        server.reset("500", forever=True)
        assert [service.get("/health").status_code for _ in range(3)] == [503] * 3
        assert caplog.text.count("cannot be used") == 1
        server.reset()
        assert service.get("/health").status_code == 200


async def test_an_idle_engine_is_asked_and_a_busy_one_is_believed_for_a_while():
    generator = ScriptedGenerator(yes, delay=60)
    observed = ObservedGenerator(generator, Metrics(), fresh_seconds=0, probe_seconds=0.1, stall_seconds=0.3)
    assert await observed.trouble() == "the engine did not answer within 0 s"
    generator.delay = 0
    assert await asyncio.gather(*(observed.trouble() for _ in range(5))) == [None] * 5
    assert len(generator.calls) == 2  # one question for all who ask at once
    generator.delay = 60
    prompt = generator.tokenizer.encode("work")
    work = asyncio.create_task(observed.generate(prompt, generator.calls[0][1]))
    await asyncio.sleep(0.05)
    assert await observed.trouble() is None
    assert len(generator.calls) == 3
    await asyncio.sleep(0.35)
    assert "nothing has come from the engine" in str(await observed.trouble())
    work.cancel()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_cancels_its_chains(stream):
    prm = direct(delay=0.02, max_chains=4, n=2)
    generator = prm.generator
    with running(prm) as service:

        async def leave() -> None:
            body = {"solutions": rows(200), "stream": stream}
            async with (
                httpx2.AsyncClient(timeout=0.5) as http,
                http.stream("POST", f"{service.url}/verify", json=body) as answer,
            ):
                await anext(answer.aiter_lines())  # in one object nothing comes before the time-out

        with contextlib.suppress(httpx2.ReadTimeout):
            asyncio.run(leave())
        wait_for(lambda: service.metrics().get("genprm_http_requests_total 499 /verify") == 1)
        gauges = ("solutions_waiting", "solutions_running", "chains_running", "generations_in_flight")
        wait_for(lambda: not any(service.metrics()[f"genprm_{gauge}"] for gauge in gauges))
        calls = len(generator.calls)
        assert calls < 200
        assert service.metrics()["genprm_solutions_total cancelled"] > 100
        time.sleep(0.2)
        assert len(generator.calls) == calls
        assert service.post({"solutions": rows(1)}).status_code == 200


def test_a_client_that_takes_nothing_is_given_up():
    with running(direct(), ServiceLimits(send_seconds=0.3, max_solutions=400)) as service:
        # More than the kernel's buffers hold.
        table = [{"id": f"{i}" + "x" * 20_000, "problem": "p", "steps": ["s"]} for i in range(380)]
        body = json.dumps({"solutions": table}).encode()
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = "POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: service.metrics().get("genprm_http_requests_total 499 /verify") == 1, 60)


def test_metrics_count_what_has_happened():
    with running(
        direct(lambda prompt: "{No}$\n</output>\n" if "p1" in prompt else "never mind"), token=TOKEN
    ) as service:
        access = {"Authorization": f"Bearer {TOKEN}"}
        service.post({"solutions": rows(2, steps=2), "n": 3}, headers=access)
        service.post({"solutions": rows(1)})
        samples = service.metrics(headers=access)
    assert samples["genprm_http_requests_total 200 /verify"] == 1
    assert samples["genprm_http_requests_total 401 /verify"] == 1
    assert samples["genprm_http_request_seconds_count /verify"] == 2
    assert samples["genprm_solutions_total verdict"] == samples["genprm_solution_seconds_count"] == 2
    assert samples["genprm_chains_total"] == 6
    assert samples["genprm_judgements_total ok"] == 6
    assert samples["genprm_judgements_total no_verdict"] == 6
    assert samples["genprm_judgements_total error"] == 0
    assert samples["genprm_generated_tokens_total"] > 12
    assert samples["genprm_generations_total stop"] >= 12
    assert samples["genprm_solution_wait_seconds_count"] == 2
    assert samples["process_resident_memory_bytes"] > 0


def test_logs_follow_a_request_and_quote_nobody(caplog):
    def script(prompt: str) -> str:
        if "p1" in prompt:
            raise ValueError("model text")
        return yes(prompt)

    caplog.set_level(logging.INFO, logger="genprm_trl")
    with running(direct(script)) as service:
        given = service.post({"solutions": rows(2)}, headers={"X-Request-ID": "trainer-7.step:12"})
        odd = service.post({"solutions": rows(1)}, headers={"X-Request-ID": "x" * 100})
        service.get("/health")
    assert given.headers["x-request-id"] == "trainer-7.step:12"
    assert re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"])
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("genprm_trl.service")]
    assert any(
        re.fullmatch(r"POST /verify: 200 in \S+ s, solutions 2, n 1, verdicts 2, errors 0", m) for m in messages
    )
    assert not any("/health" in message for message in messages)
    assert not any("p0" in message or "0 + 0" in message for message in messages)


def test_a_stop_lets_work_finish_and_takes_no_more():
    with running(direct(delay=0.5)) as service:
        answers: list[httpx2.Response] = []
        request = threading.Thread(target=lambda: answers.append(service.post({"solutions": rows(3)})))
        request.start()
        wait_for(lambda: service.metrics()["genprm_solutions_running"] == 3)
        with httpx2.Client() as http:
            http.get(f"{service.url}/health/live")
            service.server.should_exit = True
            wait_for(lambda: http.get(f"{service.url}/health").status_code == 503)
            assert http.post(f"{service.url}/verify", json={"solutions": rows(1)}).status_code == 503
        request.join()
        service.thread.join(60)
        assert not service.thread.is_alive()
    assert len(lines(answers[0])) == 3
    assert all("rewards" in row for row in lines(answers[0]))


def test_a_stop_ends_what_takes_too_long():
    prm = direct(lambda prompt: yes(prompt), delay=0.0, max_chains=2)
    prm.generator.delay = 0.4
    with running(prm, shutdown_seconds=0.6) as service:
        answers: list[httpx2.Response] = []
        request = threading.Thread(target=lambda: answers.append(service.post({"solutions": rows(50)})))
        request.start()
        wait_for(lambda: service.metrics()["genprm_solutions_running"] == 2)
        service.server.should_exit = True
        request.join()
        service.thread.join(60)
        assert not service.thread.is_alive()
    table = lines(answers[0])
    assert sorted(row["id"] for row in table) == sorted(row["id"] for row in rows(50))
    stopped = [row for row in table if "error" in row]
    assert len(stopped) > 40
    assert {row["error"]["type"] for row in stopped} == {"stopping"}
    assert prm.generator.closed


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny-genprm"
    tiny_model(tiny_tokenizer()).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    ModelSettings(modes=("full",)).save(path)
    return path


def start(model: Path, *words: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """`genprm serve` in a separate process, and its URL."""
    command = [sys.executable, "-m", "genprm_trl", "serve", "--model", str(model), "--port", "0", *words]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening at (http://\S+)", line):
            return process, found[1]
    raise AssertionError(f"it ended with code {process.wait()}")


def test_the_command_serves_until_sigterm(model_dir):
    process, url = start(model_dir, "--max_step_tokens", "24", "--n", "2", GENPRM_SERVICE_TOKEN=TOKEN)
    # It answers, and says that it is not ready, while torch is still being imported.
    assert httpx2.get(f"{url}/health").status_code == 503
    wait_for(lambda: httpx2.get(f"{url}/health", timeout=30).status_code == 200, 240)
    access = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx2.post(f"{url}/verify", json={"solutions": rows(2, steps=2)}, headers=access, timeout=60)
    assert [len(row["chains"]) for row in lines(answer)] == [2, 2]
    assert httpx2.post(f"{url}/verify", json={"solutions": rows(1)}).status_code == 401
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))), httpx2.Client(base_url=url) as idle:
        idle.get("/health")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "exceeded" not in log
    assert re.search(rf"\[{answer.headers['x-request-id']}\] .*POST /verify: 200 .*solutions 2, n 2, verdicts 2", log)
    assert TOKEN not in log


def test_sigterm_while_the_model_is_being_loaded(model_dir):
    process, _ = start(model_dir)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "./nowhere"], "does not exist"),
        (["--host", "0.0.0.0"], "there is no token"),
        (["--port", "99999"], "cannot listen"),
        (["--n", "64"], "--max_n"),
        (["--max_queue", "0"], "max_queue must be positive"),
        (["--token_file", "nowhere"], "cannot be read"),
        (["--shutdown_seconds", "-1"], "shutdown_seconds must be at least 0"),
    ],
)
def test_unusable_options(model_dir, capsys, monkeypatch, words, message):
    monkeypatch.delenv("GENPRM_SERVICE_TOKEN", raising=False)
    command = ["serve", *([] if "--model" in words else ["--model", str(model_dir)]), "--port", "0", *words]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert "listening" not in error


def test_an_application_can_be_made_without_a_verifier():
    assert create_app().state.service.prm is None
