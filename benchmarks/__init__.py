"""What django_pgnotify costs and carries, measured beside what one would use instead.

``harness`` says what a figure is, ``place`` starts the servers, each module of ``sections``
measures one question, ``workers`` are the processes of a measurement, ``peers`` the other packages,
each run in an environment of its own, and ``report`` and ``plots`` show what came out.

    make bench                    everything, in less than 20 minutes
    make bench ONLY="bulk idle"   some sections
    make bench EFFORT=full        longer runs and larger sizes; quick only tries the benchmarks
"""
