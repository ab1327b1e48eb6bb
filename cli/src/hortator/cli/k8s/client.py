"""The cluster, as the commands see it; no other module of the command line touches the Kubernetes client.

The order in which a cluster is found is kubectl's: --kubeconfig, KUBECONFIG, a pod's service account, then
~/.kube/config; --context and --namespace choose inside the file. Every failure is a `CommandError` of one
line that says what was asked, what was answered and what helps.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from hortator.api.v1alpha1 import API_VERSION, KIND, PLURAL
from hortator.cli.errors import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from hortator.cli.k8s.options import ClusterOptions
from hortator.operator.client.configuration import NoClusterError, load_configuration, own_namespace
from hortator.operator.client.kubernetes import KubernetesCluster
from hortator.operator.cluster import ClusterError, ForbiddenError, InvalidError, UnavailableError
from hortator.operator.objects import Obj, Ref

FIELD_MANAGER = "kubectl-hortator"
CALL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_PLURALS = {KIND: PLURAL, "StatefulSet": "statefulsets"}
"""Of the kinds that are changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One thing that a person may or may not do."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        """As `kubectl auth can-i` wants it."""
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}" + (f"/{self.subresource}" if self.subresource else "")


class Kube:
    """One connection to one API server; see `open_cluster`."""

    def __init__(self, configuration: Configuration, *, namespace: str) -> None:
        """Must be called in a running loop."""
        self.namespace = namespace
        self.host = str(configuration.host)
        self._cluster = KubernetesCluster(configuration, call_timeout_s=CALL_TIMEOUT_S)
        self._client = ApiClient(configuration)
        self._client.user_agent = FIELD_MANAGER

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.close()
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, ref: Ref) -> Obj | None:
        """An object, None when it is not there."""
        with self._errors():
            return await self._cluster.get(ref)

    async def objects(
        self, api_version: str, kind: str, *, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> list[Obj]:
        """All objects of a kind; `namespace` None is everywhere."""
        with self._errors():
            return await self._cluster.list(api_version, kind, namespace=namespace, labels=labels)

    async def objects_if_allowed(
        self, api_version: str, kind: str, *, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> list[Obj]:
        """The same, and nothing for a kind that one may not see or that this server does not have."""
        try:
            with self._errors():
                return await self._cluster.list(api_version, kind, namespace=namespace, labels=labels)
        except NotAllowedError:
            return []

    async def patch(self, ref: Ref, body: Obj) -> Obj:
        """Merge a part into an object; a value of None removes."""
        where = f"namespaces/{quote(ref.namespace)}/{_PLURALS[ref.kind]}/{quote(ref.name)}"
        path = f"/apis/{ref.api_version}/{where}"
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json(
            "PATCH", path, query=query, body=body, content_type=_MERGE, what=f"change {ref}"
        )

    async def version(self) -> str:
        """Of the API server, as v1.34.0."""
        answer = await self._json("GET", "/version", what="ask for the version")
        return str(answer.get("gitVersion", ""))

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether the API server knows a kind."""
        with self._errors():
            return await self._cluster.serves(api_version, kind)

    async def may(self, access: Access) -> bool:
        """Whether the caller is allowed to do something in the namespace."""
        attributes = {
            "namespace": self.namespace,
            "verb": access.verb,
            "group": access.group,
            "resource": access.resource,
            "subresource": access.subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._json("POST", path, body=review, what=f"ask whether you may {access}")
        return bool((answer.get("status") or {}).get("allowed"))

    async def logs(
        self, pod: str, *, container: str, follow: bool, previous: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        """What a container wrote, in pieces as they come."""
        query = {"container": container, "follow": _flag(follow), "previous": _flag(previous)}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = f"/api/v1/namespaces/{quote(self.namespace)}/pods/{quote(pod)}/log"
        timeout = None if follow else CALL_TIMEOUT_S
        response = await self._open(
            "GET", path, query=query, what=f"read the log of pod {pod}", total_s=timeout
        )
        async for piece in response.content.iter_any():
            yield piece

    async def _json(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Obj | None = None,
        content_type: str = _JSON,
    ) -> Obj:
        response = await self._open(
            method, path, query=query, body=body, content_type=content_type, what=what
        )
        answer = json.loads(await response.read())
        return answer if isinstance(answer, dict) else {}

    async def _open(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Obj | None = None,
        content_type: str = _JSON,
        total_s: float | None = CALL_TIMEOUT_S,
    ) -> aiohttp.ClientResponse:
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "*/*", "Content-Type": content_type}
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=timeout)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None
        response: aiohttp.ClientResponse = answer.response
        if response.status < 300:
            return response
        raise _refused(what, response.status, await response.text())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The cluster's errors as those of a command."""
        try:
            yield
        except ForbiddenError as error:
            raise NotAllowedError(
                f"no permission: {error} (`hortator k8s doctor` lists what is missing)"
            ) from None
        except InvalidError as error:
            if API_VERSION in str(error):
                line = f"{error}: the CRD is not installed (kubectl apply -f manifests/install.yaml)"
                raise CommandError(line, exit_code=EXIT_UNAVAILABLE) from None
            raise NotAllowedError(str(error)) from None
        except UnavailableError as error:
            raise self._unreachable(str(error)) from None
        except ClusterError as error:
            raise CommandError(str(error), exit_code=EXIT_FAILED) from None

    def _unreachable(self, why: str) -> CommandError:
        hint = "check KUBECONFIG, --kubeconfig, --context"
        line = f"the API server at {self.host} does not answer: {why} ({hint})"
        return CommandError(line, exit_code=EXIT_UNAVAILABLE)


class NotAllowedError(CommandError):
    """One may not see or do this here, or this server does not have it."""

    def __init__(self, line: str) -> None:
        super().__init__(line, exit_code=EXIT_FAILED)


@asynccontextmanager
async def open_cluster(options: ClusterOptions) -> AsyncIterator[Kube]:
    """A connection for the length of a block.

    Raises:
        CommandError: there is no cluster, or the file or the context is wrong.
    """
    configuration, namespace = await _configuration(options)
    kube = Kube(configuration, namespace=options.namespace or namespace)
    try:
        yield kube
    finally:
        await kube.close()


async def _configuration(options: ClusterOptions) -> tuple[Configuration, str]:
    file = _file(options.kubeconfig)
    try:
        if options.context is None:
            configuration = await load_configuration(options.kubeconfig)
        else:
            configuration = Configuration()
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                str(file) if file else None,
                context=options.context,
                client_configuration=configuration,
                persist_config=False,
            )
    except NoClusterError as error:
        raise CommandError(f"{error} (or --kubeconfig FILE)", exit_code=EXIT_UNAVAILABLE) from None
    except (config.ConfigException, OSError) as error:
        raise CommandError(f"--context {options.context}: {error}", exit_code=EXIT_USAGE) from None
    return configuration, _namespace(file, options.context)


def _file(given: Path | None) -> Path | None:
    """The kubeconfig that was named, by option or environment; None: the client's own search."""
    named = os.environ.get("KUBECONFIG", "")
    if given is not None and not given.is_file():
        raise CommandError(f"--kubeconfig {given}: no such file", exit_code=EXIT_UNAVAILABLE)
    if given is None and named and not any(Path(part).is_file() for part in named.split(os.pathsep)):
        raise CommandError(f"KUBECONFIG={named}: no such file", exit_code=EXIT_UNAVAILABLE)
    return given or (Path(named) if named else None)


def _namespace(file: Path | None, context: str | None) -> str:
    """That of the context; else that of the pod, else `default`."""
    try:
        contexts, active = config.list_kube_config_contexts(str(file) if file else None)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError, TypeError):
        return own_namespace()
    chosen: Any = next((one for one in contexts if one["name"] == context), active)
    return str(((chosen or {}).get("context") or {}).get("namespace") or own_namespace())


def _refused(what: str, status: int, text: str) -> CommandError:
    try:
        said = str(json.loads(text).get("message") or text)
    except (ValueError, AttributeError):
        said = text
    line = f"{what}: {' '.join(said.split())[:300] or f'HTTP {status}'}"
    match status:
        case 401 | 403:
            return NotAllowedError(f"no permission: {line} (`hortator k8s doctor` lists what is missing)")
        case 404 | 400 | 422:
            return CommandError(line, exit_code=EXIT_USAGE)
        case 429 | 500 | 502 | 503 | 504:
            return CommandError(line, exit_code=EXIT_UNAVAILABLE)
        case _:
            return CommandError(line, exit_code=EXIT_FAILED)


def _flag(value: bool) -> str:
    return "true" if value else "false"
