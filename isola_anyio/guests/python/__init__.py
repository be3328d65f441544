"""The Python guest: its driver, and the package that lives inside it."""
