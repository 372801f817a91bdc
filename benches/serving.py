#!/usr/bin/env python3
"""Load on `lavida serve`: how long answers take, what is shed, whether it recovers, whether memory grows.

    cargo build --release
    benches/serving.py --checkpoint runs/first --video street.mp4 [--clients 200] [--seconds 60]

Three phases, each of --seconds: one client alone, then all of them at once, then one client again. A client asks, reads its answer
and asks again; one that is sent away (503) waits as long as `Retry-After` says. Health is asked ten times a second
throughout. Prints one table, and JSON with --json. Needs Python 3.9 and nothing else.
"""
import argparse
import asyncio
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkpoint", required=True)
parser.add_argument("--video", required=True)
parser.add_argument("--categories", default="bicycle,cart")
parser.add_argument("--lavida", default="target/release/lavida")
parser.add_argument("--clients", type=int, default=200)
parser.add_argument("--max-requests", type=int, default=16)
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--json", action="store_true")
args = parser.parse_args()
video = pathlib.Path(args.video).read_bytes()


async def ask(address, head, body=b""):
    """One request on a connection of its own: status, seconds to wait if it says so, body."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    after = re.search(rb"retry-after: (\d+)", head.lower())
    return int(head.split()[1]), int(after[1]) if after else 0, body


class Phase:
    def __init__(self, name):
        self.name, self.seconds, self.shed, self.failed, self.health = name, [], 0, 0, []

    def row(self, duration, memory):
        def at(values, q):
            return statistics.quantiles(values, n=100)[q - 1] if len(values) > 1 else float("nan")

        return {
            "phase": self.name,
            "answered": len(self.seconds),
            "a_second": round(len(self.seconds) / duration, 2),
            "p50_s": round(at(self.seconds, 50), 3),
            "p99_s": round(at(self.seconds, 99), 3),
            "p99_over_p50": round(at(self.seconds, 99) / at(self.seconds, 50), 2),
            "sent_away": self.shed,
            "failed": self.failed,
            "health_p99_ms": round(1000 * at(self.health, 99), 1),
            "memory_mib": memory,
        }


async def client(address, phase, until, i):
    query = args.categories.replace(" ", "%20")
    head = f"POST /v1/score?categories={query} HTTP/1.0\r\nContent-Type: video/mp4\r\n"
    await asyncio.sleep(0.005 * (i % 200))
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            status, after, _ = await ask(address, head, video)
        except OSError:
            phase.failed += 1
            await asyncio.sleep(0.1)
            continue
        if status == 200:
            phase.seconds.append(time.monotonic() - begun)
        elif status == 503:
            phase.shed += 1
            await asyncio.sleep(min(max(after, 1), max(0.0, until - time.monotonic())))
        else:
            phase.failed += 1


async def watch_health(address, phase, until):
    while time.monotonic() < until:
        begun = time.monotonic()
        status, _, _ = await ask(address, "GET /v2/health/ready HTTP/1.0\r\n")
        if status != 200:
            phase.failed += 1
        phase.health.append(time.monotonic() - begun)
        await asyncio.sleep(0.1)


def memory_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)


async def main():
    command = [args.lavida, "serve", "--checkpoint", args.checkpoint, "--listen", "127.0.0.1:0"]
    command += ["--max-requests", str(args.max_requests)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            sys.stderr.write(line)
            found = re.search(r"serve: at http://([^:]+):(\d+)/", line)
            if found:
                break
        else:
            sys.exit("the service ended before it served")
        address = found[1], int(found[2])
        rows = []
        for name, n in (("one client", 1), (f"{args.clients} clients", args.clients), ("one client again", 1)):
            phase, until = Phase(name), time.monotonic() + args.seconds
            clients = [client(address, phase, until, i) for i in range(n)]
            await asyncio.gather(watch_health(address, phase, until), *clients)
            rows.append(phase.row(args.seconds, memory_mib(server.pid)))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    if args.json:
        print(json.dumps({"cores": os.cpu_count(), "exit_code": code, "phases": rows}, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    print(f"ended with exit code {code}; {os.cpu_count()} cores")


asyncio.run(main())
