"""Runtimes: which one is used, and where its files are: installed, cached, fetched, or the caller's own."""
