"""Plain FastAPI and `model.predict`, as tutorials have it. PEER_KERAS names the .keras file.

Keras' model takes pixels scaled to 0..1; a test set would show whether that is what this backbone
wants, but the time it takes is the same.
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
    predicted = model.predict(work.decode(image).astype(np.float32) / 255.0, verbose=0)
    maps = predicted["maps"] if isinstance(predicted, dict) else predicted
    return work.count((np.asarray(maps) * 255.0).astype(np.uint8))
