"""The contract, tested from outside: one module a section, public names only."""
