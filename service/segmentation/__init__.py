"""From maps to nuclei, in pure NumPy and OpenCV: tiling, separation, measurement."""
