"""Messages of a chat become the (role, content) pairs of a prompt.

The law: text only, and all of it. What carries anything else (images, audio, files, tool calls) is refused,
so that no model answers to less than it was given; nothing is ever fetched.
"""

from __future__ import annotations

from typing import Final

from llama_gossip.openai_api import fields as f
from llama_gossip.openai_api.body import shown
from llama_gossip.openai_api.errors import too_long
from llama_gossip.protocol.limits import MAX_CHAT_MESSAGES
from llama_gossip.protocol.messages import ChatPrompt

ROLES: Final = {  # as a client names it: as chat templates know it
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
UNTOLD: Final = ("tool_calls", "function_call", "audio", "refusal")  # of an assistant: more than its text
NOTHING: Final[tuple[object, ...]] = (None, [], "")  # what these hold in an answer that is sent back


def chat_prompt(fields: f.Fields) -> ChatPrompt:
    """Raises ApiError (400)."""
    messages = f.items("messages", f.required(fields, "messages"))
    if not messages:
        raise f.wrong_value("messages", "must hold at least one message")
    if len(messages) > MAX_CHAT_MESSAGES:
        raise too_long("messages", f"messages are more than {MAX_CHAT_MESSAGES}")
    return ChatPrompt(tuple(_message(f"messages[{n}]", message) for n, message in enumerate(messages)))


def _message(param: str, value: object) -> tuple[str, str]:
    message = f.members(param, value)
    role = _role(f"{param}.role", message.get("role"))
    _check_name(f"{param}.name", message.get("name"))
    for name in UNTOLD:
        if message.get(name) not in NOTHING:
            raise f.refused(f"{param}.{name}", "is not supported: a message is text here")
    return role, _content(f"{param}.content", message.get("content"))


def _role(param: str, value: object) -> str:
    role = ROLES.get(f.one_text(param, value))
    if role is None:
        raise f.wrong_value(param, f"must be one of {', '.join(ROLES)}, not {shown(value)}")
    return role


def _check_name(param: str, value: object) -> None:
    """Accepted and not told to the model: chat templates have no place for it."""
    if value is not None:
        f.one_text(param, value)


def _content(param: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise f.wrong_type(param, "a string or an array of text parts", value)
    if not value:
        raise f.wrong_value(param, "must hold at least one part")
    return "".join(_part(f"{param}[{n}]", part) for n, part in enumerate(value))


def _part(param: str, value: object) -> str:
    part = f.members(param, value)
    kind = f.one_text(f"{param}.type", part.get("type"))
    if kind != "text":
        raise f.refused(f"{param}.type", f"must be text, not {shown(kind)}: models read text only here")
    return f.one_text(f"{param}.text", part.get("text"))
