"""How commands get in where certificates or API keys are wanted.

One folder has what `hortator certificates` writes for a component: `ca.crt`, and `tls.crt` with `tls.key`
where servers ask for certificates too. With a certificate of its own a command names the component that it
wants; with the authority alone it checks the name that it dials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hortator.cli.errors import CommandError
from hortator.runtime.certificates import CertificateError, TlsSettings
from hortator.runtime.grpc_server import open_channel
from hortator.runtime.transport import transport_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a command shows; nothing by default."""

    tls_folder: Path | None = None
    api_key_file: Path | None = None

    def open_channel(
        self, address: str, component: str, *, options: Sequence[tuple[str, Any]] = ()
    ) -> grpc.aio.Channel:
        """A channel to a component at `host:port`. Close it.

        Raises:
            CommandError: a file cannot be used.
        """
        folder = self.tls_folder
        if folder is None:
            return open_channel(address, options=options)
        if not (folder / "tls.crt").exists():
            credentials = grpc.ssl_channel_credentials(_read(folder / "ca.crt", option="--tls"))
            return open_channel(address, credentials=credentials, options=options)
        files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
        settings = TlsSettings(**{name: str(folder / file) for name, file in files.items()})
        try:
            return transport_of(settings).open_channel(address, component, options=options)
        except CertificateError as error:
            raise CommandError(f"--tls: {error}") from None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call to a gateway.

        Raises:
            CommandError: the file of the API key cannot be used.
        """
        if self.api_key_file is None:
            return ()
        key = _read(self.api_key_file, option="--api-key-file").decode(errors="replace").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise CommandError(
                f"--api-key-file {self.api_key_file}: no key in it (one line of text is wanted)"
            )
        return (("authorization", f"Bearer {key}"),)


def _read(path: Path, *, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{option}: {path}: {error.strerror}") from None
