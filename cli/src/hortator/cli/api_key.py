"""`hortator api-key`: a key for a client, its hash for the gateway."""

from __future__ import annotations

import os
import secrets
from hashlib import sha256
from pathlib import Path

import yaml

from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.gateway.api_keys import ApiKeyFile, ApiKeysError

KEY_BYTES = 32
PREFIX = "hk_"


def run(*, name: str, file: Path, tenants: tuple[str, ...]) -> None:
    """Add an entry to the file and print the key.

    Raises:
        CommandError: the file is not one of API keys, or knows the name already.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    entry: dict[str, object] = {"name": name, "sha256": sha256(key.encode()).hexdigest()}
    if tenants:
        entry["tenants"] = list(tenants)
    keys = _entries(file)
    if any(known.get("name") == name for known in keys):
        raise CommandError(f"{file}: {name!r} is there already (take its entry out, or choose another name)")
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(yaml.safe_dump({"keys": [*keys, entry]}, sort_keys=False))
        ApiKeyFile(str(temporary))
        temporary.replace(file)
    except OSError as error:
        raise CommandError(f"--file {file}: {error.strerror}") from None
    except ApiKeysError as error:
        raise CommandError(str(error).replace(str(temporary), str(file))) from None
    finally:
        temporary.unlink(missing_ok=True)
    stderr().print(f"[dim]{file}: {len(keys) + 1} keys; this one is shown only now:[/dim]")
    print(key)


def _entries(file: Path) -> list[dict[str, object]]:
    if not file.exists():
        return []
    try:
        ApiKeyFile(str(file))
    except ApiKeysError as error:
        raise CommandError(str(error)) from None
    document = yaml.safe_load(file.read_text())
    return list(document["keys"])
