"""What a mount leads to: volumes of host files and of memory, and the descriptors they open."""
