"""Volumes in memory: trees of files, archives shown as trees, and overlays over host directories."""
