"""A Python client of a running Karyon service: the extra `client`, docs/client.md.

```
Client, AsyncClient ──► calls (what to send) ──► attempts (whether and when to send it again)
                              images (pixels to PNG)        failures (what is raised)
```
It needs neither a model runtime nor OpenCV, and imports nothing of the service but the shapes of
its answers, by which they are read.
"""

from service.api.record_answers import (
    RecordedResultAnswer,
    ResultHistory,
    ResultList,
    ResultVersionAnswer,
)
from service.api.schemas import NucleusAnswer, SegmentationAnswer
from service.client.asynchronous import AsyncClient
from service.client.calls import Representation
from service.client.failures import (
    ClientError,
    ProblemError,
    UnreachableError,
    UnreadableAnswerError,
)
from service.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "NucleusAnswer",
    "ProblemError",
    "RecordedResultAnswer",
    "Representation",
    "ResultHistory",
    "ResultList",
    "ResultVersionAnswer",
    "SegmentationAnswer",
    "UnreachableError",
    "UnreadableAnswerError",
]
