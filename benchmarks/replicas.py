"""Replicas on a Ray cluster of two nodes on this machine: same answers, same replica for a picture, one killed.

    python benchmarks/replicas.py [--port 8791]

Needs the extra `ray`. Exit code 1 where an answer is another than that of a server of one machine, where a picture is
encoded by both replicas though they are not busy, or where, after one replica is killed, a stream ends without an error
event, another request is not answered, or no new replica comes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import io
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import openai
from PIL import Image, ImageDraw

import mmlm
from mmlm.serving.cluster.run import NAME, begin
from mmlm.serving.cluster.scale import Scale
from mmlm.serving.options import EngineOptions
from mmlm.serving.run import Place
from mmlm.serving.settings import Settings

ROOT = Path(__file__).parents[1]
PICTURES, TIMES = 12, 5
LONG = {"temperature": 2.0, "seed": 1, "max_tokens": 150, "extra_body": {"n": 2}}  # a text that is not short


def picture(number: int) -> str:
    """A drawn circle as a data: URL, for each number another."""
    drawn, data = Image.new("RGB", (64, 64), "white"), io.BytesIO()
    ImageDraw.Draw(drawn).ellipse((2 * number, 8, 24 + 2 * number, 32), fill=("red", "blue", "green")[number % 3])
    drawn.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def about(address: str) -> list[Any]:
    """A question about a picture."""
    text = {"type": "text", "text": "what color is the large round thing in the middle of this picture?"}
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}, text]}]


async def all_answers(client: openai.AsyncOpenAI) -> dict[str, Any]:
    """One answer of each kind."""
    chat = client.chat.completions.create
    whole = [await chat(model="nano", messages=about(picture(number))) for number in range(4)]
    sampled = await chat(model="nano", messages=[{"role": "user", "content": "hello"}], **LONG)
    stream = await chat(model="nano", messages=about(picture(1)), stream=True)
    said = await client.audio.transcriptions.create(model="nano", file=ROOT / "demos/questions/shapes.wav")
    drawn = await client.images.generate(model="nano", prompt="a red circle", extra_body={"seed": 1})
    return {
        "pictures": [one.choices[0].message.content for one in whole],
        "sampled": [choice.message.content for choice in sampled.choices],
        "stream": [chunk.choices[0].delta.content async for chunk in stream],
        "transcript": said.text, "drawing": drawn.data[0].b64_json if drawn.data else None,
    }  # fmt: skip


def figure(name: str) -> float:
    """A figure of the engines, summed over the cluster, as Prometheus reads it."""
    import ray

    found = 0.0
    for node in ray.nodes():
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
            found += sum(float(line.split()[-1]) for line in lines if line.startswith(f"ray_mmlm_{name}_total{{"))
    return found


def replicas() -> list[str]:
    """The names of the replicas' actors that are alive."""
    from ray.util.state import list_actors

    alive = list_actors(filters=[("state", "=", "ALIVE")])
    return [actor.name for actor in alive if actor.name.startswith(f"SERVE_REPLICA::{NAME}#replica")]


async def after_a_kill(client: openai.AsyncOpenAI) -> Counter[str]:
    """What becomes of 12 streams and 24 other requests, while one of two replicas is killed."""
    import ray

    became: Counter[str] = Counter()
    begun = asyncio.Semaphore(0)

    async def stream() -> None:
        reader = await client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "hello"}], stream=True, **LONG
        )
        count = 0
        try:
            async for chunk in reader:
                count += bool(chunk.choices and chunk.choices[0].delta.content)
                if count == 3:
                    begun.release()
            became["streams complete"] += 1
        except openai.APIError as error:
            became[f"streams that end with: {error.message}"] += 1

    async def other(number: int) -> None:
        try:
            await client.chat.completions.create(model="nano", messages=about(picture(number % PICTURES)))
            became["other requests answered"] += 1
        except openai.APIError as error:
            became[f"other requests failed: {error.message}"] += 1

    streams = [asyncio.create_task(stream()) for _ in range(12)]
    for _ in streams:
        await begun.acquire()
    others = [asyncio.create_task(other(number)) for number in range(12)]
    await asyncio.sleep(0.05)
    ray.kill(ray.get_actor(replicas()[0], namespace="serve"), no_restart=True)
    others += [asyncio.create_task(other(number)) for number in range(12)]
    await asyncio.gather(*streams, *others)
    return became


async def check(plain_port: int, port: int) -> list[str]:
    """What is wrong; prints what is found."""
    wrong = []
    plain, many = (
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{one}/v1", api_key="none", max_retries=0, timeout=300)
        for one in (plain_port, port)
    )
    expected, found = await all_answers(plain), await all_answers(many)
    same = [kind for kind in expected if expected[kind] == found[kind]]
    print(f"the same as of one machine: {', '.join(same)}")
    wrong += [f"{kind} differs" for kind in expected if kind not in same]

    known = 0
    for _ in range(TIMES):
        for number in range(PICTURES):
            answer = await many.chat.completions.create(model="nano", messages=about(picture(4 + number)))
            assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
            known += bool(answer.usage.prompt_tokens_details.cached_tokens)
    print(
        f"{PICTURES} pictures asked about {TIMES} times: {known} of {PICTURES * TIMES} prompts known to their replica"
    )
    if known < 0.9 * PICTURES * (TIMES - 1):  # a busy machine may be too slow to ask a replica how busy it is
        wrong.append("pictures did not find their replica again")
    time.sleep(12)  # figures are told every 5 s, and again by Ray
    print(f"tokens written, by the figures that Prometheus reads: {figure('generated_tokens'):.0f}")
    if not figure("generated_tokens"):
        wrong.append("no figures are told")

    became = await after_a_kill(many)
    for what, count in sorted(became.items()):
        print(f"one of two replicas killed: {count} {what}")
    if became["other requests answered"] != 24 or sum(became.values()) != 36:
        wrong.append("requests were lost with the replica")
    if not any("lost" in what for what in became) or not became["streams complete"]:
        wrong.append("all streams, or none, were on the replica that was killed")
    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(180):
            while len(replicas()) < 2:
                await asyncio.sleep(1)
    print(f"replicas after {time.monotonic() - began:.0f} s: {len(replicas())}")
    if len(replicas()) < 2:
        wrong.append("no new replica came")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8791)
    port = parser.parse_args().port
    os.environ.update(
        RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",  # this machine may be busy
        RAY_USAGE_STATS_ENABLED="0",
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    command = [sys.executable, "-m", "mmlm", "serve", "nano", "--port", str(port + 1)]
    plain = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        begun = time.monotonic()
        loaders = {"nano": functools.partial(mmlm.load, "nano")}
        begin(loaders, Settings(), Place(port=port), EngineOptions(), cluster.address, Scale(2, 2))
        print(f"two replicas on two nodes: ready after {time.monotonic() - begun:.0f} s")
        wrong = asyncio.run(check(port + 1, port))
        serve.shutdown()
    finally:
        plain.terminate()
        ray.shutdown()
        cluster.shutdown()
    print("wrong: " + "; ".join(wrong) if wrong else "all is well")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
