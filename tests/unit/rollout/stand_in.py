"""A server that speaks as much of vLLM's HTTP as the fleet and the client use: `python stand_in.py PORT SECONDS`.

It stands in for vLLM where vLLM is not the point: what becomes of requests when servers die, are late or have other
weights. Its answer to a request depends on prompt, seed and weights only, and takes SECONDS.
"""

from __future__ import annotations

import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATE: dict[str, str] = {"version": "default", "weights": "those it was started with"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply({"weight_version": STATE["version"]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/collective_rpc" and body["method"] == "reload_weights":
            STATE["weights"] = (Path(body["kwargs"]["weights_path"]) / "weights").read_text()
        if self.path == "/collective_rpc" and body["method"] == "use_trainer_positions":
            self.send_error(500, "no such method")  # it has no worker extension
            return
        if self.path == "/update_weight_version":
            STATE["version"] = body["new_version"]
        if self.path == "/give_up_next":
            STATE["finish"] = "abort"
        self._reply(generate(body) if self.path == "/inference/v1/generate" else {"success": True})

    def _reply(self, reply: Any) -> None:
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def generate(body: dict[str, Any]) -> dict[str, Any]:
    version, weights = STATE["version"], STATE["weights"]
    time.sleep(float(sys.argv[2]))
    numbers = random.Random(f"{body['token_ids']} {body['sampling_params']['seed']} {weights}")
    ids = [numbers.randrange(3, 250) for _ in range(body["sampling_params"]["max_tokens"])]
    content = [{"token_id": token, "logprob": -1.0, "top_logprobs": []} for token in ids]
    spans = [{"version": version, "start": 0, "end": len(ids)}]
    finish = STATE.pop("finish", "length")
    choice = {"token_ids": ids, "logprobs": {"content": content}, "finish_reason": finish, "weight_versions": spans}
    return {"choices": [choice]}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
