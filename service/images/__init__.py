"""From bytes to RGB pixels: sniffing, bounds, decoding."""
