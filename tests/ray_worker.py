"""The script that Ray runs for each worker process in the tests; see ``warm_ray.py``.

It has a process forked that has imported torch already, and ends with it. It imports little itself.
"""

from __future__ import annotations

import argparse
import json
import os
import socket


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", type=json.loads, default={})
    parser.add_argument("--language")
    context, words = parser.parse_known_args()
    variables = context.serialized_runtime_env_context.get("env_vars", {})
    order = {"argv": words, "environment": {**os.environ, **variables}, "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["MEDRD_TEST_WARM_RAY"])
        socket.send_fds(server, [b"!"], [1, 2])
        server.sendall(json.dumps(order).encode())
        server.shutdown(socket.SHUT_WR)
        server.recv(1)  # nothing comes, until the worker ends


if __name__ == "__main__":
    main()
