"""Serve WASI preview 1 to guests from Python: files, clocks, randomness, standard input and output, waiting.

From the ground up: numbers and layouts (``errno``, ``abi``, ``signatures``), guest memory, paths and budgets; volumes
(``hostfs``, ``hostfile``, ``memfs``, ``archive``, ``overlay``) and descriptors; mounts and the way through them
(``mounts``, ``namespace``); what guests ask of files (``fileops``, ``filesystem``); and the functions themselves
(``system``). Nothing here knows of wasmtime, anyio or an event loop.
"""
