"""From a segmentation to the representation that the caller accepts."""
