"""The OpenAI API as values: bodies become `Asked`, answers bytes and dicts, failures `ApiError`.

The law: pure. No clock, no chance, no socket; the same functions serve the gateway and the tests without one.
"""

from llama_gossip.openai_api.answers import DONE, WAITING, Choice, Ended, Shaper
from llama_gossip.openai_api.asked import Asked, Kind, chat_asked, completion_asked
from llama_gossip.openai_api.document import openapi
from llama_gossip.openai_api.errors import ApiError, api_error_of, internal_error
from llama_gossip.openai_api.models import model_object, models_list

__all__ = [
    "DONE",
    "WAITING",
    "ApiError",
    "Asked",
    "Choice",
    "Ended",
    "Kind",
    "Shaper",
    "api_error_of",
    "chat_asked",
    "completion_asked",
    "internal_error",
    "model_object",
    "models_list",
    "openapi",
]
