"""The processes of the lab's control plane and how each is started; all of them on addresses of the lab's network."""

from pathlib import Path

from cluster.installation import CRD_SERVER, binary
from cluster.netns import MACHINE_IP, POD_CIDRS, SERVICE_CIDR
from cluster.pki import Pki
from cluster.processes import Processes

PROXY_PORT, API_PORT, CRD_PORT, ETCD_PORT = 6443, 6444, 6445, 2379
CRD_NAMESPACE, CRD_SERVICE = "kube-system", "lab-crd"
# A node is lost this long after its last heartbeat (Kubernetes: 40 s), looked at every 2 s (5 s).
NODE_GRACE_S = 16


def start_storage(processes: Processes, folder: Path) -> None:
    """Etcd."""
    client, peer = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PORT + 1}"
    processes.start(
        "etcd",
        [
            *("etcd", "--name=lab", f"--data-dir={folder / 'etcd'}", "--logger=zap"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *(f"--initial-cluster=lab={peer}", "--quota-backend-bytes=2147483648"),
        ],
    )


def start_api_server(processes: Processes, pki: Pki) -> None:
    """The core API server."""
    folder = pki.folder
    processes.start(
        "kube-apiserver",
        [
            *(binary("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
            *("--bind-address=0.0.0.0", f"--secure-port={API_PORT}", "--insecure-port=0"),
            *(f"--advertise-address={MACHINE_IP}", "--endpoint-reconciler-type=none"),
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            *(f"--tls-cert-file={folder}/apiserver.crt", f"--tls-private-key-file={folder}/apiserver.key"),
            *(f"--client-ca-file={folder}/ca.crt", f"--token-auth-file={folder}/tokens.csv"),
            f"--kubelet-client-certificate={folder}/kubelet-client.crt",
            f"--kubelet-client-key={folder}/kubelet-client.key",
            f"--kubelet-certificate-authority={folder}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/service-account.pub",
            f"--service-account-signing-key-file={folder}/service-account.key",
            f"--requestheader-client-ca-file={folder}/ca.crt",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={folder}/front-proxy.crt",
            f"--proxy-client-key-file={folder}/front-proxy.key",
            *("--authorization-mode=Node,RBAC", "--allow-privileged=true"),
            # one user does everything here: priority and fairness would only make it wait
            *("--enable-priority-and-fairness=false", "--max-requests-inflight=2000"),
            "--max-mutating-requests-inflight=1000",
        ],
    )


def start_controllers(processes: Processes, pki: Pki) -> None:
    """The controller manager."""
    folder = pki.folder
    config = folder / "controller-manager.kubeconfig"
    processes.start(
        "controller-manager",
        [
            *(binary("kube-controller-manager"), f"--kubeconfig={config}"),
            *(f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}"),
            *("--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"),
            f"--service-account-private-key-file={folder}/service-account.key",
            *(f"--root-ca-file={folder}/ca.crt", f"--cluster-signing-cert-file={folder}/ca.crt"),
            *(f"--cluster-signing-key-file={folder}/ca.key", "--use-service-account-credentials=true"),
            *("--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-gc-syncs=10"),
            "--horizontal-pod-autoscaler-sync-period=2s",
            *(f"--node-monitor-grace-period={NODE_GRACE_S}s", "--node-monitor-period=2s"),
        ],
    )


def start_scheduler(processes: Processes, pki: Pki) -> None:
    """The scheduler of pods."""
    config = pki.folder / "scheduler.kubeconfig"
    processes.start(
        "scheduler",
        [
            *(binary("kube-scheduler"), f"--kubeconfig={config}"),
            *(f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}"),
            *("--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"),
            *("--kube-api-qps=500", "--kube-api-burst=1000"),
        ],
    )


def start_crd_server(processes: Processes, pki: Pki, kubeconfig: Path) -> None:
    """It asks the core server about users and rights; off is what needs APIs that 1.20 lacks."""
    folder = pki.folder
    names = ("IP:127.0.0.1", "DNS:localhost", f"DNS:{CRD_SERVICE}.{CRD_NAMESPACE}.svc")
    pki.certify("crd-server", f"/CN={CRD_SERVICE}", server_names=names)
    processes.start(
        "crd-server",
        [
            *(binary(CRD_SERVER), f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}", "--etcd-prefix=/lab-crd"),
            *("--bind-address=127.0.0.1", f"--secure-port={CRD_PORT}", f"--kubeconfig={kubeconfig}"),
            *(f"--tls-cert-file={folder}/crd-server.crt", f"--tls-private-key-file={folder}/crd-server.key"),
            f"--client-ca-file={folder}/ca.crt",
            *(f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}"),
            "--disable-admission-plugins=MutatingAdmissionPolicy,ValidatingAdmissionPolicy",
            "--enable-priority-and-fairness=false",
        ],
    )


def start_kube_proxy(processes: Processes, kubeconfig: Path) -> None:
    """Service addresses, for every pod on the lab's bridges."""
    processes.start(
        "kube-proxy",
        [
            *(binary("kube-proxy"), f"--kubeconfig={kubeconfig}", "--proxy-mode=iptables"),
            *(
                "--hostname-override=lab",
                f"--bind-address={MACHINE_IP}",
                "--iptables-min-sync-period=100ms",
            ),
            *(f"--cluster-cidr={POD_CIDRS}", "--oom-score-adj=0", "--conntrack-max-per-core=0"),
            *("--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"),
            *("--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256"),
        ],
    )
