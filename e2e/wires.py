"""Nodes on one machine: a network namespace each, and a switch between them that loses and delays packets.

A node's only device is a TUN device. Its other end is read here, so whatever one node sends to another passes
`Switch`, packet by packet, and a wire can be cut, made deaf or mute, lossy or slow without anybody being told:
no RST, no interface that goes down. The kernel's own netem is not everywhere; this needs root and
/dev/net/tun. The test itself is one of the nodes, by a device in the namespace it runs in.

    198.18.N.0/24   N differs from run to run; nothing outside these namespaces can be reached from inside
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cluster.netns import NetworkNamespace

TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_IPV4 = 4
_MAX_PACKET = 1 << 16
_MAX_DELAYED = 20_000
"""Packets on their way; more are lost, as in any queue."""


def why_not() -> str:
    """Why nodes cannot be made here; empty: they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "nsenter") if shutil.which(name) is None]:
        return f"network namespaces need the command {missing[0]}"
    if not TUN.exists():
        return f"the switch between nodes needs {TUN}"
    name = f"hortator-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"network namespaces are not allowed here: {tried.stderr.strip()}"
    NetworkNamespace(name).delete()
    return ""


@dataclass(eq=False)
class Wire:
    """One node's way to all others. What it does may be changed at any time."""

    name: str
    address: str
    descriptor: int
    space: NetworkNamespace | None
    """None: the namespace of the test."""
    hears: bool = True
    is_heard: bool = True
    loss: float = 0.0
    """Share of the packets that are lost, each way."""
    delay_s: float = 0.0
    """Each way."""
    num_passed: int = 0
    num_lost: int = 0

    def cut(self) -> None:
        """Nothing comes or goes, and nobody is told."""
        self.hears = self.is_heard = False

    def mend(self) -> None:
        """As new."""
        self.hears = self.is_heard = True
        self.loss = self.delay_s = 0.0

    def command(self) -> list[str]:
        """What runs a command on this node."""
        return [] if self.space is None else self.space.command()


@dataclass
class Switch:
    """Passes packets between wires, in a thread of its own."""

    subnet: str = field(default_factory=lambda: f"198.18.{os.getpid() % 256}")
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # not for secrets
    wires: dict[bytes, Wire] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._delayed: list[tuple[float, int, Wire, bytes]] = []
        self._numbers = count()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="switch", daemon=True)

    def add(self, name: str, *, is_test: bool = False) -> Wire:
        """A node; `is_test`: the namespace of the test becomes one."""
        number = len(self.wires) + 1
        address, device = f"{self.subnet}.{number}", f"hz{os.getpid()}n{number}"
        descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        wire = Wire(name=name, address=address, descriptor=descriptor, space=None)
        self.wires[bytes(map(int, address.split(".")))] = wire
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
        within: tuple[str, ...] = ()
        if not is_test:
            wire.space = NetworkNamespace(f"hortator-{os.getpid()}-{number}")
            _ip("netns", "add", wire.space.name)
            _ip("link", "set", device, "netns", wire.space.name)
            within = ("-n", wire.space.name)
            _ip(*within, "link", "set", "lo", "up")
        _ip(*within, "address", "add", f"{address}/24", "dev", device)
        _ip(*within, "link", "set", device, "up")
        self._selector.register(descriptor, selectors.EVENT_READ, wire)
        return wire

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, the devices and the namespaces."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._selector.close()
        for wire in self.wires.values():
            os.close(wire.descriptor)
            if wire.space is not None:
                wire.space.delete()

    def _pass_on(self) -> None:
        while not self._is_over.is_set():
            wait_s = self._delayed[0][0] - time.monotonic() if self._delayed else 0.1
            for key, _ in self._selector.select(min(max(wait_s, 0.0), 0.1)):
                self._take(key.data)
            now = time.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                _, _, target, packet = heapq.heappop(self._delayed)
                _write(target, packet)

    def _take(self, source: Wire) -> None:
        with contextlib.suppress(OSError):  # nothing more to read
            for _ in range(64):
                packet = os.read(source.descriptor, _MAX_PACKET)
                target = self.wires.get(packet[16:20])
                if packet[0] >> 4 == _IPV4 and target is not None:
                    self._carry(packet, source, target)

    def _carry(self, packet: bytes, source: Wire, target: Wire) -> None:
        chance = self.chance.random
        if (
            not (source.is_heard and target.hears)
            or (source.loss and chance() < source.loss)
            or (target.loss and chance() < target.loss)
            or len(self._delayed) >= _MAX_DELAYED
        ):
            source.num_lost += 1
            return
        source.num_passed += 1
        delay_s = source.delay_s + target.delay_s
        if delay_s:
            due_at = time.monotonic() + delay_s
            heapq.heappush(self._delayed, (due_at, next(self._numbers), target, packet))
        else:
            _write(target, packet)


@contextlib.contextmanager
def switched(*names: str) -> Iterator[dict[str, Wire]]:
    """A node for each name, and one for the test. None of it is left afterwards."""
    switch = Switch()
    try:
        wires = {name: switch.add(name) for name in names}
        wires["test"] = switch.add("test", is_test=True)
        switch.start()
        yield wires
    finally:
        switch.close()


def _write(target: Wire, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # its device is full
        os.write(target.descriptor, packet)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
