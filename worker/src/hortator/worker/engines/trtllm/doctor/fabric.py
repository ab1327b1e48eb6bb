"""Do the variables that choose ports and interfaces name ones that are here? Pure.

Nobody else says so: NCCL falls back to TCP, which works and is slow.

    NCCL_IB_HCA, NCCL_SOCKET_IFNAME   beginnings of names; `=` before them: whole names, `^`: all but these
    all others                        whole names, with `:PORT` behind those of devices
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from hortator.runtime.checks import Check

OF_DEVICES = ("NCCL_IB_HCA", "NVSHMEM_HCA_LIST", "UCX_NET_DEVICES")
OF_INTERFACES = ("NCCL_SOCKET_IFNAME", "OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_oob_tcp_if_include")
_BEGINNINGS = {"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"}


def fabric(environment: Mapping[str, str], *, devices: Collection[str], interfaces: Collection[str]) -> Check:
    """One line for all that are set. `devices` as in mlx5_0, `interfaces` as in eth0."""
    name = "fabric variables"
    given = [one for one in (*OF_DEVICES, *OF_INTERFACES) if environment.get(one)]
    if not given:
        return Check(name=name, verdict="skipped", found="none is set")
    wrong = [
        f"{one}: no {missing} here"
        for one in given
        for missing in _missing(one, environment[one], devices if one in OF_DEVICES else interfaces)
    ]
    if not wrong:
        return Check(name=name, verdict="ok", found=" ".join(f"{one}={environment[one]}" for one in given))
    return Check(
        name=name,
        verdict="failed",
        found="; ".join(wrong),
        fix=f"spec.engine.env; here are {', '.join(sorted(devices)) or 'no RDMA devices'} and interfaces "
        f"{', '.join(sorted(interfaces))}",
    )


def _missing(variable: str, value: str, here: Collection[str]) -> Iterator[str]:
    """Names that fit nothing that is here."""
    if value.startswith("^"):
        return
    is_beginning = variable in _BEGINNINGS and not value.startswith("=")
    for part in value.removeprefix("=").split(","):
        wanted = part.strip().partition(":")[0]
        fits = any(one.startswith(wanted) if is_beginning else one == wanted for one in here)
        is_network = variable == "UCX_NET_DEVICES" and wanted == "all"
        is_subnet = variable in OF_INTERFACES and "/" in wanted
        if wanted and not (fits or is_network or is_subnet):
            yield wanted
