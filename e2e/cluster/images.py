"""Container images without a registry and without a daemon: a folder becomes a tar file that containerd imports."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PAUSE = "docker.io/hortator-lab/pause:1"
BUSYBOX = "docker.io/hortator-lab/busybox:1"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEFT_OUT = ("./proc/", "./sys/", "./dev/", "./run/", "./var/cache/apt/")
BLOCK = 1 << 20


def write_image(
    name: str, root: Path, output: Path, *, command: Sequence[str], env: Mapping[str, str] | None = None
) -> Path:
    """A one-layer image (docker-archive) of everything under `root`."""
    layer = output.with_suffix(".layer")
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(root, arcname=".", filter=lambda m: None if m.name.startswith(LEFT_OUT) else m)
    digest = hashlib.sha256()
    with layer.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Env": [PATH, *(f"{k}={v}" for k, v in (env or {}).items())], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
            "history": [{"created_by": "hortator lab"}],
        }
    ).encode()
    config_name, layer_name = f"{hashlib.sha256(config).hexdigest()}.json", f"{digest.hexdigest()}/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).encode()
    with tarfile.open(output, "w") as archive:
        archive.add(layer, arcname=layer_name)
        for entry, content in ((config_name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(entry)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    layer.unlink()
    return output


def write_small_images(folder: Path) -> list[Path]:
    """What every true node needs: the pod's own container, and busybox for tests; both are Debian's static busybox."""
    root = folder / "busybox"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in (
        "sh",
        "sleep",
        "wget",
        "httpd",
        "cat",
        "env",
        "nslookup",
        "echo",
        "dd",
        "tail",
        "kill",
        "ps",
        "touch",
    ):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "tmp").mkdir(mode=0o1777)
    forever = ["/bin/sh", "-c", "while :; do sleep 1000000; done"]
    return [
        write_image(PAUSE, root, folder / "pause.tar", command=forever),
        write_image(BUSYBOX, root, folder / "busybox.tar", command=["/bin/sh"]),
    ]
