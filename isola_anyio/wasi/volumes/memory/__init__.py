"""Trees of files in memory, and overlays of them over other volumes."""
