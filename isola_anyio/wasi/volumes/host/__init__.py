"""Volumes of the host: directories and single files, resolved so that no path leaves them."""
