"""From a training run folder to one verified, calibrated, self-describing ONNX file."""
