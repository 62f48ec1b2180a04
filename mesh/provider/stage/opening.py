"""With what a session begins in the engine: its sampler, and the keys of pages that it may share (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.provider.stage.ports import Payload
from mesh.provider.stage.session import StageSession
from mesh.wire.messages import KEY_BYTES, OpenSession
from mesh.wire.sampling import from_wire
from mesh.wire.tokens import read_tokens
from shards.engine.blocks import chain_root, keys_under
from shards.engine.sampler import Form, SamplerState
from shards.errors import InvalidSampling
from shards.model.spec import ModelSpec


def sampler_for(request: OpenSession, payload: Payload, spec: ModelSpec, form: Form | None = None) -> SamplerState:
    """The last stage's part of a session. Raises `InvalidSampling`, `BadTensor` or `BadActivation`."""
    if request.form is not None and form is None:
        raise InvalidSampling("the form of the answer was not built")
    known = read_tokens(payload, request.fed_tokens, spec.vocab_size) if payload else None
    params = from_wire(request.sampling, request.logit_bias)
    outside = [token for token in params.logit_bias if token >= spec.vocab_size]
    if outside:
        raise InvalidSampling(f"logit_bias names token {outside[0]}, the vocabulary has {spec.vocab_size}")
    return SamplerState(
        params,
        prompt=request.prompt_tokens,
        fed=request.fed_tokens,
        capacity=request.capacity,
        eos=request.eos,
        prompt_scores=request.prompt_scores,
        known=known,
        form=form,
    )


def stage_keys(keys: bytes, session: StageSession, digest: str, numerics: str) -> Sequence[bytes]:
    """Under which keys full pages are found: the client's `keys`, under a root that only its sessions after the same
    previous hop have. A prompt that is larger than the credit runs whole, as the credit's rules foresee."""
    bill = session.bill
    if bill is not None and bill.price_of(session.fed_tokens) > bill.customer.line.credit:
        return ()
    root = chain_root(digest, numerics, str(session.span), session.client, session.previous)
    return keys_under(root, [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)])
