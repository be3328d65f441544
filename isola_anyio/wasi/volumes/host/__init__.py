"""Host directories and files, opened so that no path leaves them."""
