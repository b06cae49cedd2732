"""What the three walks share: steps chosen by name, failures told, bytes recorded.

Usage of every walk: BASE_URL KEY MODEL STEP...
It prints {"steps": {step: outcome}, "received": [{method, path, status, type, body}, ...]}.
"""

import json
import sys


class Recorder:
    """Keeps every response body, byte for byte (as Latin-1), through either generation of httpx."""

    def __init__(self, httpx):
        self.received = []
        recorder = self

        class Tee(httpx.SyncByteStream):
            def __init__(self, inner, entry):
                self.inner, self.entry, self.parts = inner, entry, []

            def __iter__(self):
                for part in self.inner:
                    self.parts.append(part)
                    yield part

            def close(self):
                self.entry["body"] = b"".join(self.parts).decode("latin-1")
                self.inner.close()

        def tee(response):
            entry = {
                "method": response.request.method,
                "path": response.request.url.path,
                "status": response.status_code,
                "type": response.headers.get("content-type"),
            }
            recorder.received.append(entry)
            response.stream = Tee(response.stream, entry)

        self.hooks = {"response": [tee]}


def walk(httpx, connect, steps):
    """Runs the steps named on the command line with connect(base, key, hooks) as the client."""
    base, key, model, *names = sys.argv[1:]
    recorder = Recorder(httpx)
    client = connect(base, key, recorder.hooks)
    outcomes = {name: tell(steps[name], client, model) for name in names}
    json.dump({"steps": outcomes, "received": recorder.received}, sys.stdout)


def tell(step, client, model):
    try:
        return step(client, model)
    except Exception as error:
        return {
            "raised": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "text": str(error),
        }
