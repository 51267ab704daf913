"""Builds what the site shows beyond the pages in docs/: `make docs`."""
