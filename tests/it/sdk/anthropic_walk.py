"""The `anthropic` SDK, one step a call that people make.

A key that starts with `token:` goes into `Authorization: Bearer` (auth_token), any other into
`X-Api-Key` (api_key).
"""

import anthropic
import httpx2

from walk import walk

ASK = {"max_tokens": 64, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


def connect(base, key, hooks):
    token = key.removeprefix("token:")
    credential = {"auth_token": token} if token != key else {"api_key": key or "none"}
    return anthropic.Anthropic(
        base_url=base, max_retries=0, timeout=30,
        http_client=httpx2.Client(event_hooks=hooks), **credential,
    )


def message(client, model):
    return client.messages.create(model=model, **ASK).model_dump(mode="json")


def message_stream(client, model):
    parts = client.messages.create(model=model, stream=True, **ASK)
    return [part.model_dump(mode="json") for part in parts]


def text_stream(client, model):
    """The SDK's own helper, which assembles the message from the events."""
    with client.messages.stream(model=model, **ASK) as stream:
        pieces = list(stream.text_stream)
        return {"pieces": pieces, "message": stream.get_final_message().model_dump(mode="json")}


def count_tokens(client, model):
    answer = client.messages.count_tokens(model=model, messages=ASK["messages"])
    return answer.input_tokens


def unknown_model(client, model):
    return client.messages.create(model="no-such-model", **ASK).model_dump(mode="json")


def patient(client, model):
    """As people have it: the SDK tries again by itself, unless it is told not to."""
    return message(client.with_options(max_retries=2), model)


def leave(client, model):
    """Reads some parts of an answer that never seems to end, and hangs up."""
    parts = client.messages.create(model=model, stream=True, **(ASK | {"max_tokens": 100_000}))
    taken = [next(parts).type for _ in range(4)]
    parts.close()
    return taken


walk(httpx2, connect, {
    "message": message, "message_stream": message_stream, "text_stream": text_stream,
    "count_tokens": count_tokens, "unknown_model": unknown_model, "leave": leave,
    "patient": patient,
})
