import asyncio
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler

import pytest
from prometheus_client import Counter

from hortator.runtime.metrics import MAX_CONNECTIONS, AdminServer, new_registry


def _get(port, path, accept=""):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with opener.open(request, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_shows_the_apps_own_registry():
    registry = new_registry(with_process=False)
    Counter("demo_things", "Things.", registry=registry).inc(3)
    with AdminServer(registry) as admin:
        status, text = _get(admin.port, "/metrics")
    assert status == 200
    assert "demo_things_total 3.0" in text


def test_process_metrics_are_there_by_default():
    with AdminServer(new_registry()) as admin:
        assert "process_resident_memory_bytes" in _get(admin.port, "/metrics")[1]


def test_healthz_follows_the_liveness_check():
    live = True
    with AdminServer(new_registry(with_process=False), is_live=lambda: live) as admin:
        assert _get(admin.port, "/healthz") == (200, "ok\n")
        live = False
        assert _get(admin.port, "/healthz") == (503, "not live\n")


def test_readyz_lists_what_is_missing_until_nothing_is():
    missing = ["no workers", "not the leader"]
    with AdminServer(new_registry(with_process=False), not_ready=lambda: missing) as admin:
        assert _get(admin.port, "/readyz") == (503, "no workers\nnot the leader\n")
        missing.clear()
        assert _get(admin.port, "/readyz") == (200, "ok\n")


def test_a_check_that_raises_is_an_answer_not_a_hang():
    def broken():
        raise LookupError("gone")

    with AdminServer(new_registry(with_process=False), not_ready=broken) as admin:
        assert _get(admin.port, "/readyz") == (500, "LookupError: gone\n")


def test_an_unknown_path_names_the_known_ones():
    with AdminServer(new_registry(with_process=False)) as admin:
        status, text = _get(admin.port, "/metric")
    assert status == 404
    assert "/metrics" in text


def test_a_taken_port_is_an_error_that_names_the_address():
    with AdminServer(new_registry(with_process=False)) as first:
        second = AdminServer(new_registry(with_process=False), port=first.port)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{first.port} \\(admin port\\)"):
            second.start()


def test_closing_frees_the_port_and_may_be_repeated():
    admin = AdminServer(new_registry(with_process=False))
    port = admin.start()
    admin.close()
    admin.close()
    with AdminServer(new_registry(with_process=False), port=port) as again:
        assert again.port == port


async def test_it_answers_while_the_event_loop_is_blocked():
    def get_off_loop(port, out):
        out.append(_get(port, "/healthz"))

    with AdminServer(new_registry(with_process=False)) as admin:
        out: list = []
        thread = threading.Thread(target=get_off_loop, args=(admin.port, out))
        thread.start()
        thread.join(timeout=5)  # blocks this loop on purpose
        await asyncio.sleep(0)
    assert out == [(200, "ok\n")]


def test_close_frees_the_port_at_once():
    first = AdminServer(new_registry(with_process=False))
    port = first.start()
    started_at = time.monotonic()
    first.close()
    assert time.monotonic() - started_at < 0.5
    with AdminServer(new_registry(with_process=False), port=port) as second:
        assert second.port == port


@pytest.mark.parametrize("is_our_fault", [False, True], ids=["left before the answer", "a fault of ours"])
def test_only_our_own_faults_are_written_to_the_log(is_our_fault, monkeypatch, capfd):
    asked, left = threading.Event(), threading.Event()

    def is_live() -> bool:
        asked.set()
        return left.wait(5)

    if is_our_fault:
        monkeypatch.setattr(BaseHTTPRequestHandler, "send_response", lambda *_: 1 / 0)
    with AdminServer(new_registry(with_process=False), is_live=is_live) as admin:
        before = set(threading.enumerate())
        client = socket.create_connection(("127.0.0.1", admin.port))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert asked.wait(5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset, as of a process that was killed
        left.set()
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
    assert ("Traceback" in capfd.readouterr().err) is is_our_fault


def test_connections_that_never_ask_keep_nobody_waiting_and_few_threads():
    """Half a request holds a thread; of too many the oldest goes."""
    before = threading.active_count()
    with AdminServer(new_registry(with_process=False)) as admin, ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", admin.port), timeout=5))
            connection.sendall(b"GET /heal")
        assert _get(admin.port, "/healthz") == (200, "ok\n")
        deadline = time.monotonic() + 5
        while threading.active_count() > before + MAX_CONNECTIONS + 2:
            assert time.monotonic() < deadline, f"{threading.active_count()} threads"
            time.sleep(0.01)
        connection.sendall(b"thz HTTP/1.0\r\n\r\n")  # one of the newest, which is still heard
        assert connection.recv(100).startswith(b"HTTP/1.0 200")
