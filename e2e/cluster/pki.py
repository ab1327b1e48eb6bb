"""The lab's certificates, users and kubeconfigs: made with openssl, thrown away with the lab."""

import base64
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.netns import API_SERVICE_IP, BRIDGE_IP, MACHINE_IP
from cluster.processes import LabError

# name -> (user, groups); the tokens are static: kube-apiserver --token-auth-file
USERS = {
    "admin": ("admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "true-node": ("system:node:true-node", ("system:nodes",)),
    "true-node-2": ("system:node:true-node-2", ("system:nodes",)),
}
API_NAMES = (
    "IP:127.0.0.1",
    f"IP:{MACHINE_IP}",
    f"IP:{BRIDGE_IP}",
    f"IP:{API_SERVICE_IP}",
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
)
DAYS = "30"


@dataclass(frozen=True, slots=True)
class Pki:
    """A folder of keys, certificates (`NAME.key`, `NAME.crt`) and tokens."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Pki":
        """Make the certificate authority and what the control plane needs."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pki = cls(folder)
        _openssl(
            *("req", "-x509", *_new_key(), "-days", DAYS, "-subj", "/CN=lab-ca"),
            *("-keyout", folder / "ca.key", "-out", folder / "ca.crt"),
        )
        pki.certify("apiserver", "/CN=kube-apiserver", server_names=API_NAMES)
        pki.certify("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        pki.certify("front-proxy", "/CN=front-proxy")
        _openssl("genrsa", "-out", folder / "service-account.key", "2048")
        _openssl(
            *("rsa", "-in", folder / "service-account.key", "-pubout"),
            *("-out", folder / "service-account.pub"),
        )
        lines = []
        for name, (user, groups) in USERS.items():
            token = secrets.token_hex(16)
            (folder / f"{name}.token").write_text(token)
            lines.append(f'{token},{user},u-{name},"{",".join(groups)}"\n')
        (folder / "tokens.csv").write_text("".join(lines))
        return pki

    def certify(self, name: str, subject: str, *, server_names: tuple[str, ...] = ()) -> None:
        """A certificate for clients, or with `server_names` for both sides."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        usage = "extendedKeyUsage=clientAuth"
        if server_names:
            usage = f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={','.join(server_names)}"
        extensions.write_text(f"{usage}\n")
        _openssl("req", *_new_key(), "-subj", subject, "-keyout", self.key(name), "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key("ca"), "-CAcreateserial"),
            *("-days", DAYS, "-sha256", "-extfile", extensions, "-out", self.certificate(name)),
        )

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    def key(self, name: str) -> Path:
        """A private key."""
        return self.folder / f"{name}.key"

    def certificate(self, name: str) -> Path:
        """A certificate."""
        return self.folder / f"{name}.crt"

    def token(self, user: str) -> str:
        """The bearer token of one of `USERS`."""
        return (self.folder / f"{user}.token").read_text()

    def kubeconfig(self, name: str, *, user: str, server: str) -> Path:
        """Write `NAME.kubeconfig`."""
        path = self.folder / f"{name}.kubeconfig"
        cluster = {
            "server": server,
            "certificate-authority-data": base64.b64encode(self.ca.read_bytes()).decode(),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }
        path.write_text(yaml.safe_dump(document))
        return path


def _new_key() -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str | Path) -> None:
    result = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise LabError(f"openssl {words[0]}: {result.stderr.strip()}")
