"""Ranks of a group of several pods as one MPI world: ordinal 0 starts it, the other pods let it in by sshd.

    member: Door   a key for its host, sshd on a port of the pod, whatever was started through it ends with it
    ordinal 0: World   a key to log in with, mpirun with TensorRT-LLM's launcher in front, the environment in
                       which the launcher would run a command: the worker takes it over and is that command

Keys live as long as the processes they were made for: the public halves travel on the join channel (`proof`
says who may send them), the private ones never leave their pod. `script` has every text (pure).
"""
