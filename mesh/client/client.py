"""The client library: join a swarm and generate text, without a gateway in between."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

from mesh.client.backend import SwarmBackend
from mesh.client.backend_config import BackendConfig
from mesh.client.generation import MeshGeneration
from mesh.client.pins import ModelPins
from mesh.client.trials import Verification
from mesh.client.types import Completion, GenerateRequest, ModelInfo, Speculate, TextDelta, TokenLogprob
from mesh.errors import (
    Cancelled,
    ConfigError,
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ModelFault,
    NoRoute,
    Refused,
)
from mesh.identity import Identity
from mesh.light import LightNode
from mesh.node import Node, NodeConfig
from mesh.payment.credit.issuer import VoucherIssuer
from shards.engine.sampling_params import SEED_BITS, SamplingParams
from shards.errors import CapacityExceeded, InvalidSampling, NotText, ShardError, TextTooLong
from shards.grammar.constraint import Constraint
from shards.text.conversation import chat_tokens

DEFAULT_MAX_TOKENS = 256

TransportName = Literal["hivemind", "libp2p"]
"""How a client reaches the swarm: through hivemind's Go daemon, or with py-libp2p in this process."""

Messages = Sequence[Mapping[str, Any]]
"""A conversation: `{"role": "user" | "assistant" | "system", "content": "…"}` each."""


class Options(TypedDict, total=False):
    """Per-request options. The default is greedy, and 256 tokens or what the model's context leaves room for."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    logprobs: int | None
    prompt_logprobs: bool
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    speculate: Speculate
    constraint: Constraint | None
    """What the answer is held to: `json_schema(…)`, `one_of(…)`, `Constraint("regex", …)` (`shards.grammar`)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished generation."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    completion: Completion


class TextGeneration:
    """A generation to iterate for its `TextDelta`s: `async with client.stream(…) as stream: async for delta in stream`.

    It starts when it is entered, or first iterated. Leaving the block early, or `cancel()`, frees the session on
    every hop. `completion` is set when the answer is whole, and stays None when it was cancelled.
    """

    def __init__(self, backend: SwarmBackend, make: Callable[[], Awaitable[GenerateRequest]]) -> None:
        self._backend = backend
        self._make = make
        self._stack = AsyncExitStack()
        self._generation: MeshGeneration | None = None
        self._reading: asyncio.Future[TextDelta] | None = None
        self._cancelled = asyncio.Event()

    @property
    def completion(self) -> Completion | None:
        return self._generation.completion if self._generation is not None else None

    async def __aenter__(self) -> Self:
        if self._generation is None:
            with mesh_errors():
                request = await self._make()
                if not self._cancelled.is_set():
                    self._generation = await self._stack.enter_async_context(self._backend.generate(request))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        async with self:
            if self._generation is None:
                return
            deltas = aiter(self._generation)
            while not self._cancelled.is_set():
                # A task of its own, so that `cancel` can end the wait without cancelling whoever iterates.
                self._reading = asyncio.ensure_future(_next(deltas))
                try:
                    with mesh_errors():
                        delta = await self._reading
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if self._cancelled.is_set() and self._reading.cancelled():
                        return
                    raise
                finally:
                    self._reading = None
                yield delta

    async def cancel(self) -> None:
        """Stop generating and free the session on every hop; whoever iterates sees the end. Safe from any task."""
        self._cancelled.set()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._stack.aclose()

    async def answer(self) -> Answer:
        """Read to the end. Raises `Cancelled` when `cancel` was called."""
        parts: list[str] = []
        tokens: list[int] = []
        logprobs: list[TokenLogprob] = []
        async for delta in self:
            parts.append(delta.text)
            tokens.extend(delta.tokens)
            logprobs.extend(delta.logprobs)
        if self.completion is None:
            raise Cancelled("the generation was cancelled")
        return Answer("".join(parts), tuple(tokens), tuple(logprobs), self.completion)


class Client:
    """A developer's way into a swarm, as `async with Client(peers=[…]) as client:`.

    `peers` are addresses of any nodes of the swarm, as `mesh join` prints them. The client listens nowhere and
    holds no weights; it fetches a model's tokenizer from a provider. Everything it raises is a `MeshError`.
    """

    def __init__(
        self,
        peers: Sequence[str],
        *,
        identity: Identity | None = None,
        runtime_root: Path | None = None,
        host_maddrs: tuple[str, ...] = (),
        issuer: Callable[[asyncio.TaskGroup], VoucherIssuer] | None = None,
        transport: TransportName = "hivemind",
        digests: Mapping[str, str] | None = None,
        pins: Path | None = None,
        audit: float | None = None,
        verification: Verification | None = None,
    ) -> None:
        """`identity` is a fresh one where None; `runtime_root` is where its sockets go (`/tmp/mesh-UID`).

        With the transport `libp2p` the client starts no Go daemon: lighter and sooner there, but it speaks TCP only,
        directly or through a provider's relay.

        `digests` says which model a name means (its digest in hex); else the first that is used is meant from then on,
        beyond this process where `pins` names a file to keep that in.

        Of our sessions the share `audit` (0 to 1) has the work of one hop run again by another provider of its blocks;
        whose work is found to differ is routed around. None: a few in a hundred.

        A gateway that pays its providers has an `issuer`, listens on `host_maddrs`, so that they can reach it, and by a
        `verification` pays only for what is its model's work.
        """
        own = identity or Identity.generate()
        match transport:
            case "libp2p":
                self._node: Node | LightNode = LightNode(own, peers, host_maddrs=host_maddrs)
            case "hivemind":
                config = NodeConfig(
                    identity=own,
                    initial_peers=tuple(peers),
                    host_maddrs=host_maddrs or ("/ip4/127.0.0.1/tcp/0",),
                    client_mode=not host_maddrs,
                    runtime_root=runtime_root,
                    direct_port=None,  # a client is outside the ring
                )
                self._node = Node(config)
            case _:
                raise ConfigError(f"the transport is hivemind or libp2p, got {transport!r}")
        self._issuer = issuer
        self._verification = verification
        self._config = BackendConfig() if audit is None else BackendConfig(audit_share=audit)
        self._pins = ModelPins(pins, digests)
        self._stack = AsyncExitStack()
        self._backend: SwarmBackend | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._node)
            transport, directory = self._node.transport, self._node.directory
            backend = SwarmBackend(
                transport,
                directory,
                self._config,
                issuer=self._issuer,
                pins=self._pins,
                verification=self._verification,
            )
            self._backend = await stack.enter_async_context(backend)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend = None
        await self._stack.aclose()

    @property
    def node(self) -> Node | LightNode:
        """Our place in the network."""
        return self._node

    @property
    def backend(self) -> SwarmBackend:
        """The token-level interface, which the gateway uses."""
        if self._backend is None:
            raise InternalError("use the client as `async with Client(…) as client:`")
        return self._backend

    async def models(self) -> Sequence[ModelInfo]:
        """The models that the swarm serves now."""
        return await self.backend.models()

    async def generate(self, model: str, prompt: str | Sequence[int], **options: Unpack[Options]) -> Answer:
        """Continue `prompt` (text or token ids) and return the whole answer."""
        return await self.stream(model, prompt, **options).answer()

    def stream(self, model: str, prompt: str | Sequence[int], **options: Unpack[Options]) -> TextGeneration:
        """Continue `prompt` as a stream: `async with client.stream(…) as stream`, then iterate it."""
        backend = self.backend

        async def make() -> GenerateRequest:
            if not isinstance(prompt, str):
                return await self._request(model, prompt, options)
            tokenizer = await backend.tokenizer(model)
            return await self._request(
                model, await backend.text_threads.run(tokenizer, tokenizer.encode, prompt), options
            )

        return TextGeneration(backend, make)

    async def chat(self, model: str, messages: Messages, **options: Unpack[Options]) -> Answer:
        """Answer a conversation, using the model's own chat template."""
        return await self.stream_chat(model, messages, **options).answer()

    def stream_chat(self, model: str, messages: Messages, **options: Unpack[Options]) -> TextGeneration:
        """Answer a conversation as a stream."""
        backend = self.backend

        async def make() -> GenerateRequest:
            tokenizer = await backend.tokenizer(model)
            ids = await backend.text_threads.run(tokenizer, chat_tokens, tokenizer, messages)
            return await self._request(model, ids, options)

        return TextGeneration(backend, make)

    async def resolve_model(self, model: str | None) -> str:
        """`model`, or the only complete model of the swarm where None is given. Raises `InvalidRequest`."""
        if model is not None:
            return model
        names = [info.name for info in await self.models() if info.complete]
        if len(names) == 1:
            return names[0]
        if not names:
            raise NoRoute("no model is complete in this swarm yet: see `mesh status` for what is missing")
        raise InvalidRequest(f"several models are served, say which: {', '.join(names)}", param="model")

    async def _request(self, model: str, prompt: Sequence[int], options: Options) -> GenerateRequest:
        shrinks = "max_tokens" not in options
        if shrinks:
            room = (await self.backend.offer(model)).sample.context_length - len(prompt)
            options = {**options, "max_tokens": min(DEFAULT_MAX_TOKENS, max(1, room))}
        return replace(build_request(model, prompt, options), shrinks=shrinks)


def build_request(model: str, prompt: Sequence[int], options: Options) -> GenerateRequest:
    """A request from options; a seed that is not given is drawn. Raises `InvalidSampling`."""
    stop = options.get("stop", ())
    seed = options.get("seed")
    sampling = SamplingParams(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        min_p=options.get("min_p", 0.0),
        repetition_penalty=options.get("repetition_penalty", 1.0),
        presence_penalty=options.get("presence_penalty", 0.0),
        frequency_penalty=options.get("frequency_penalty", 0.0),
        logit_bias=options.get("logit_bias", {}),
        logprobs=options.get("logprobs"),
        seed=secrets.randbits(SEED_BITS) if seed is None else seed,
    )
    return GenerateRequest(
        model=model,
        prompt=tuple(prompt),
        max_tokens=options.get("max_tokens", DEFAULT_MAX_TOKENS),
        sampling=sampling,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ignore_eos=options.get("ignore_eos", False),
        prompt_logprobs=options.get("prompt_logprobs", False),
        speculate=options.get("speculate", "auto"),
        constraint=options.get("constraint"),
    )


async def _next(deltas: AsyncIterator[TextDelta]) -> TextDelta:
    return await anext(deltas)


@contextmanager
def mesh_errors() -> Iterator[None]:
    """What `shards` raises, as a `MeshError`: users of the library catch one root."""
    try:
        yield
    except TextTooLong as error:
        raise ContextLengthExceeded(str(error), param="prompt") from error
    except NotText as error:
        raise InvalidRequest(str(error), param="prompt") from error
    except InvalidSampling as error:
        raise InvalidRequest(str(error), param=str(error).partition(" ")[0]) from error
    except CapacityExceeded as error:
        raise Refused(str(error)) from error
    except ShardError as error:
        raise ModelFault(str(error)) from error
