"""One sandbox's view of its files: mounts, paths through them, operations by path, and their dump."""
