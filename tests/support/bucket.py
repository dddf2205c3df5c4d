"""An object store on this machine that speaks S3's language: moto's server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def bucket(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Any]:
    """A client of it. `s3://bucket` holds the tars of a folder, and is found by the environment, as any other is."""
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs, by which fsspec reads s3://")
    server = pytest.importorskip("moto.server", reason="needs moto[server], which stands for S3", exc_type=ImportError)
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # credentials are looked for on this machine alone
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "anything")
        s3fs.S3FileSystem.clear_instance_cache()  # those of another server
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in folder.glob("*.tar"):
            client.put_object(Bucket="bucket", Key=path.name, Body=path.read_bytes())
        yield client
    finally:
        running.stop()
        s3fs.S3FileSystem.clear_instance_cache()
