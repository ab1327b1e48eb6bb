"""Every process with a certificate of its own, as pods have them: who gets in, and certificates renewed under way."""

import json
import shutil
import signal
import subprocess

import grpc
import pytest
from group_processes import ENGINE_OPTIONS, processes
from live_stack import HORTATOR, wait_until

from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc

REQUEST = inference_pb2.GenerateRequest(
    text="go", sampling=inference_pb2.SamplingParameters(max_tokens=8, ignore_eos=True)
)
SOON_S = 10.0


class Secured:
    """Certificates in a folder, processes that use them, and channels of anybody."""

    def __init__(self, starter, folder):
        self.starter = starter
        self.certificates = folder / "certs"
        self.keys = folder / "keys.yaml"
        self.make_certificates()
        self.api_key = self.run("api-key", "tests", "--tenant", "ci", "-f", str(self.keys)).strip()

    @staticmethod
    def run(*arguments):
        return subprocess.run([*HORTATOR, *arguments], check=True, capture_output=True, text=True).stdout

    def make_certificates(self, *components):
        only = [word for component in components for word in ("--component", component)]
        self.run(
            "certificates", "svc", "-n", "ns", "--out", str(self.certificates), "--host", "127.0.0.1", *only
        )

    def tls(self, component):
        folder = self.certificates / component
        return {
            "tls__cert_file": str(folder / "tls.crt"),
            "tls__key_file": str(folder / "tls.key"),
            "tls__ca_file": str(folder / "ca.crt"),
        }

    def start_all(self):
        self.scheduler = self.starter.serving("scheduler", host="127.0.0.1", port=0, **self.tls("scheduler"))
        self.workers = [self.start_member(ordinal) for ordinal in (0, 1)]
        self.gateway = self.starter.serving(
            "gateway",
            host="127.0.0.1",
            port=0,
            scheduler_addresses=[self.scheduler.address()],
            model="tiny",
            max_sequence_tokens=4096,
            tokenizer="bytes",
            client_auth="certificate",
            api_keys_file=str(self.keys),
            **self.tls("gateway"),
        )
        wait_until(self.is_ready, what="the group is ready")

    def is_ready(self):
        return all(worker.readyz()[0] == 200 for worker in self.workers)

    def start_member(self, ordinal, epoch=1):
        return self.starter.member(
            ordinal,
            epoch=epoch,
            scheduler_addresses=[self.scheduler.address()],
            engine_options=ENGINE_OPTIONS,
            **self.tls("worker"),
        )

    def channel(self, address, *, of, by):
        """To a server of component `of`, with the certificate of `by`; None: without one."""
        folder = self.certificates / (by or "client")
        own = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()) if by else ()
        credentials = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes(), *own)
        options = (
            ("grpc.ssl_target_name_override", f"{of}.svc.ns.hortator"),
            ("grpc.use_local_subchannel_pool", 1),
        )
        return grpc.secure_channel(address, credentials, options)

    def generate(self, *, by="client", key=None, **fields):
        """Token ids of one call."""
        request = inference_pb2.GenerateRequest()
        request.CopyFrom(REQUEST)
        for name, value in fields.items():
            setattr(request, name, value)
        metadata = (("authorization", f"Bearer {self.api_key if key is None else key}"),)
        with self.channel(self.gateway.address(), of="gateway", by=by) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            tokens = []
            for answer in stub.Generate(request, metadata=metadata, timeout=SOON_S):
                delta = answer.completion.delta if answer.HasField("completion") else answer.delta
                tokens += delta.token_ids
            return tokens

    def refused(self, **how):
        with pytest.raises(grpc.RpcError) as caught:
            self.generate(**how)
        return caught.value.code()


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    with processes(folder) as starter:
        secured = Secured(starter, folder)
        secured.start_all()
        yield secured


def test_a_client_with_certificate_and_key_is_served_by_a_group_of_two(secured):
    assert len(secured.generate()) == 8
    assert len(secured.generate(tenant="ci")) == 8


@pytest.mark.safety
def test_nobody_else_is_served(secured):
    assert secured.refused(by=None) is grpc.StatusCode.UNAVAILABLE  # the handshake ends
    assert secured.refused(by="worker") is grpc.StatusCode.PERMISSION_DENIED
    assert secured.refused(key="hk_wrong") is grpc.StatusCode.UNAUTHENTICATED
    assert secured.refused(tenant="prod") is grpc.StatusCode.PERMISSION_DENIED
    with grpc.insecure_channel(secured.gateway.address()) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(inference_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST, timeout=SOON_S))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.safety
@pytest.mark.parametrize(
    ("by", "method"),
    [
        ("gateway", "Report"),
        ("worker", "Place"),
        ("client", "Place"),
        ("client", "Report"),
        ("client", "Drain"),
        ("gateway", "Drain"),
        ("worker", "Snapshot"),
        ("operator", "ChangePolicy"),
    ],
)
def test_a_component_may_only_do_what_is_its_own(secured, by, method):
    """A gateway may not report load, a worker may not ask for placements, a client reaches neither."""
    with secured.channel(secured.scheduler.address(), of="scheduler", by=by) as channel:
        scheduling = scheduling_pb2_grpc.SchedulingServiceStub(channel)
        admin = scheduling_pb2_grpc.AdminServiceStub(channel)
        calls = {
            "Place": lambda: list(scheduling.Place(iter([scheduling_pb2.PlaceRequest()]), timeout=SOON_S)),
            "Report": lambda: list(scheduling.Report(iter([scheduling_pb2.ReportRequest()]), timeout=SOON_S)),
            "Drain": lambda: admin.Drain(
                scheduling_pb2.DrainRequest(worker_id="aggregated-0"), timeout=SOON_S
            ),
            "Snapshot": lambda: admin.Snapshot(scheduling_pb2.SnapshotRequest(), timeout=SOON_S),
            "ChangePolicy": lambda: admin.ChangePolicy(scheduling_pb2.ChangePolicyRequest(), timeout=SOON_S),
        }
        with pytest.raises(grpc.RpcError) as caught:
            calls[method]()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details().startswith(f"{method}: may be called by ")


@pytest.mark.safety
def test_prompts_go_to_workers_through_gateways_only(secured):
    address = secured.workers[0].address()
    with secured.channel(address, of="worker", by="client") as channel:
        submit = worker_pb2.SubmitRequest(hello=worker_pb2.SubmitHello(gateway_id="me"))
        with pytest.raises(grpc.RpcError) as caught:
            list(worker_pb2_grpc.WorkerServiceStub(channel).Submit(iter([submit]), timeout=SOON_S))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_certificates_of_a_new_authority_are_taken_up_without_a_restart_of_gateway_and_scheduler(secured):
    """A group that starts after the change has only the new set; the others have run since before."""
    for name in ("ca.crt", "ca.key"):
        (secured.certificates / name).unlink()
    secured.make_certificates()
    for worker in secured.workers:
        worker.kill(signal.SIGKILL)
        worker.wait()
    secured.workers = [secured.start_member(ordinal, epoch=2) for ordinal in (0, 1)]
    wait_until(secured.is_ready, what="the new group is ready")
    assert len(secured.generate()) == 8
    assert secured.gateway.popen.poll() is None
    assert secured.scheduler.popen.poll() is None


def test_the_command_line_shows_certificate_and_key(secured, tmp_path):
    (tmp_path / "key").write_text(secured.api_key + "\n")
    client, administrator = (str(secured.certificates / name) for name in ("client", "administrator"))
    gateway, scheduler = secured.gateway.address(), secured.scheduler.address()
    generate = ("generate", "go", "--endpoint", gateway, "--max-tokens", "4", "--ignore-eos", "--json")
    key = ("--api-key-file", str(tmp_path / "key"))
    events = [json.loads(line) for line in secured.run(*generate, "--tls", client, *key).splitlines()]
    assert events[-1]["completion"]["num_output_tokens"] == 4
    state = json.loads(secured.run("state", "--scheduler", scheduler, "--tls", administrator, "--json"))
    assert [group["worker_id"] for group in state["groups"]] == ["aggregated-0"]
    for arguments, exit_code, words in (
        ((*generate, "--tls", client), 2, "authorization: an API key is wanted"),
        ((*generate, *key), 3, "no gateway answers at"),
        (
            (*generate, "--tls", str(tmp_path), *key),
            2,
            f"--tls: {tmp_path}/ca.crt: No such file or directory",
        ),
        (
            ("state", "--scheduler", scheduler, "--tls", client),
            2,
            "Snapshot: may be called by administrator or",
        ),
    ):
        ended = subprocess.run(
            [*HORTATOR, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == exit_code, ended.stderr
        assert words in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_logs_hold_neither_keys_nor_prompts(secured):
    """By default: what a client sends and what lets it in are nobody else's business."""
    prompt = "a prompt that nobody should read"
    assert len(secured.generate(text=prompt)) == 8
    private = [*secured.certificates.glob("*/tls.key")]
    secrets = [secured.api_key, prompt, *(path.read_text().splitlines()[1] for path in private)]
    logs = "".join(process.log.read_text() for process in secured.starter.started)
    assert "call refused" in logs
    assert [secret for secret in secrets if secret in logs] == []


@pytest.mark.parametrize("component", ["scheduler", "worker", "gateway"])
def test_a_certificate_that_cannot_be_used_ends_the_start_with_one_line(secured, tmp_path, component):
    folder = tmp_path / "bad"
    shutil.copytree(secured.certificates / component, folder)
    (folder / "tls.key").write_text("no key")
    settings = {
        "tls": {
            "cert_file": f"{folder}/tls.crt",
            "key_file": f"{folder}/tls.key",
            "ca_file": f"{folder}/ca.crt",
        }
    }
    if component == "gateway":
        settings |= {"scheduler_addresses": ["127.0.0.1:1"], "model": "tiny", "max_sequence_tokens": 64}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    command = [HORTATOR[0], "-m", f"hortator.{component}", "--settings", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"{folder}/tls.key: no private key in PEM without a password\n"


def test_a_gateway_that_is_open_to_all_says_so(tmp_path):
    with processes(tmp_path) as starter:
        gateway = starter.serving(
            "gateway",
            host="0.0.0.0",  # noqa: S104  # that is what it must say
            port=0,
            scheduler_addresses=["127.0.0.1:1"],
            model="tiny",
            max_sequence_tokens=64,
        )
        assert "anybody who reaches this address may use it" in gateway.log.read_text()
