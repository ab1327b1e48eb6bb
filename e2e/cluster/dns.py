"""Cluster DNS for pods of the lab: names of Services, of their pods, and nothing else.

    SERVICE.NAMESPACE.svc.cluster.local        the Service's address; headless: its pods
    POD.SERVICE.NAMESPACE.svc.cluster.local    a pod with that host name and subdomain

Pods that are not ready count where the Service publishes not-ready addresses. AAAA is answered with nothing, a name
outside the zone with NXDOMAIN: nothing is asked of other servers. Also without the zone's name (`SERVICE.NAMESPACE.svc`),
as the resolver's search list would complete it.
"""

import argparse
import asyncio
import contextlib
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

from cluster.fakenodes.api import Api
from cluster.netns import BRIDGE_IP, MACHINE_IP

Obj = dict[str, Any]
TTL_S = 1


@dataclass(slots=True)
class Zone:
    """What is known of Services and their Endpoints; `names` is made from both."""

    domain: str = "cluster.local"
    services: dict[tuple[str, str], Obj] = field(default_factory=dict)
    endpoints: dict[tuple[str, str], Obj] = field(default_factory=dict)

    def see(self, kind: str, event: str, obj: Obj) -> None:
        """An event of a watch on `services` or `endpoints`."""
        known = self.services if kind == "services" else self.endpoints
        if event == "LISTED":
            known.clear()
            known.update({_key(item): item for item in obj["items"]})
        elif event == "DELETED":
            known.pop(_key(obj), None)
        else:
            known[_key(obj)] = obj

    def lookup(self, name: str) -> list[str] | None:
        """Addresses of a name; None: there is no such name."""
        labels = name.rstrip(".").lower().removesuffix(f".{self.domain}").split(".")
        if len(labels) not in {3, 4} or labels[-1] != "svc":
            return None
        *host, service, namespace, _ = labels
        key = namespace, service
        if key not in self.services:
            return None
        if host:
            return [ip for ip, hostname in self._addresses(key) if hostname == host[0]] or None
        address = self.services[key]["spec"].get("clusterIP") or "None"
        if address != "None":
            return [address]
        return [ip for ip, _ in self._addresses(key)]

    def _addresses(self, key: tuple[str, str]) -> Sequence[tuple[str, str]]:
        spec = self.services[key]["spec"]
        groups = ["addresses"]
        if spec.get("publishNotReadyAddresses"):  # the controller lists them as ready; older ones did not
            groups.append("notReadyAddresses")
        subsets = self.endpoints.get(key, {}).get("subsets") or []
        found = [
            (address["ip"], address.get("hostname", ""))
            for subset in subsets
            for group in groups
            for address in subset.get(group) or []
        ]
        return list(dict.fromkeys(found))


def answer(zone: Zone, query: bytes) -> bytes:
    """One question, one answer, both on the wire."""
    request = DNSRecord.parse(query)
    reply = request.reply()
    addresses = zone.lookup(str(request.q.qname))
    if addresses is None:
        reply.header.rcode = RCODE.NXDOMAIN
    elif request.q.qtype in {QTYPE.A, QTYPE.ANY}:
        for address in addresses:
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=TTL_S))
    return reply.pack()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            reply = answer(self._zone, data)
        except Exception:  # noqa: BLE001  # not a DNS message: nothing to answer
            return
        self._transport.sendto(reply, addr)  # type: ignore[attr-defined]


async def serve(zone: Zone, hosts: Sequence[str], port: int = 53) -> None:
    """UDP and TCP on every address until cancelled."""
    loop = asyncio.get_running_loop()

    async def answer_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = answer(zone, await reader.readexactly(length))
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    for host in hosts:
        await loop.create_datagram_endpoint(lambda: _Udp(zone), local_addr=(host, port))
        await asyncio.start_server(answer_stream, host, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


def _key(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


async def _run(kubeconfig: Path, domain: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    zone = Zone(domain=domain)
    async with Api(kubeconfig) as api:

        async def feed(kind: str) -> None:
            async for event, obj in api.watch(f"/api/v1/{kind}"):
                zone.see(kind, event, obj)

        await asyncio.gather(serve(zone, [BRIDGE_IP, MACHINE_IP]), feed("services"), feed("endpoints"))


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="cluster.dns", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--zone", default="cluster.local")
    arguments = parser.parse_args()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(arguments.kubeconfig, arguments.zone))
    return 0


if __name__ == "__main__":
    sys.exit(main())
