"""Chaos: a whole service of real processes under load, seeded random faults, and a checker of every request.

    service     two schedulers, two gateways, four EP groups (one of two processes), a relay on every link
    load        clients of the client library, and what each is promised
    faults      what can be done to a process, a link or a client, and what the victim was doing then
    ledger      which faults were injected in which states, what was checked, what went wrong
    realtime    overload and one tenant's flood, by the clock
    experiment  all of it for a while, and what must be left of it afterwards: nothing

`HORTATOR_CHAOS_S=600 HORTATOR_CHAOS_SEED=7 pytest e2e/chaos` runs longer, or otherwise; `HORTATOR_CHAOS_JSON=FILE`
writes the figures. The order of the faults follows from the seed, their exact moments from the machine: what a
seed finds here is looked for again in virtual time (`tests/chaos`), where a seed decides everything.
"""
