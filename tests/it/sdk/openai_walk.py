"""The `openai` SDK, one step a call that people make."""

import httpx2
import openai

from walk import walk

EMBEDDER = "nomic-embed-text"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def connect(base, key, hooks):
    return openai.OpenAI(
        base_url=f"{base}/v1", api_key=key or "none", max_retries=0, timeout=30,
        http_client=httpx2.Client(event_hooks=hooks),
    )


def listed(client, model):
    return [each.id for each in client.models.list()]


def retrieve(client, model):
    return client.models.retrieve(model).id


def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION)
    return answer.model_dump(mode="json")


def chat_stream(client, model):
    parts = client.chat.completions.create(model=model, messages=QUESTION, stream=True)
    return [part.model_dump(mode="json") for part in parts]


def chat_stream_usage(client, model):
    parts = client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True},
    )
    return [part.model_dump(mode="json") for part in parts]


def completion(client, model):
    answer = client.completions.create(model=model, prompt="Why is the sky blue?")
    return answer.model_dump(mode="json")


def completion_stream(client, model):
    parts = client.completions.create(model=model, prompt="Why is the sky blue?", stream=True)
    return [part.model_dump(mode="json") for part in parts]


def embed(client, model):
    answer = client.embeddings.create(model=EMBEDDER, input=["one", "two"], encoding_format="float")
    return answer.model_dump(mode="json")


def response(client, model):
    answer = client.responses.create(model=model, input="Why is the sky blue?")
    return answer.model_dump(mode="json")


def response_stream(client, model):
    parts = client.responses.create(model=model, input="Why is the sky blue?", stream=True)
    return [part.model_dump(mode="json") for part in parts]


def unknown_model(client, model):
    answer = client.chat.completions.create(model="no-such-model", messages=QUESTION)
    return answer.model_dump(mode="json")


def patient(client, model):
    """As people have it: the SDK tries again by itself, unless it is told not to."""
    return chat(client.with_options(max_retries=2), model)


def leave(client, model):
    """Reads two parts of an answer that never seems to end, and hangs up."""
    parts = client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, max_tokens=100_000,
    )
    taken = [next(parts).choices[0].delta.content for _ in range(2)]
    parts.close()
    return taken


walk(httpx2, connect, {
    "list": listed, "retrieve": retrieve, "chat": chat, "chat_stream": chat_stream,
    "chat_stream_usage": chat_stream_usage, "completion": completion,
    "completion_stream": completion_stream, "embed": embed, "response": response,
    "response_stream": response_stream, "unknown_model": unknown_model, "leave": leave,
    "patient": patient,
})
