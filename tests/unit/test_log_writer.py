"""Log lines never block the thread that writes them, whatever their reader does."""

from __future__ import annotations

import io
import logging
import os
import threading
import time

from rag.process.log_writer import LogWriter, QueuedHandler


def test_lines_are_written_in_order() -> None:
    writer, out = LogWriter(), io.StringIO()
    for number in range(100):
        writer.write(out, str(number))
    writer.flush()
    assert out.getvalue().splitlines() == [str(number) for number in range(100)]


def test_a_reader_that_stops_reading_blocks_nobody_and_the_dropped_lines_are_counted_and_reported_once() -> None:
    writer = LogWriter(max_lines=50)
    reading, writing = os.pipe()
    with os.fdopen(reading, "r") as reader, os.fdopen(writing, "w") as pipe:
        began = time.perf_counter()
        for _ in range(500):
            writer.write(pipe, "x" * 1000)  # a pipe holds 64 KiB
        assert time.perf_counter() - began < 1
        assert writer.dropped > 300
        lines: list[str] = []
        resumed = threading.Thread(target=lambda: lines.extend(reader), daemon=True)
        resumed.start()
        writer.flush()
        writer.write(pipe, "after")
        writer.flush()
        pipe.close()
        resumed.join(5)
    assert sum("log lines were dropped" in line for line in lines) == 1
    assert "after\n" in lines


def test_a_closed_pipe_is_no_error() -> None:
    writer, out, closed = LogWriter(), io.StringIO(), io.StringIO()
    closed.close()
    writer.write(closed, "lost")
    writer.write(out, "kept")
    writer.flush()
    assert out.getvalue() == "kept\n"


def test_log_records_take_the_same_way() -> None:
    writer, out = LogWriter(), io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(QueuedHandler(out, writer))
    logger.warning("%d blocks", 3)
    writer.flush()
    assert out.getvalue() == "3 blocks\n"
