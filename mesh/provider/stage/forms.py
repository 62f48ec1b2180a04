"""Sessions whose answers are held to a form: it is tried and built beside the loop, and only then are they opened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.errors import BadTensor
from mesh.provider.stage.admission import NotAdmitted, refusal
from mesh.provider.stage.ports import Payload, SessionOwner
from mesh.wire.messages import OpenSession
from mesh.wire.tokens import read_tokens
from shards.engine.sampler import Form
from shards.errors import CapacityExceeded, InvalidGrammar, ShardError
from shards.grammar.forms import Forms
from shards.model.spec import ModelSpec
from shards.text.chat_template import SANDBOX
from shards.text.fast import tokenizer_from_files

MOST_WAITING = 64
"""Sessions whose form is not built yet."""
MOST_OF_ONE = 32
"""Of those, one client's, which may be a gateway with many callers; a form may take a second to be refused."""
BUSY_SECONDS = 1.0

Opened = Callable[[SessionOwner, OpenSession, Payload, Form], object]


@dataclass(slots=True)
class StageForms:
    """Those of a stage. `opened` hears of each session whose form is built."""

    spec: ModelSpec
    files: Mapping[str, bytes]
    tasks: asyncio.TaskGroup
    opened: Opened
    _forms: Forms = field(init=False)
    _one: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Held while a form is tried, so that one client's many do not take all threads."""
    _waiting: dict[tuple[SessionOwner, bytes], asyncio.Task[None]] = field(default_factory=dict)
    _of: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._forms = Forms(self._read, self.spec.vocab_size)

    def close(self) -> None:
        """No session is opened any more."""
        for task in self._waiting.values():
            task.cancel()
        self._forms.close()

    def open(self, owner: SessionOwner, request: OpenSession, payload: Payload) -> None:
        """Build the form of a session, and tell `opened`; or tell the client why not."""
        key = owner, request.session
        if key in self._waiting or len(self._waiting) >= MOST_WAITING or self._of[owner.peer] >= MOST_OF_ONE:
            busy = NotAdmitted("busy", "too many answers with a form begin at once", BUSY_SECONDS)
            owner.tell(refusal(request.session, busy))
            return
        self._of[owner.peer] += 1
        self._waiting[key] = self.tasks.create_task(self._build(owner, request, bytes(payload)))

    def cancel(self, owner: SessionOwner, session: bytes | None = None) -> bool:
        """The session, or all of the owner's, shall not be opened any more; whether one waited."""
        keys = [key for key in self._waiting if key[0] is owner and session in (None, key[1])]
        for key in keys:
            self._waiting[key].cancel()
        return bool(keys)

    async def _build(self, owner: SessionOwner, request: OpenSession, payload: bytes) -> None:
        try:
            form = await self._form(request, payload)
        except (ShardError, BadTensor) as error:
            owner.tell(refusal(request.session, self._no(error)))
        else:
            self.opened(owner, request, payload, form)
        finally:
            del self._waiting[owner, request.session]
            self._of[owner.peer] -= 1
            if not self._of[owner.peer]:
                del self._of[owner.peer]

    async def _form(self, request: OpenSession, payload: bytes) -> Form:
        """Raises `InvalidGrammar`, `CapacityExceeded`, `TokenizerError`, `BadTensor`."""
        if request.form is None or request.end != self.spec.n_blocks:
            raise InvalidGrammar("only the last hop holds an answer to a form")
        kind, text, begun = request.form
        fed = read_tokens(payload, request.fed_tokens, self.spec.vocab_size) if begun else []
        if begun > len(fed):
            raise InvalidGrammar(f"{begun} tokens of the answer are said to be among {len(fed)}")
        async with self._one:
            return await asyncio.to_thread(self._forms.begin, kind, text, fed[len(fed) - begun :])

    def _no(self, error: ShardError | BadTensor) -> NotAdmitted:
        match error:
            case InvalidGrammar():
                return NotAdmitted("bad_form", str(error))
            case CapacityExceeded():
                return NotAdmitted("busy", str(error), BUSY_SECONDS)
            case BadTensor():
                return NotAdmitted("bad_request", str(error))
            case _:
                return NotAdmitted("no_forms", f"answers cannot be held to a form here: {error}")

    def _read(self) -> tuple[list[bytes], list[int]]:
        """The model's tokens; the sandbox that reads them then rests: a provider reads no texts."""
        tokenizer = tokenizer_from_files(self.files)
        SANDBOX.rest()
        tokens = [tokenizer.token_bytes(token) for token in range(min(tokenizer.vocab_size, self.spec.vocab_size))]
        return tokens, [*tokenizer.special_tokens.values()]
