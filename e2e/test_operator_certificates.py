"""Processes with the certificates that the operator makes: everybody is let in, also while the authority changes."""

import asyncio
import base64
import datetime as dt
import signal

import grpc
import pytest
from group_processes import processes
from live_stack import wait_until
from test_secured_processes import Secured

from doubles.kubernetes.api import ApiServer
from doubles.kubernetes.cluster import FakeCluster
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.certificates import AUTHORITY, COMPONENTS, Wanted
from hortator.operator.client.scheduler import SchedulerAdmin
from hortator.operator.manifests.metadata import Owner
from hortator.operator.schedulers import SchedulerAt
from hortator.runtime.certificate_facts import read_certificates
from hortator.runtime.identity import Identity

KEY = ("ns", "svc")
WANTED = Wanted(owner=Owner(name="svc", namespace="ns", uid="uid-1"), prefix="svc", hosts=("127.0.0.1",))


class MadeByTheOperator(Secured):
    """The Secrets of a cluster in memory, as files where a pod would have them."""

    def __init__(self, starter, folder):
        self.api = ApiServer()
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
        self.keeper = CertificateKeeper(FakeCluster(self.api), now=self.now)
        super().__init__(starter, folder)

    def now(self):
        return dt.datetime.now(dt.UTC) - dt.timedelta(days=self.days_ago)

    def make_certificates(self, *, days_ago=641.0):
        """What the operator makes at that time, and mounts of every component."""
        self.days_ago = days_ago
        asyncio.run(self.keeper.make(KEY, WANTED))
        for component in COMPONENTS:
            folder = self.certificates / component
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in self.secret(component)["data"].items():
                (folder / name).write_bytes(base64.b64decode(content))

    def secret(self, component):
        return self.api.get(("v1", "Secret", "ns", WANTED.secret(component)))

    def issuer(self, component):
        return read_certificates((self.certificates / component / "tls.crt").read_bytes())[0].issuer


@pytest.fixture
def secured(tmp_path):
    with processes(tmp_path) as starter:
        yield MadeByTheOperator(starter, tmp_path)


async def seen_by_the_operator(secured):
    """The schedulers' leader, asked with the operator's own certificate."""
    await secured.keeper.facts(KEY, WANTED)
    admin = SchedulerAdmin(transport_to=secured.keeper.transport)
    scheduler = SchedulerAt(
        address=secured.scheduler.address(),
        identity=Identity(namespace="ns", service="svc", component="scheduler"),
    )
    try:
        return await admin.view([scheduler])
    finally:
        await admin.close()


def test_processes_accept_them_and_each_other_while_the_authority_changes(secured):
    for days_ago in (275, 2):  # the first authority is 641 days old: followed by another; renewed
        secured.make_certificates(days_ago=days_ago)
    secured.start_all()
    assert len(secured.generate()) == 8
    assert secured.refused(by=None) is grpc.StatusCode.UNAVAILABLE
    assert secured.refused(by="worker") is grpc.StatusCode.PERMISSION_DENIED
    view = asyncio.run(seen_by_the_operator(secured))
    assert list(view.workers) == ["aggregated-0"]

    before = secured.issuer("scheduler")
    for component in ("worker", "client"):  # made anew now, where the old authority would not outlive them
        secured.api.delete(("v1", "Secret", "ns", WANTED.secret(component)))
    secured.make_certificates(days_ago=0)
    signed_by = {component: secured.issuer(component) for component in COMPONENTS}
    assert signed_by["gateway"] == signed_by["scheduler"] == before
    assert signed_by["worker"] == signed_by["client"] != before
    for worker in secured.workers:
        worker.kill(signal.SIGKILL)
        worker.wait()
    secured.workers = [secured.start_member(ordinal, epoch=2) for ordinal in (0, 1)]
    wait_until(secured.is_ready, what="the new group is ready")
    assert len(secured.generate()) == 8
    assert secured.gateway.popen.poll() is None
    assert secured.scheduler.popen.poll() is None
    assert AUTHORITY not in {path.name for path in secured.certificates.iterdir()}
