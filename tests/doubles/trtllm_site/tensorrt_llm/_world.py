"""Several pods: the rank processes, and the link that `LLM` has to them through rank 0.

    LLM --TCP, authenticated--> leader node (rank 0) --TCP--> worker nodes (ranks 1 to N-1)

A forward pass ends when every rank has answered. Nobody tells `LLM` of a rank that is gone: passes just do not end any more
(facts s7: lines before rank crashes are propagated leave a zombie).
"""

import hmac
import json
import os
import signal
import socket
import sys
import time

from tensorrt_llm import _profile

PREFIX = "TLLM_SPAWN_PROXY_PROCESS"


def is_spawned():
    return os.environ.get(PREFIX) == "1"


def _proof(nonce):
    key = os.environ[f"{PREFIX}_IPC_HMAC_KEY"]
    return hmac.new(bytes.fromhex(key), nonce.encode(), "sha256").hexdigest()


def _address():
    host, _, port = os.environ[f"{PREFIX}_IPC_ADDR"].removeprefix("tcp://").rpartition(":")
    return host, int(port)


class Link:
    """One JSON value a line, each answered by one."""

    def __init__(self, connection):
        self._connection = connection
        self._lines = connection.makefile("rw")

    def say(self, value):
        self._lines.write(json.dumps(value) + "\n")
        self._lines.flush()

    def hear(self):
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the other side is gone")
        return json.loads(line)

    def ask(self, value):
        self.say(value)
        return self.hear()

    def close(self):
        self._connection.shutdown(socket.SHUT_RDWR)  # whatever still holds the file over it
        self._connection.close()


def connect():
    """As `LLM` or `--action stop` does."""
    ends_at = time.monotonic() + 20
    while True:
        try:
            link = Link(socket.create_connection(_address()))
            break
        except ConnectionRefusedError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.05)
    link.say(_proof(link.hear()))
    return link


def lead():
    """The leader node: takes one `LLM` after the other until it is told to stop."""
    from tensorrt_llm._mpi import World

    world = World()
    inner = socket.create_server(("0.0.0.0", 0))
    outer = socket.create_server(_address())
    host = socket.gethostbyname(socket.gethostname())
    world.gather(f"{host} {inner.getsockname()[1]}")
    ranks = world.gather(_self(world))
    links = [Link(inner.accept()[0]) for _ in range(world.size - 1)]
    while True:
        client = Link(outer.accept()[0])
        nonce = os.urandom(16).hex()
        if not hmac.compare_digest(client.ask(nonce), _proof(nonce)):
            client.close()
            continue
        try:
            while (request := client.hear()) != "stop":
                if request == "who":
                    client.say(ranks)
                    continue
                client.say(1 + sum(link.ask(request) == request for link in links))
        except ConnectionError:
            continue
        for link in links:
            link.say("stop")
        world.finalize()
        return


def work():
    """A worker node: answers until it is told to stop."""
    from tensorrt_llm._mpi import World

    world = World()
    host, port = world.gather("")[0].split()
    world.gather(_self(world))
    link = Link(socket.create_connection((host, int(port))))
    try:
        while (request := link.hear()) != "stop":
            link.say(request)
    except ConnectionError:
        signal.pause()  # a rank whose peer is gone hangs in a collective until mpirun ends it
    world.finalize()


def _self(world):
    if _profile.current.fault == f"stuck:{world.rank}":
        signal.pause()  # before it takes part in anything: a GPU that does not answer, a file system that hangs
    sys.stderr.write(f"rank {world.rank} of {world.size} is up\n")
    sys.stderr.flush()
    return json.dumps({"rank": world.rank, "host": socket.gethostname(), "pid": os.getpid()})
