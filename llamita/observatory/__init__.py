"""Questions put to whole runs."""
