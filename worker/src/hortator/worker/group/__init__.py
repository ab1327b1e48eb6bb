"""EP groups of several pods: who belongs to this epoch of the group, and how the group ends as one."""
