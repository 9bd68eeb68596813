"""Nobody: why no worker takes a request, as one code, one sentence, one remedy and a reason a peer.

The law: a request never waits in silence for what cannot come.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.limits import TOO_BIG_FOR_GOSSIP
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.request import MAX_TRAIL, Request
from llama_gossip.protocol.selection import Survey, Unfit
from llama_gossip.protocol.states import RequestState


@dataclass(frozen=True, slots=True)
class Why:
    code: str
    message: str
    hint: str
    trail: tuple[tuple[NodeId, int, str], ...]


def why_nobody(request: Request, survey: Survey) -> Why:
    """Nobody in the roster can serve it."""
    unfit = survey.unfit[: MAX_TRAIL - len(request.trail)]
    trail = (*request.trail, *((node_id, 0, reason) for node_id, _, reason in unfit))
    seen = len(survey.unfit)
    peers = f"{seen} peer{'' if seen == 1 else 's'} seen"
    model = request.submit.model
    reasons = {unfit for _, unfit, _ in survey.unfit}
    if Unfit.RESUME in reasons:
        least = request.submit.resume.word
        message = f"after {request.delivered} tokens nobody can continue the answer by {least} ({peers})"
        return Why("peer_failed", message, "allow less: --resume text", trail)
    if request.failed_before:
        return Why("peer_failed", "every worker that could serve it has failed", _TRY_AGAIN, trail)
    if Unfit.TOO_LONG in reasons:
        return _too_long(request, f" ({peers})", trail)
    if Unfit.DIGEST in reasons:
        return Why("model", f"nobody serves {model!r} with these weights ({peers})", _SEE_MODELS, trail)
    if Unfit.MODEL in reasons:
        return Why("model", f"no worker serves {model!r} ({peers})", _SEE_MODELS, trail)
    if request.submit.worker is not None:
        message = f"the worker {request.submit.worker.hex()[:10]} is not there ({peers})"
        return Why("no_workers", message, "see who is there: llama-gossip peers", trail)
    if Unfit.LOADING in reasons:
        return Why("no_workers", f"no worker is ready yet ({peers})", "wait until one has loaded", trail)
    named = f"serves {model!r}" if model else "serves a model"
    return Why("no_workers", f"no worker {named} ({peers})", "start one: llama-gossip worker", trail)


def why_refused(request: Request) -> Why:
    """Everybody who can serve it has said no for good."""
    trail = tuple(request.trail)
    codes = set(request.barred.values())
    if codes == {"too_long"}:
        return _too_long(request, "", trail)
    if codes <= {"model", "digest"}:
        message = f"every worker that offered {request.submit.model!r} has refused it"
        return Why("model", message, _SEE_MODELS, trail)
    if request.failed_before:
        return Why("peer_failed", "every worker that could serve it has failed", _TRY_AGAIN, trail)
    return Why("no_workers", "every worker has refused the request", "ask the owners of the workers", trail)


def why_not_by_gossip(request: Request) -> Why:
    """There are workers, and none that can be sealed to: oneself, or one that announces no key."""
    hint = "allow a direct connection: --delivery auto"
    return Why("no_workers", "no worker can be asked by gossip", hint, tuple(request.trail))


def why_unsendable(request: Request, error: ProtocolError) -> Why:
    """No Assign can be made of it."""
    code = "too_long" if error.code in ("oversize", TOO_BIG_FOR_GOSSIP) else "bad_request"
    return Why(code, error.message, error.hint, tuple(request.trail))


def _too_long(request: Request, peers: str, trail: tuple[tuple[NodeId, int, str], ...]) -> Why:
    """How long, and what the limit is: by whoever has counted, else by what is known without a tokeniser."""
    by_count = request.too_long_told or f"at least {request.want().least_tokens} tokens are needed"
    message = f"prompt and answer are too long for every worker{peers}: {by_count}"
    return Why("too_long", message, "shorten the prompt or lower max_tokens", trail)


def why_late(request: Request) -> Why:
    """The deadline has passed. When all it waited for is a worker that broke, that is the reason."""
    trail = tuple(request.trail)
    if request.state is RequestState.SOLICITING and request.failed_before:
        return Why("peer_failed", "every worker that could serve it has failed", _TRY_AGAIN, trail)
    seconds = (request.deadline_mono_ms - request.submitted_mono_ms) / 1_000
    return Why("timeout", f"no whole answer within {seconds:g} s", "give it more time", trail)


_SEE_MODELS = "see what is served: llama-gossip peers"
_TRY_AGAIN = "try again; llama-gossip peers shows who is there"
