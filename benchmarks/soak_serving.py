"""A server under load: many clients, some that leave or send damage, and a flood of bodies that are too large.

    python benchmarks/soak_serving.py --seconds 600 --clients 64

Starts `mmlm serve nano` in a process of its own and prints what became of each kind of request, and the server's memory
from minute to minute. Exit code 1 where a good request was not answered as it is alone, a place was not freed, or the
memory of the last minute is over 5% above that of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import openai
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
KINDS = {"text": 30, "picture": 30, "stream": 18, "recording": 8, "drawing": 4, "leaving": 5, "damaged": 5}
LARGE = 60_000_000  # bytes, over the server's limit


def picture(color: str) -> str:
    """A drawn circle as a data: URL."""
    drawn, data = Image.new("RGB", (64, 64), "white"), io.BytesIO()
    ImageDraw.Draw(drawn).ellipse((16, 16, 48, 48), fill=color)
    drawn.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


PICTURES = {color: picture(color) for color in ("red", "blue", "green", "yellow")}


def messages(address: str | None) -> list[dict]:
    """A question, about a picture or none."""
    content: list[dict] = [{"type": "text", "text": "what color is the circle?"}]
    if address is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": address}})
    return [{"role": "user", "content": content}]


class Soak:
    """The clients, and what became of their requests."""

    def __init__(self, port: int, seconds: float) -> None:
        self.client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300
        )
        self.port, self.end = port, time.monotonic() + seconds
        self.recording = (ROOT / "demos/questions/shapes.wav").read_bytes()
        self.alone: dict[str, str] = {}
        self.became: Counter[tuple[str, str]] = Counter()

    async def run(self, clients: int) -> None:
        """All clients until the end."""
        for color, address in PICTURES.items():
            self.alone[color] = await self.asked(address)
        self.alone["text"] = await self.asked(None)
        await asyncio.gather(*(self.one_client(number) for number in range(clients)), self.flood())

    async def asked(self, address: str | None) -> str:
        """The whole answer to a question."""
        found = await self.client.chat.completions.create(
            model="nano", messages=messages(address), max_tokens=16
        )  # fmt: skip
        return found.choices[0].message.content or ""

    async def one_client(self, number: int) -> None:
        """Requests of random kinds, one after the other."""
        chance = random.Random(number)
        while time.monotonic() < self.end:
            (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
            try:
                outcome = await self.request(kind, chance)
            except openai.APIStatusError as error:
                outcome = str(error.status_code)
            except Exception as error:  # noqa: BLE001 - counted
                outcome = type(error).__name__
            self.became[kind, outcome] += 1

    async def request(self, kind: str, chance: random.Random) -> str:
        """One request; "good" where it was answered as it is alone."""
        color = chance.choice(list(PICTURES))
        if kind == "text":
            return "good" if await self.asked(None) == self.alone["text"] else "another answer"
        if kind == "picture":
            return "good" if await self.asked(PICTURES[color]) == self.alone[color] else "another answer"
        if kind == "recording":
            said = await self.client.audio.transcriptions.create(model="nano", file=("a.wav", self.recording))
            return "good" if said.text == "how many shapes are in the picture?" else "another text"
        if kind == "drawing":
            drawn = await self.client.images.generate(model="nano", prompt=f"in the middle a large {color} circle")
            return "good" if drawn.data else "nothing"
        if kind == "damaged":
            broken = PICTURES[color][: chance.randrange(30, 200)]
            return "answered" if await self.asked(broken) else "answered"
        stream = await self.client.chat.completions.create(
            model="nano", messages=messages(PICTURES[color]), max_tokens=16, stream=True
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if kind == "leaving":
                await stream.close()
                return "left"
        return "good" if text == self.alone[color] else "another answer"

    async def flood(self) -> None:
        """Bodies that are too large, one after the other."""
        while time.monotonic() < self.end:
            self.became["flood", await asyncio.to_thread(self.too_large)] += 1
            await asyncio.sleep(0.5)

    def too_large(self) -> str:
        """The status of one such body."""
        try:
            with socket.create_connection(("127.0.0.1", self.port)) as link:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGE}\r\n\r\n"
                link.sendall(head.encode())
                for _ in range(LARGE >> 20):
                    link.sendall(bytes(1 << 20))
                return link.recv(12).decode().split()[-1]
        except OSError as error:
            return type(error).__name__


def resident(process: int) -> float:
    """A process's memory, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


async def measured(soak: Soak, process: int, clients: int) -> list[list[float]]:
    """Memory in MB while the clients run: each minute's samples."""
    minutes: list[list[float]] = []
    began = time.monotonic()
    running = asyncio.ensure_future(soak.run(clients))
    while not running.done():
        await asyncio.wait({running}, timeout=2)
        minute = int((time.monotonic() - began) // 60)
        if minute == len(minutes):
            minutes.append([])
        minutes[-1].append(resident(process))
    await running
    return minutes


def main() -> int:
    """Runs the soak, and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mmlm", "serve", "nano", "--port", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health").read()
                break
            except OSError:
                time.sleep(0.2)
        soak = Soak(port, args.seconds)
        minutes = asyncio.run(measured(soak, server.pid, args.clients))
        time.sleep(2)
        figures = urllib.request.urlopen(f"{url}/metrics").read().decode().splitlines()
    finally:
        server.terminate()
        server.wait(30)
    places = {line for line in figures if line.startswith(("mmlm_running{", "mmlm_waiting{"))}
    print("\n".join(f"{kind}\t{outcome}\t{count}" for (kind, outcome), count in sorted(soak.became.items())))
    memory = [statistics.median(samples) for samples in minutes]
    print("memory by minute, MB:", " ".join(f"{value:.0f}" for value in memory))
    print("; ".join(sorted(places)))
    good = {("leaving", "left"), ("damaged", "400"), ("flood", "413")}
    bad = [one for one in soak.became if one[1] != "good" and one not in good]
    stuck = [line for line in places if not line.endswith(" 0.0")]
    grown = len(memory) > 2 and memory[-1] > 1.05 * memory[1]
    print(f"not as it should be: {bad or 'nothing'}; stuck: {stuck or 'none'}; memory grew: {'yes' if grown else 'no'}")
    return int(bool(bad or stuck or grown))


if __name__ == "__main__":
    sys.exit(main())
