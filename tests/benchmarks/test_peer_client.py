"""The tools of the side-by-side: client, request, table, publication."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.load_report import read_row
from benchmarks.peers.client import Tally, measure
from benchmarks.peers.launch import layouts, request_bytes
from benchmarks.peers.results import (
    CEILING,
    KARYON_ON_CPU,
    Window,
    answers_sentence,
    better,
    compare,
    comparison_table,
    table,
)
from benchmarks.peers.run import counted, provider_of
from benchmarks.peers.table import PEERS, protocol_v2
from benchmarks.publish import markdown_table, replace_section, write_figures

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b'{"count":3}'
CHUNKED = (
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{"coun\r\n5\r\nt":3}\r\n0\r\n\r\n'
)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def asked(*answers: bytes, connections: int = 1, seconds: float = 0.0) -> Tally:
    """What the client makes of a server that gives these answers, then closes."""

    async def both() -> Tally:
        left = list(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while left:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                writer.write(left.pop(0))
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            request = request_bytes("/count", "image/jpeg", b"jpeg")
            return await measure(request, port, connections, seconds)

    return asyncio.run(both())


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_the_client_reads_both_framings(answer: bytes) -> None:
    tally = asked(answer, answer, answer)
    # The first answer fills the server's queue; the window ends with the next one.
    assert (len(tally.latencies_ms), tally.errors) == (1, 0)
    assert json.loads(tally.body) == {"count": 3}


def test_the_client_counts_refusals_and_broken_connections_as_errors() -> None:
    assert asked(OK, BUSY).errors == 1
    broken = asked(OK)
    assert (broken.errors, broken.latencies_ms) == (1, [])


def test_a_window_begins_and_ends_when_every_connection_was_answered() -> None:
    tally = Tally(connections=3, seconds=0.0)
    for connection in (0, 1, 0, 2):
        tally.answered(connection, 0.0, 200)
    assert tally.latencies_ms == []
    for connection in (0, 1, 0, 1):
        tally.answered(connection, 0.0, 200)
    assert not tally.ended.is_set()
    tally.answered(2, 0.0, 200)
    assert tally.ended.is_set()
    tally.answered(1, 0.0, 200)
    assert (len(tally.latencies_ms), tally.in_all) == (5, 10)


def test_a_window_is_as_long_as_asked_for() -> None:
    tally = Tally(connections=1, seconds=3600.0)
    for _ in range(4):
        tally.answered(0, 0.0, 200)
    assert not tally.ended.is_set()


def test_connections_that_never_got_an_answer_are_errors() -> None:
    tally = Tally(connections=3, seconds=0.0)
    tally.answered(0, 0.0, 200)
    tally.give_up()
    assert (tally.errors, tally.elapsed_s, tally.latencies_ms) == (2, 0.0, [])


@pytest.mark.parametrize(
    "body", ['{"count": 12}', '{"predictions":[{"count":12}]}', '{"data":["{\\"count\\": 12}"]}']
)
def test_the_count_is_found_in_every_protocol(body: str) -> None:
    assert counted(json.dumps({"body": body})) == 12


def test_an_answer_without_a_count_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="no count"):
        counted(json.dumps({"body": "Internal Server Error"}))


def row(server: str, layout: str, connections: int, per_s: float, p99_ms: float) -> Window:
    """A window of so many requests/s."""
    return Window(server, layout, connections, 40, per_s, p99_ms - 10.0, p99_ms, 0, 400.0, 270.0)


def test_the_better_layout_is_that_of_more_requests_where_both_were_measured() -> None:
    whole = [row("A", "1 x 2", 1, 7.0, 150.0), row("A", "1 x 2", 4, 7.0, 600.0)]
    parts = [row("A", "2 x 1", 1, 4.0, 250.0), row("A", "2 x 1", 4, 8.0, 520.0)]
    assert better([whole, parts]) is parts
    # What went on to more connections is not preferred for it.
    assert better([[*whole, row("A", "1 x 2", 16, 9.0, 2000.0)], parts]) is parts
    assert layouts(2, several=True) == [(1, 2), (2, 1)]
    assert layouts(2, several=False) == [(1, 2)]
    assert layouts(1, several=True) == [(1, 1)]


def test_the_table_has_a_row_for_each_layout() -> None:
    windows = [
        Window(CEILING, "2 x 1", 4, 40, 9.0, float("nan"), float("nan"), 0, None),
        row("A", "1 x 2", 1, 7.0, 150.0),
        row("A", "2 x 1", 1, 4.0, 250.0),
        row("A", "2 x 1", 4, 8.0, 520.0),
    ]
    assert table(windows, [1, 4]).splitlines()[2:] == [
        f"| {CEILING} | 2 x 1 | - | 9.00, -, - | 0 | - | - |",
        "| A | 1 x 2 | 7.00, 140, 150 | - | 0 | 400 | 270 |",
        "| A | 2 x 1 | 4.00, 240, 250 | 8.00, 510, 520 | 0 | 400 | 270 |",
    ]
    assert "of 40 to 40 answers" in answers_sentence(windows)


def test_karyon_is_compared_with_the_fastest_and_with_the_soonest_peer() -> None:
    windows = [
        Window(CEILING, "1 x 2", 1, 40, 9.0, 100.0, 110.0, 0, None),
        row("A", "1 x 2", 1, 7.0, 150.0),
        row("B", "1 x 2", 1, 6.0, 140.0),
        row(KARYON_ON_CPU, "1 x 2", 1, 7.5, 145.0),
        row(KARYON_ON_CPU, "2 x 1", 1, 4.0, 130.0),
    ]
    (one,) = compare(windows)
    assert (one.peer.server, one.soonest.server, one.same.requests_per_s) == ("A", "B", 7.5)
    # Faster, but not sooner; and by its own choice not another provider.
    assert (one.held, one.own) == (False, None)
    assert "| 7.50 (1 x 2): 1.07 of it |" in comparison_table([one])


def test_the_provider_is_read_from_karyons_answer() -> None:
    body = '{"count":3,"provider":"CPUExecutionProvider","precision":"fp32"}'
    assert provider_of(json.dumps({"body": body})) == "CPUExecutionProvider fp32"


def test_every_peer_has_its_program_and_pins_its_packages(repository: Path) -> None:
    servers = repository / "benchmarks" / "peers" / "servers"
    for peer in PEERS:
        named = " ".join(peer.command)
        assert any(path.stem in named for path in servers.glob("*_*.py")), peer.name
        assert sum("==" in requirement for requirement in peer.requirements) >= 3, peer.name
    assert json.loads(protocol_v2(b"x")[1])["inputs"][0]["datatype"] == "BYTES"
    assert b"\r\nX-Y: z\r\n\r\nbody" in request_bytes("/", "image/jpeg", b"body", ["X-Y: z"])


def test_a_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- load begin -->\nold\n<!-- load end -->\nb\n", encoding="utf-8")
    replace_section(page, "load", markdown_table(["x"], [["\\1"]]))
    expected = "a\n<!-- load begin -->\n| x |\n| --- |\n| \\1 |\n<!-- load end -->\nb\n"
    assert page.read_text(encoding="utf-8") == expected
    with pytest.raises(ValueError, match="0 sections named peers"):
        replace_section(page, "peers", "new")


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    write_figures(tmp_path / "x.json", {"rows": [{"p99_ms": float("nan"), "errors": 0}]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"rows": [{"p99_ms": None, "errors": 0}]}


@pytest.mark.parametrize("name", ["load", "peers"])
def test_the_page_has_the_sections_that_are_published(
    repository: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "performance.md"
    copy.write_bytes((repository / "docs" / "performance.md").read_bytes())
    replace_section(copy, name, "measured")
    assert f"<!-- {name} begin -->\nmeasured\n" in copy.read_text(encoding="utf-8")


def test_a_row_of_the_report_counts_images_and_keeps_the_rest_apart(tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    samples.write_text(
        "name,scheduled_s,start_lag_ms,latency_ms,status,outcome,retry_after_s\n"
        "count jpeg,100.0,1,500,200,answered,0\n"
        "count png,101.0,1,9000,200,answered,0\n"
        "stat,102.0,1,10,503,refused,2\n"
        "stat,103.0,1,10000,504,too late,0\n"
        "bad: cut off,104.0,1,5,415,answered,0\n"
        "probe,105.0,1,7,200,answered,0\n"
        "count png,105.0,3,4,500,error,0\n",
        encoding="utf-8",
    )
    row = read_row(samples, rate_per_s=1.0, seconds=6.0, peak_mb=400.0)
    # Two images; the last answer came 13 seconds after the first arrival.
    assert row.goodput_per_s == pytest.approx(2 / 13)
    assert (row.p50_ms, row.p99_ms, row.probe_p99_ms) == (9000, 9000, 7)
    assert (row.refused, row.too_late, row.errors) == (1, 1, 1)
