"""One sandbox's view of its files: mounts, descriptors' names and the operations on them."""
