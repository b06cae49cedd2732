"""The `ollama` SDK, one step a call that people make."""

import httpx
import ollama

from walk import walk

EMBEDDER = "nomic-embed-text"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def connect(base, key, hooks):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return ollama.Client(base, headers=headers, event_hooks=hooks, timeout=30)


def version(client, model):
    return client._client.get("/api/version").json()


def listed(client, model):
    return [each.model for each in client.list().models]


def show(client, model):
    return client.show(model).model_dump(mode="json")


def chat(client, model):
    return client.chat(model, QUESTION).model_dump(mode="json")


def chat_stream(client, model):
    return [part.model_dump(mode="json") for part in client.chat(model, QUESTION, stream=True)]


def generate(client, model):
    return client.generate(model, "Why is the sky blue?").model_dump(mode="json")


def generate_stream(client, model):
    parts = client.generate(model, "Why is the sky blue?", stream=True)
    return [part.model_dump(mode="json") for part in parts]


def embed(client, model):
    return client.embed(EMBEDDER, ["one", "two"]).model_dump(mode="json")


def unknown_model(client, model):
    return client.chat("no-such-model", QUESTION).model_dump(mode="json")


def pull(client, model):
    return client.pull(model).model_dump(mode="json")


def leave(client, model):
    """Reads two parts of an answer that never seems to end, and hangs up."""
    options = {"num_predict": 100_000}
    parts = client.chat(model, QUESTION, stream=True, options=options)
    taken = [next(parts).message.content for _ in range(2)]
    parts.close()
    return taken


walk(httpx, connect, {
    "version": version, "list": listed, "show": show, "chat": chat, "chat_stream": chat_stream,
    "generate": generate, "generate_stream": generate_stream, "embed": embed,
    "unknown_model": unknown_model, "pull": pull, "leave": leave,
})
