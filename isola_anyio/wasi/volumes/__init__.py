"""Volumes: sources of files (host directories, memory, archives, overlays), and the descriptors they open."""
