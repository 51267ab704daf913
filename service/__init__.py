"""The Karyon service: an ONNX model behind FastAPI, no TensorFlow anywhere."""

__version__ = "0.1.0"
"""The one place that says it: the wheel, the OpenAPI document and /docs read it here."""
