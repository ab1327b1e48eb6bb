"""A Kubernetes cluster for tests: control planes, fake nodes, a true node, and faults between them.

What runs, on which machine and what it proves: docs/how-to/lab.md.

    providers       which cluster the tests use: the project's own lab, kind, or a given kubeconfig
    installation    the binaries of the lab (`make lab`)
    components      how etcd, the API server and the others are started
    controlplane    etcd, API server, controller manager, scheduler, CRD server, in a network namespace
    proxy           what stands between a client and the API server: adaptation and faults
    fakenodes       one process that plays many nodes: scripted pods, or pods as local processes
    truenode        containerd and a kubelet
    kube            a small client for tests
    operators       operator processes
    scene           LLMServices under an operator, and what tests ask of them
    recorder        all that the API server says while a test runs, and when
    served          an LLMService whose processes really run, for tests of what its clients notice
    witness         a load on it, and what happens to its pods and groups meanwhile, by one clock
"""
