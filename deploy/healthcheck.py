"""Ends with 0 where the service of this container is ready, else with 1: the image has no curl.

It imports nothing of the service, which would cost a second of processor time at every check, and
it goes past any proxy that the environment names.
"""

import http.client
import os
import sys


def main() -> int:
    """Ask `/health/ready` on KARYON_PORT and return the exit status."""
    port = int(os.environ.get("KARYON_PORT", "8000"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
    except OSError as error:
        print(f"no answer: {error}", file=sys.stderr)
        return 1
    if answer.status != http.HTTPStatus.OK:
        print(f"not ready: {answer.status} {answer.read(500)!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
