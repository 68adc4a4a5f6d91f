"""HTML pages: a scan, a picture, an index, a run."""
