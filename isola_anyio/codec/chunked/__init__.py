"""Chunked work: large values, encoded and decoded part by part.

It earns its place by one promise: no guest stops the program's event loop for 50 ms. ``json`` holds the interpreter's
lock until it is done, over a second for the 64 MiB that a guest may send; 256 KiB of the worst text takes 20 ms. So
long texts are cut (`text_parts`), large values written in pieces (`writer`), and the garbage collector, which holds
the lock even longer, is kept from looking through all of it meanwhile (`garbage`).

A value that is small never comes here, except to be weighed.
"""
