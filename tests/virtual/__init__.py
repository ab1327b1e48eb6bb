"""A whole service in virtual time: every process of it for real, but for the network and the clock.

    loops      an event loop for each process, all of them turned by one world; processes are killed and stopped
    network    what gRPC is to a process: servers, channels and calls over links that are cut, silent or slow
    stack      the applications of schedulers, workers and gateways as they are, and clients of the client library
    faults     schedules of faults, drawn by a seed
    trial      one seed: load, faults, healing, and what must be true of every request and of what is left

A seed decides everything, so a schedule that breaks a promise breaks it again.
"""
