"""Files that a person, a tool or a cluster puts there: each is read, or refused in one line that names it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis.strategies import SearchStrategy

from doubles.certificates import new_authority, write_certificate
from fuzzing.target import Target
from fuzzing.texts import as_json, as_json_lines, as_yaml, broken, encoded, wrong_values
from hortator.api.files import ManifestError, load_llmservice
from hortator.gateway.api_keys import ApiKeyFile, ApiKeysError
from hortator.gateway.settings import GatewaySettings
from hortator.operator.settings import OperatorSettings
from hortator.runtime.certificate_authority import CertificateAuthority
from hortator.runtime.certificate_facts import read_certificates
from hortator.runtime.certificates import CertificateError, CertificateFiles, TlsSettings
from hortator.runtime.settings import SettingsError
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.replay import Replay
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.sim.traces import TraceError, read_trace
from hortator.worker.settings import WorkerSettings

_temporary = tempfile.TemporaryDirectory(prefix="fuzzing-")
_FOLDER = Path(_temporary.name)
_MAX_LINE_CHARS = 5_000
"""An error may quote what is wrong, not all of it."""


def _file(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(data)
    return path


def _says(error: Exception, path: Path, *, lines: int = 1) -> None:
    """It names the file at the beginning of each line, and a terminal can show it."""
    text = f"{error}"
    for line in text.split("\n"):
        assert line.startswith(str(path)), line[:200]
        assert len(line) < _MAX_LINE_CHARS, len(line)
    assert len(text.split("\n")) <= lines
    text.encode()


def trace(data: bytes) -> None:
    path = _file("trace", data)
    for skip_bad in (False, True):
        try:
            found = read_trace(path, skip_bad=skip_bad)
        except TraceError as error:
            _says(error, path)
        else:
            arrivals = [request.arrived_at for request in found.requests]
            assert arrivals == sorted(arrivals)
            assert arrivals[0] == 0.0
            assert all(request.num_prompt_tokens and request.num_output_tokens for request in found.requests)


def recording(data: bytes) -> None:
    path = _file("events.jsonl", data)
    for allow_gaps in (False, True):
        try:
            run = Replay(path, allow_gaps=allow_gaps)
            for _ in run.steps():
                pass
            assert run.verdict
        except RecordingError as error:
            _says(error, path)


def settings_of(kind: type) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _file("settings.json", data)
        try:
            kind.load_file(path).render()
        except SettingsError as error:
            _says(error, path, lines=100)

    return read


def api_keys(data: bytes) -> None:
    path = _file("keys.yaml", data)
    try:
        keys = ApiKeyFile(str(path)).current()
    except ApiKeysError as error:
        _says(error, path)
    else:
        assert len(keys) >= 0


def certificates(data: bytes) -> None:
    """The file is the certificate, the key, or the authority."""
    for place in ("cert_file", "key_file", "ca_file"):
        files = dict(_SOUND)
        files[place] = str(_file("damaged.pem", data))
        try:
            CertificateFiles(TlsSettings(**files)).current()
        except CertificateError as error:
            _says(error, _FOLDER)


_SOUND = write_certificate(_FOLDER / "pem", "gateway", authority=new_authority()).model_dump()


def authorities(data: bytes) -> None:
    """An entry of a Secret that the operator has made, spoilt by somebody: certificates, or their keys."""
    whole = {name: Path(_SOUND[name]).read_bytes() for name in ("cert_file", "key_file")}
    for certs, keys in ((data, whole["key_file"]), (whole["cert_file"], data), (data, data)):
        with contextlib.suppress(CertificateError):
            CertificateAuthority.load_all(certs, keys)
    with contextlib.suppress(CertificateError):
        assert all(one.begins_at and one.subject is not None for one in read_certificates(data))


def llmservice(data: bytes) -> None:
    path = _file("service.yaml", data)
    try:
        load_llmservice(path)
    except ManifestError as error:
        _says(error, path, lines=1000)


_AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.99,396,109\n"
_BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,230,1317,Conversation log\n"
)
_MOONCAKE = (
    '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
    '{"timestamp": 3000, "input_length": 7, "output_length": 0, "hash_ids": [3]}\n'
)
_RECORDING = (
    '{"hortator_recording":1,"version":"0.1.0","epoch":5,"settings":{"policy":"staggered","tenants":[{"name":"a"}]},'
    '"first_event":0}\n'
    '[1.0,"WorkerJoined",{"group":{"group_id":"w0","boot_id":"b1","phase":"aggregated","dp_size":2,'
    '"chunk_budget_tokens":1000,"kv_blocks_total":100}}]\n'
    '[1.5,"RankStateReported",{"group_id":"w0","included_dispatch_seq":0,"loads":{"prefill_load_tokens":[0,0],'
    '"batch_size":[0,0],"kv_blocks_used":[0,0],"blocks_changed":[{"dp_rank":1,"stored":[7]}]}}]\n'
    '[2.0,"RequestArrived",{"request_id":"r0","gateway_id":"gw","num_prompt_tokens":10,"max_output_tokens":5,'
    '"deadline_at":9.5,"block_hashes":[7],"latency_class":"critical"}]\n'
    '[2.5,"ForwardPassEnded",{"group_id":"w0","forward_pass_id":1,"duration_s":0.1,"included_dispatch_seq":1,'
    '"loads":{"prefill_load_tokens":[0,0],"batch_size":[1,0],"kv_blocks_used":[1,0]}}]\n'
    '{"gap":2}\n[3.0,"TimerFired",{}]\n{"end":5,"digest":"00"}\n'
)
_GATEWAY = (
    '{"scheduler_addresses": ["127.0.0.1:1"], "model": "m", "max_sequence_tokens": 100, "port": 0,'
    ' "tls": {"cert_file": "", "key_file": "", "ca_file": ""}, "queue_timeout_s": 1.5, "client_auth": "none",'
    ' "_env_file": "x", "_cli_parse_args": true, "_secrets_dir": "y", "cls": 1, "self": 1}'
)
_SCHEDULER = (
    '{"port": 0, "epoch": 5, "events_path": "x", "core": {"policy": "staggered", "max_wait_s": null,'
    ' "tenants": [{"name": "a", "weight": 2.0, "queue_share": 0.5}], "interval_s": 0.1}, "log_format": "json"}'
)
_WORKER = '{"engine": "simulated", "phase": "aggregated", "port": 0, "scheduler_addresses": ["127.0.0.1:1"], "worker_id": "w"}'
_OPERATOR = '{"namespaces": ["a"], "admin_port": 0, "tls": {"cert_file": ""}, "_env_file": "x"}'
_KEYS = (
    "keys:\n- name: a\n  sha256: "
    + "9f" * 32
    + "\n  tenants: [a, b]\n- name: b\n  sha256: "
    + "8f" * 32
    + "\n"
    "  note: on 2001-01-01\n"
)
_SAMPLES = Path(__file__).parents[2] / "manifests/samples"
_SERVICES = [path.read_text() for path in sorted(_SAMPLES.glob("*.yaml"))]

_BOMB = "x: &x0 [a, a]\n" + "".join(f"y{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
_MERGE_BOMB = "x0: &x0 {a: b}\n" + "".join(
    f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_CYCLE = "a: &a\n  b: *a\n"
_HEAD = "apiVersion: hortator.dev/v1alpha1\nkind: LLMService\nmetadata: {name: a}\nspec:\n"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _settings(text: str) -> SearchStrategy[bytes]:
    return broken(text) | wrong_values(json.loads(text)).map(as_json)


TARGETS = (
    Target(
        "trace",
        trace,
        broken(_AZURE, _BURST, _MOONCAKE) | wrong_values(_lines(_MOONCAKE)).map(as_json_lines),
        cases=(
            encoded(_AZURE),
            encoded(_BURST),
            encoded(_MOONCAKE),
            b'"TIMESTAMP",ContextTokens,"GeneratedTokens\n1,2,3\n',
            b"TIMESTAMP,ContextTokens,GeneratedTokens," + b"x" * 200_000 + b"\n1,2,3,4\n",
            b"[" * 100_000,
            b'{"timestamp":' * 10_000,
        ),
    ),
    Target(
        "recording",
        recording,
        broken(_RECORDING) | wrong_values(_lines(_RECORDING)).map(as_json_lines),
        cases=(
            encoded(_RECORDING),
            encoded(_RECORDING.replace("2.0", "NaN")),
            encoded(_RECORDING.replace("2.0", "1" * 400)),
            encoded(_RECORDING.replace("[0,0]", "[0]")),
            encoded(_RECORDING.replace('"staggered"', '"nobody"')),
            encoded(_RECORDING.replace('{"gap":2}', "[" * 100_000)),
            b"[" * 100_000,
        ),
    ),
    Target(
        "settings-gateway",
        settings_of(GatewaySettings),
        _settings(_GATEWAY),
        cases=(encoded(_GATEWAY), b"[" * 100_000),
    ),
    Target(
        "settings-scheduler",
        settings_of(SchedulerProcessSettings),
        _settings(_SCHEDULER),
        cases=(encoded(_SCHEDULER),),
    ),
    Target("settings-worker", settings_of(WorkerSettings), _settings(_WORKER), cases=(encoded(_WORKER),)),
    Target("settings-operator", settings_of(OperatorSettings), _settings(_OPERATOR)),
    Target(
        "api-keys",
        api_keys,
        broken(_KEYS) | wrong_values(yaml.safe_load(_KEYS)).map(as_yaml),
        cases=(
            encoded(_KEYS),
            encoded(_BOMB + "keys: *x11\n"),
            encoded(_MERGE_BOMB + "keys: [*x11]\n"),
            encoded(_CYCLE + "keys: [*a]\n"),
            b"[" * 100_000,
            b"keys: [2001-99-99]\n",
        ),
    ),
    Target(
        "certificates",
        certificates,
        broken(*(Path(file).read_text() for file in _SOUND.values())),
        cases=(b"-----BEGIN CERTIFICATE-----\n" * 1000,),
    ),
    Target(
        "authorities",
        authorities,
        broken(*(Path(_SOUND[name]).read_text() for name in ("cert_file", "key_file"))),
        cases=(b"-----BEGIN CERTIFICATE-----\n" * 1000,),
    ),
    Target(
        "llmservice",
        llmservice,
        broken(*_SERVICES) | wrong_values(*map(yaml.safe_load, _SERVICES)).map(as_yaml),
        cases=(
            encoded(_HEAD + _indented(_BOMB)),
            encoded(_HEAD + _indented(_MERGE_BOMB)),
            encoded(_HEAD + _indented(_CYCLE)),
            b"a: " + b"[" * 100_000,
            encoded(_HEAD + "  a: " + "{a: " * 200 + "}" * 200 + "\n"),
            encoded(_HEAD + "  2001-99-99: 1\n"),
        ),
    ),
)
