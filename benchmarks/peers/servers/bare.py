"""No server: the same work in a loop, with as many threads as clients ask at once. The ceiling.

Prints one line of JSON like benchmarks/peers/client.py.
"""

import argparse
import json
import threading
import time
from pathlib import Path

import work


def main() -> None:
    """Run the loop for some seconds and print the latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    data = arguments.image.read_bytes()
    session = work.open_session()
    answers = [work.answer(session, data) for _ in range(2)]
    latencies_ms: list[float] = []
    processor_s = time.process_time()
    start_s = time.perf_counter()
    end_s = start_s + arguments.seconds

    def loop() -> None:
        while (begin_s := time.perf_counter()) < end_s:
            work.answer(session, data)
            latencies_ms.append((time.perf_counter() - begin_s) * 1000.0)

    threads = [threading.Thread(target=loop) for _ in range(arguments.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - start_s
    report = {
        "elapsed_s": elapsed_s,
        "latencies_ms": latencies_ms,
        "errors": 0,
        "processor_s": time.process_time() - processor_s,
        "body": json.dumps(answers[-1]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
