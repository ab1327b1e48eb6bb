"""`python -m hortator.worker.launch.hold SOCKET`: what TensorRT-LLM's launcher starts beside rank 0.

It hands its environment, which the launcher has prepared for whoever constructs `LLM`, to the worker on the
socket, and stays until the worker closes that: when this command ends, the launcher ends the world.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main(path: str) -> int:
    """Returns when the worker has closed its side, or is gone."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(json.dumps(dict(os.environ)).encode() + b"\n")
        link.recv(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
