"""From tiles to maps: the model contract, onnxruntime sessions and the model repository."""
