"""Plain FastAPI and `model.predict`, as tutorials have it. PEER_KERAS names the .keras file.

The model is the ONNX file's own, turned back (benchmarks/peers/keras_twin.py); like all models of
this project it takes pixels as decoded and scales them itself.
"""

import os
from typing import Annotated

import keras
import numpy as np
import work
from fastapi import FastAPI, File

app = FastAPI()
model = keras.models.load_model(os.environ["PEER_KERAS"], compile=False)


@app.post("/count")
def count(image: Annotated[bytes, File()]) -> dict[str, int]:
    """Count the nuclei of an image."""
    predicted = model.predict(work.decode(image).astype(np.float32), verbose=0)
    return work.count(np.round(np.asarray(predicted) * 255.0).astype(np.uint8))
