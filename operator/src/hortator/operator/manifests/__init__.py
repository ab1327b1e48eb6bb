"""One module per thing that the operator creates: settings in, a Kubernetes object out, nothing read or sent.

    group        StatefulSet, headless Service and identity Secret of one EP group
    engine       the pod template of a role, the part that a ControllerRevision freezes
    scheduler, gateway, cache, disruption, network, accounts
    pods, environment, metadata   what several of them have in common

Every object carries only fields that Kubernetes 1.29 knows; a Service port always sets `protocol`, because
server-side apply of older servers fails without it. Kubernetes 1.20 lacks, of what is used here, only

    policy/v1 (PodDisruptionBudget; it has policy/v1beta1)
    PodDisruptionBudget.spec.unhealthyPodEvictionPolicy

which a lab that runs the old server adapts. Tests validate every object strictly against 1.29 and the newest.
"""
