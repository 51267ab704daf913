"""Training of nuclei-segmentation U-Nets in Keras 3, on any Keras backend."""
