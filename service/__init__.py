"""The Karyon service: an ONNX model behind FastAPI, no TensorFlow anywhere."""
