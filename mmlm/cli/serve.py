"""Serve models over HTTP, in the dialect of OpenAI's API."""

from __future__ import annotations

import argparse
import ipaddress
import os

from mmlm.cli.loading import device_of
from mmlm.cli.options import file_path
from mmlm.cli.served import add_model_options, add_models, loaders_of

EXAMPLES = """\
  mmlm serve
  mmlm serve nano runs/first/model --max-loaded 1
  mmlm serve nano --host 0.0.0.0 --port 8080 --api-key KEY
  mmlm serve --host 0.0.0.0 --api-key KEY --tls-certificate server.pem --tls-key server.key
  mmlm serve --allow-url images.example.org upload.example.org
  mmlm serve --ray --replicas 2 --max-replicas 8 --device cuda --host 0.0.0.0 --api-key KEY"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_models(verb)
    verb.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: 127.0.0.1)")
    verb.add_argument(
        "--api-key", metavar="KEY",
        help="what requests must carry, or the environment's MMLM_API_KEY; needed where --host is another than this "
        "machine alone",
    )  # fmt: skip
    verb.add_argument(
        "--tls-certificate", type=file_path, metavar="FILE",
        help="speak https alone, with this certificate and those that it is signed by, in PEM",
    )  # fmt: skip
    verb.add_argument(
        "--tls-key", type=file_path, metavar="FILE",
        help="the certificate's private key in PEM, without a password (default: in the certificate's file)",
    )  # fmt: skip
    verb.add_argument(
        "--allow-url", nargs="+", default=[], metavar="HOST", help="fetch pictures from these hosts (default: none)"
    )
    group = verb.add_argument_group("how much at once")
    group.add_argument("--max-rows", type=int, default=32, metavar="N", help="texts written together (default: 32)")
    group.add_argument(
        "--max-recordings", type=int, default=8, metavar="N", help="recordings written down together (default: 8)"
    )
    group.add_argument("--max-waiting", type=int, default=256, metavar="N", help="requests that wait (default: 256)")
    group.add_argument("--max-loaded", type=int, metavar="N", help="models in memory (default: all that are used)")
    group.add_argument("--idle-seconds", type=float, metavar="S", help="unload a model that is not used for so long")
    limits = verb.add_argument_group("limits of one request")
    limits.add_argument("--max-body-bytes", type=int, metavar="N", help="with its media (default: 50 MB)")
    limits.add_argument("--max-pixels", type=int, metavar="N", help="of all its pictures (default: 64 million)")
    limits.add_argument("--max-seconds", type=float, metavar="S", help="of all its recordings (default: 1 hour)")
    limits.add_argument("--timeout", type=float, metavar="S", help="after which it is given up (default: 600)")
    many = verb.add_argument_group("many machines")
    many.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="on the machines of a Ray cluster (extra ray; default: the one that this machine belongs to)",
    )
    many.add_argument("--replicas", type=int, metavar="N", help="at least (default: 1)")
    many.add_argument("--max-replicas", type=int, metavar="N", help="where requests wait (default: --replicas)")
    many.add_argument("--replica-cpus", type=float, metavar="N", help="processors of each (default: 1)")
    add_model_options(verb)


def run(args: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    key = args.api_key or os.environ.get("MMLM_API_KEY") or None
    if key is None and not is_loopback(args.host):
        raise ValueError(
            f"--host {args.host} is open to other machines: give a key with --api-key, or in the environment's "
            "MMLM_API_KEY"
        )
    own = [name for name in ("replicas", "max_replicas", "replica_cpus") if vars(args)[name] is not None]
    if own and args.ray is None:
        raise ValueError(f"--{own[0].replace('_', '-')} is for --ray")
    if args.ray is not None and args.port == 0:
        raise ValueError("--port 0: the machines of a cluster listen at the same port, so name one")
    if args.tls_key is not None and args.tls_certificate is None:
        raise ValueError("--tls-key is the key of a --tls-certificate: give that too")
    loaders = loaders_of(args)
    from mmlm.serving.options import EngineOptions
    from mmlm.serving.run import Place, serve
    from mmlm.serving.settings import Limits, Settings

    limits = {name: vars(args)[name] for name in ("max_body_bytes", "max_pixels", "max_seconds", "timeout")}
    settings = Settings(
        api_key=key,
        hosts=frozenset(host.lower() for host in args.allow_url),
        limits=Limits(**{name: value for name, value in limits.items() if value is not None}),
    )
    place = Place(args.host, args.port, args.tls_certificate, args.tls_key)
    options = EngineOptions(max_rows=args.max_rows, max_recordings=args.max_recordings, max_waiting=args.max_waiting)
    models = {"max_loaded": args.max_loaded, "idle_seconds": args.idle_seconds}
    if args.ray is None:
        serve(loaders, settings, place, options, **models)
        return
    from mmlm.serving.cluster.run import serve_on_ray
    from mmlm.serving.cluster.scale import Scale

    replicas = 1 if args.replicas is None else args.replicas
    scale = Scale(
        replicas, replicas if args.max_replicas is None else args.max_replicas,
        1 if args.replica_cpus is None else args.replica_cpus, float(device_of(args).type == "cuda"),
    )  # fmt: skip
    serve_on_ray(loaders, settings, place, options, args.ray, scale, **models)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
