"""One process that plays many nodes: it registers them, and plays the kubelet for the pods bound to them.

    python -m cluster.fakenodes --kubeconfig FILE --count 8 --label topology.kubernetes.io/rack=rack-{i//4}

Modules: `api` (client), `nodes` (registration and heartbeats), `kubelet` (which pods), `player` (one of them), `script` and
`scripted` (pods whose behaviour is written down), `process`, `sandbox`, `environment`, `probes` (pods whose containers
run as local processes), `status` (what a kubelet writes), `dns`, `control` (the socket for tests), `client` (their side).
"""
