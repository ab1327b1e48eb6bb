"""`python -m hortator.gateway --settings FILE.json`: the gateway process.

Exit codes: 0 after a drain, 1 when a port is taken, 2 when settings are wrong. One line per problem on
standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hortator.gateway.api_keys import ApiKeyFile, ApiKeysError
from hortator.gateway.app import serve
from hortator.gateway.errors import TokenizerError
from hortator.gateway.settings import GatewaySettings
from hortator.gateway.tokenization import load_tokenizer
from hortator.runtime.certificates import CertificateError
from hortator.runtime.grpc_server import BindError
from hortator.runtime.lifecycle import EXIT_FAILED, Drain, run_process
from hortator.runtime.logs import configure_logging
from hortator.runtime.settings import SettingsError
from hortator.runtime.transport import transport_of

EXIT_BAD_SETTINGS = 2
_FORCE_MARGIN_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hortator.gateway", description="The Hortator gateway.")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE.json", help="settings; win over the environment"
    )
    parser.add_argument("--print-settings", action="store_true", help="print the effective settings and exit")
    parser.add_argument(
        "--die-with-parent",
        type=int,
        nargs="?",
        const=0,
        metavar="PID",
        help="stop when this parent process ends (default: the one that started us)",
    )
    arguments = parser.parse_args(argv)
    parent_pid = os.getppid() if arguments.die_with_parent == 0 else arguments.die_with_parent
    content: dict[str, object] = {}
    try:
        content = _read(arguments.settings)
        settings = GatewaySettings.load(**content)
        if arguments.print_settings:
            sys.stdout.write(settings.render() + "\n")
            return 0
        load_tokenizer(settings.tokenizer)
        if settings.api_keys_file:
            ApiKeyFile(settings.api_keys_file)
        transport = transport_of(settings.tls)
        configure_logging(component="gateway", level=settings.log_level, log_format=settings.log_format)
    except SettingsError as error:
        sys.stderr.writelines(f"{_located(line, arguments.settings, content)}\n" for line in error.problems)
        return EXIT_BAD_SETTINGS
    except (TokenizerError, ApiKeysError, CertificateError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_SETTINGS

    async def run(drain: Drain) -> int:
        try:
            await serve(settings, drain, transport=transport)
        except (BindError, OSError) as error:
            sys.stderr.write(f"{error}\n")
            return EXIT_FAILED
        return 0

    drain_s = settings.drain_delay_s + settings.drain_timeout_s + _FORCE_MARGIN_S
    return run_process(run, drain_timeout_s=drain_s, parent_pid=parent_pid)


def _read(path: Path | None) -> dict[str, object]:
    """The settings file as a mapping.

    Raises:
        SettingsError: it cannot be read or is not a JSON object; the message names the file.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from None
    except json.JSONDecodeError as error:
        raise SettingsError([f"{path}:{error.lineno}: {error.msg}"]) from None
    if not isinstance(content, dict):
        raise SettingsError([f"{path}: must be a JSON object"])
    return content


def _located(problem: str, path: Path | None, content: dict[str, object]) -> str:
    """A problem in the words of the place it comes from: the file's key, or the environment's variable."""
    variable, _, rest = problem.partition(":")
    key = variable.removeprefix(GatewaySettings.model_config.get("env_prefix", "")).lower()
    in_file = path is not None and (key in content or key in (name.lower() for name in content))
    return f"{path}: {key}:{rest}" if in_file else problem


if __name__ == "__main__":
    sys.exit(main())
