"""Answer which runtime to use, and where its files are: installed, cached, fetched, or the caller's own."""
