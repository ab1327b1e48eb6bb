"""A pod joins an epoch once, even when its container is started again.

A container that ends is started again in the same pod, with the same epoch: a new boot, which must not join.
The leader refuses it, but the leader may have been restarted with it. So each boot leaves a record in a
folder that outlives the container and not the pod (/dev/shm, or an emptyDir), and a boot that finds one ends.
"""

from __future__ import annotations

from pathlib import Path

from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.member import Member
from hortator.worker.group.membership import EXIT_FENCED


def claim_epoch(folder: Path, member: Member, *, pod_uid: str) -> Path:
    """Leave the record of this boot; its path.

    Raises:
        GroupBrokenError: an earlier boot of this pod has left one for this epoch.
        OSError: the folder cannot be written.
    """
    place = member.place
    unique = f"{place.pod_name}-{pod_uid}" if pod_uid else place.pod_name
    path = folder / f"hortator-{unique}-epoch-{place.epoch}"
    try:
        with path.open("x") as record:
            record.write(member.boot_id + "\n")
    except FileExistsError:
        earlier = path.read_text().strip()
        raise GroupBrokenError(
            f"pod {place.pod_name} has run epoch {place.epoch} already (boot {earlier}): "
            f"this boot waits for nobody, the group must be started again with a new epoch",
            exit_code=EXIT_FENCED,
        ) from None
    return path
