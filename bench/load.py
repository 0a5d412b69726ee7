"""The load: requests of a signed-in browser, made by wrk; and the proof that they were answered as they should be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.world import CHROME

CONNECTIONS = 32

BROWSER = {
    "User-Agent": CHROME,
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cache-Control": "max-age=0",
    "Sec-Ch-Ua": '"Chromium";v="142", "Not_A Brand";v="99"',
    "Sec-Ch-Ua-Mobile": "?0",
    "Sec-Ch-Ua-Platform": '"Linux"',
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-User": "?1",
    "Upgrade-Insecure-Requests": "1",
}
"""What Chrome sends beside Host and Cookie."""

SCRIPT = """
wrk.method = "GET"
{headers}
{pace}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p50": %f, "p99": %f}}\\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Burst:
    """What became of one stretch of load; percentiles in milliseconds."""

    requests: int
    seconds: float
    refused: int
    """Answers with a status of 400 or more."""
    broken: int
    """Connections that failed, and requests without an answer."""
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


async def burst(
    wrk: str,
    folder: Path,
    url: str,
    headers: Mapping[str, str],
    seconds: float,
    rate: float | None = None,
    connections: int = CONNECTIONS,
) -> Burst:
    """Load for so many seconds: as much as the connections can, or about ``rate`` requests a second.

    For a rate, every connection waits before each request for a time drawn evenly from 0 to twice the mean; what the
    server makes of it is measured from the moment that the request is written.
    """
    script = folder / "load.lua"
    pace = (
        ""
        if rate is None
        else f"function delay() return math.floor({2 * _pause(rate, connections)} * math.random() + 0.5) end"
    )
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    script.write_text(SCRIPT.format(headers=lines, pace=pace))
    script.chmod(0o600)
    process = await asyncio.create_subprocess_exec(
        *(wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "5s", "-s", str(script), url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    _, found, result = output.decode(errors="replace").partition("RESULT ")
    if process.returncode or not found:
        raise RuntimeError(f"wrk failed: {output.decode(errors='replace')}")
    return Burst(**json.loads(result))


def _pause(rate: float, connections: int) -> float:
    """Milliseconds between the end of one request and the next of the same connection, for this rate of all."""
    return max(0.0, 1000 * connections / rate - 1000 / rate)
