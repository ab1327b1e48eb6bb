"""Where the API server is and who we are: from the pod's service account, or from a kubeconfig.

The order is that of kubectl in a pod: an explicit file, then KUBECONFIG, then the service account, then
`~/.kube/config`.
"""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT_KUBECONFIG = Path("~/.kube/config")


class NoClusterError(Exception):
    """There is no way to an API server; `str()` says what was looked for."""


async def load_configuration(kubeconfig: Path | None = None) -> Configuration:
    """How to reach the API server.

    Raises:
        NoClusterError: the file is missing or broken, or there is neither a file nor a service account.
    """
    configuration: Configuration = Configuration()
    file = kubeconfig or _kubeconfig()
    try:
        if file is not None:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                str(file), client_configuration=configuration, persist_config=False
            )
        elif _has_service_account():
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            raise NoClusterError(
                "no Kubernetes API server: set KUBECONFIG, or run in a pod with a service account"
            )
    except (config.ConfigException, OSError) as error:
        raise NoClusterError(f"{file or 'service account'}: {error}") from None
    return configuration


def open_session(configuration: Configuration) -> aiohttp.ClientSession:
    """An HTTP session of our own for somebody else; the token is fresh at every request."""

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        token = await configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token
        return await handler(request)

    connector = aiohttp.TCPConnector(limit=0, ssl=RESTClientObject(configuration).ssl_context)
    return aiohttp.ClientSession(
        connector=connector, middlewares=(authorize,), proxy=configuration.proxy, read_bufsize=2**21
    )


def own_namespace(default: str = "default") -> str:
    """The namespace of the pod that this process runs in; `default` outside a cluster."""
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text().strip() or default
    except OSError:
        return default


def _has_service_account() -> bool:
    return (_SERVICE_ACCOUNT / "token").exists()


def _kubeconfig() -> Path | None:
    value = os.environ.get("KUBECONFIG")
    if value:
        return Path(value)
    default = _DEFAULT_KUBECONFIG.expanduser()
    return default if not _has_service_account() and default.exists() else None
