"""The oracle: writers, faults and clients at random, and at the end an account of every event.

``test_oracle.py`` runs it for a minute, ``soak.py`` for as long as one likes. ``run.py`` shows how
its parts go together.
"""
