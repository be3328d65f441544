"""Benchmarks: figures taken side by side in one run, never asserted.

``python -m tests.bench [core] [js] [values] [streams] [--backend trio]`` prints one table a group. Absolute numbers
belong to the machine and the moment; the column to read is the ratio to the floor beside it.
"""
