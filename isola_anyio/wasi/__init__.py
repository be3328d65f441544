"""WASI preview 1 in Python: files, clocks, randomness, standard input and output, waiting.

From the ground up: numbers and layouts (``errno``, ``abi``, ``signatures``) and guest memory (``linear_memory``);
sources of files and open descriptors (``volumes``); one guest's view of them, by path (``files``); the functions
themselves in groups (``calls_fd``, ``calls_path``, ``calls_process``, ``calls_sock``, ``calls_time``), made to answer
with an errno (``answering``) and gathered (``system``). Imports go down that list. Nothing here knows of wasmtime,
anyio or an event loop.
"""
