"""The Kubernetes operator: an LLMService becomes StatefulSets, Services, Deployments and what they need.

observe -> plan -> apply. `desired` says what should be there, `observed` what is, `plan` the next step; these
and what they stand on (`names`, `topology`, `revision`, `manifests`, `status`) are pure: same input, same
output, nothing awaited, logged or sent. The shell around them watches, applies and writes status.
"""
