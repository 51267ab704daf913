"""Plain FastAPI: a synchronous route, which FastAPI runs in its thread pool; one shared session."""

from typing import Annotated

import work
from fastapi import FastAPI, File

app = FastAPI()
session = work.open_session()


@app.post("/count")
def count(image: Annotated[bytes, File()]) -> dict[str, int]:
    """Count the nuclei of an image."""
    return work.answer(session, image)
