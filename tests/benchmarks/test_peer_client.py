"""The tools of the side-by-side: client, request, table, publication."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.load_report import read_row
from benchmarks.peers.client import Tally, measure
from benchmarks.peers.run import Window, best, counted, request_bytes, table
from benchmarks.peers.table import KERAS_PEER, PEERS, protocol_v2
from benchmarks.publish import markdown_table, replace_section, write_figures

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b'{"count":3}'
CHUNKED = (
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{"coun\r\n5\r\nt":3}\r\n0\r\n\r\n'
)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def asked(*answers: bytes) -> Tally:
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
            return await measure(request_bytes("/count", "image/jpeg", b"jpeg"), port, 1, 1.0)

    return asyncio.run(both())


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_the_client_reads_both_framings(answer: bytes) -> None:
    tally = asked(answer, answer, answer)
    assert len(tally.latencies_ms) == 3
    assert json.loads(tally.body) == {"count": 3}


def test_the_client_counts_refusals_and_broken_connections_as_errors() -> None:
    tally = asked(OK, BUSY)
    assert len(tally.latencies_ms) == 1
    # The refusal, and each connection that the server then closes.
    assert tally.errors >= 2


@pytest.mark.parametrize(
    "body", ['{"count": 12}', '{"predictions":[{"count":12}]}', '{"data":["{\\"count\\": 12}"]}']
)
def test_the_count_is_found_in_every_protocol(body: str) -> None:
    assert counted(json.dumps({"body": body})) == 12


def test_an_answer_without_a_count_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="no count"):
        counted(json.dumps({"body": "Internal Server Error"}))


def test_the_better_layout_counts_and_the_table_shows_it() -> None:
    slow = [Window("A", "1 x 2", 1, 5.0, 200.0, 210.0, 0, 400.0)]
    fast = [Window("A", "2 x 1", 1, 7.0, 140.0, 150.0, 1, 500.0)]
    assert best([slow, fast]) is fast
    assert table(fast, [1]).splitlines()[-1] == "| A | 2 x 1 | 7.0, 140, 150 | 1 | 500 |"


def test_every_peer_has_its_program_and_pins_its_packages(repository: Path) -> None:
    servers = repository / "benchmarks" / "peers" / "servers"
    for peer in (*PEERS, KERAS_PEER):
        named = " ".join(peer.command)
        assert any(path.stem in named for path in servers.glob("*_*.py")), peer.name
        assert sum("==" in requirement for requirement in peer.requirements) >= 3, peer.name
    assert json.loads(protocol_v2(b"x")[1])["inputs"][0]["datatype"] == "BYTES"


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
