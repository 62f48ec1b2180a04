"""Answers one generation request: runs its sessions, streams or collects, cancels when the client leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mesh.client.types import Completion, ModelInfo, TextDelta
from mesh.errors import MeshError
from mesh.gateway import sse
from mesh.gateway.bill import Bill
from mesh.gateway.bodies import read_body
from mesh.gateway.connections import source_of
from mesh.gateway.edge import CLIENT_LEFT, ClientLeft, Notes, notes_of, parse_body, unless_disconnected
from mesh.gateway.errors import ApiFailure, describe, is_ours
from mesh.gateway.job import Answer, Job
from mesh.gateway.reports import RequestReport
from mesh.gateway.sampling import seed_of, with_defaults
from mesh.gateway.schemas import ErrorFields, Failure, SamplingFields
from mesh.gateway.service import Gateway
from mesh.gateway.sessions import Ended, Event, Failed, Piece, open_sessions
from mesh.payment.accounts.resume_tickets import ResumeTicket
from shards.errors import ShardError
from shards.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_Fields = TypeVar("_Fields", bound=SamplingFields)


class GenerationResponse(Response, Generic[_Fields]):
    """An ASGI response that does the work while it is sent, so that it sees both ends of the connection.

    Whatever fails before the headers are sent (with the first token, or after `quiet_seconds`) is raised, for the app's
    error handlers to answer with its own HTTP status; afterwards it becomes the stream's last event.
    """

    def __init__(
        self, gateway: Gateway, schema: type[_Fields], prepare: Callable[[_Fields, ModelInfo, Tokenizer], Job]
    ) -> None:
        super().__init__()
        self._gateway = gateway
        self._schema = schema
        self._prepare = prepare
        self._started = False
        self._ended = False
        self._spoke = 0.0
        """When something was sent last, or the generation began (the loop's time)."""
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A place is taken only when the body is there, and its account may pay: who sends nothing holds nothing."""
        gateway, config, notes = self._gateway, self._gateway.config, notes_of(scope)
        arrived = time.monotonic()
        caller = notes.caller
        try:
            await gateway.admit(caller)
            if notes.meter is not None:
                notes.meter.admit()
            body = await read_body(
                scope,
                receive,
                limit=config.max_body_bytes,
                timeout=config.body_timeout,
                memory=gateway.body_memory,
                owner=source_of((scope.get("client") or (None,))[0]) if caller is None else caller.payer,
            )
            fields = parse_body(self._schema, body)
            del body
            if notes.chosen and fields.seed is None:
                fields = fields.model_copy(update={"seed": seed_of(notes.request_id)})
            await unless_disconnected(receive, self._answer(fields, scope, send, arrived))
        except ClientLeft:
            notes.status = CLIENT_LEFT

    async def _answer(self, fields: _Fields, scope: Scope, send: Send, arrived: float) -> None:
        gateway, notes = self._gateway, notes_of(scope)
        deadline = asyncio.get_running_loop().time() + gateway.config.request_timeout
        async with AsyncExitStack() as stack:
            async with asyncio.timeout_at(deadline):
                if notes.meter is not None:
                    notes.meter.check_model(fields.model)
                info = await gateway.model(fields.model)
                notes.model = gateway.metrics.model_label(info.name)
                await gateway.await_funds(notes.caller, info)
                await stack.enter_async_context(gateway.place(notes.caller))
                tokenizer = await gateway.backend.tokenizer(info.name)
                if gateway.config.generation_defaults:
                    fields = with_defaults(fields, tokenizer.sampling_defaults)
                # Templates and long prompts take long enough to stall every other stream.
                job = await gateway.text_threads.run(tokenizer, self._prepare, fields, info, tokenizer)
                job = job.asked_by(notes.asker)
                ticket = None
                if gateway.resumptions is not None and notes.caller is not None:
                    job, ticket = await gateway.resumptions.accept(notes.caller, job, fields.resume_ticket)
            progress = _Progress(gateway, job, notes.model, arrived)
            run = _Run(gateway, job, progress, gateway.bill(notes.caller, job), notes, deadline, ticket)
            try:
                with progress.recorded():
                    await (self._stream if job.stream else self._collect)(run, send)
            finally:
                if notes.meter is not None:
                    notes.meter.count(job.usage(progress.answers).total_tokens)
                if ticket is not None and gateway.resumptions is not None and not run.bill.delivers:
                    await asyncio.shield(gateway.resumptions.give_back(ticket))

    async def _collect(self, run: _Run, send: Send) -> None:
        """Send the answer in one piece. Where it is paid for and fails after something has come, send that."""
        job, progress, bill = run.job, run.progress, run.bill
        failure: Failure | None = None
        unforeseen: Exception | None = None
        try:
            async with asyncio.timeout_at(run.deadline), bill, self._sessions(job, bill) as batches:
                async for batch in _paid(bill, batches):
                    for event in batch:
                        progress.apply(event)
            progress.report.status = "done"
        except ClientLeft:
            raise
        except (MeshError, ShardError, TimeoutError, ApiFailure) as error:
            if not bill.delivers:
                raise
            failure = run.failed(error)
        except Exception as error:
            if not bill.delivers:
                raise
            failure, unforeseen = run.failed(error), error
        whole = job.writer.whole(progress.answers, bill.priced(job.usage(progress.answers)), failure)
        data = whole.model_dump_json(exclude_unset=True).encode()
        await Response(data, media_type="application/json")({"type": "http"}, _never, send)
        if unforeseen is not None:
            raise unforeseen

    def _sessions(self, job: Job, bill: Bill) -> AbstractAsyncContextManager[AsyncIterator[list[Event]]]:
        return open_sessions(
            self._gateway.backend,
            job.sessions,
            at_once=self._gateway.config.sessions_per_request,
            metrics=self._gateway.metrics,
            arrived=bill.arrived,
            cached=bill.cached,
        )

    async def _stream(self, run: _Run, send: Send) -> None:
        """Send the answer as it comes; a failure after that has begun becomes the last event."""
        self._spoke = asyncio.get_running_loop().time()
        talking = asyncio.create_task(self._break_silence(send), name="comments")
        try:
            await self._send_pieces(run, send)
        except ClientLeft:
            raise
        except (MeshError, ShardError, TimeoutError, ApiFailure) as error:
            if not self._started:
                raise
            await self._send_event(send, run.job.writer.framing.failure(run.failed(error)), last=True)
        except Exception as error:
            if self._started:
                await self._send_event(send, run.job.writer.framing.failure(run.failed(error)), last=True)
            raise
        finally:
            talking.cancel()
            await asyncio.wait({talking})
            if not talking.cancelled() and (problem := talking.exception()) is not None:
                log.error("request %s: comments could not be sent", run.notes.request_id, exc_info=problem)

    async def _break_silence(self, send: Send) -> None:
        """Proxies cut what is silent: while nothing comes, send the headers and a comment, which clients pass over.

        Not at once, so that what is refused soon still gets a status of its own.
        """
        quiet = self._gateway.config.quiet_seconds
        with suppress(ClientLeft):  # the answer notices as well
            while not self._ended:
                left = self._spoke + quiet - asyncio.get_running_loop().time()
                if left <= 0:
                    await self._send_event(send, sse.COMMENT)
                else:
                    await asyncio.sleep(left)

    async def _send_pieces(self, run: _Run, send: Send) -> None:
        job, progress, bill = run.job, run.progress, run.bill
        opened: set[int] = set()
        async with asyncio.timeout_at(run.deadline), bill, self._sessions(job, bill) as batches:
            async for batch in _paid(bill, batches):
                chunks: list[BaseModel] = []
                for event in batch:
                    if isinstance(event, Failed) and self._started and chunks:
                        await self._send_event(send, job.writer.framing.encode(chunks))
                    progress.apply(event)
                    if event.index not in opened:
                        opened.add(event.index)
                        chunks += job.writer.opening(event.index)
                    if isinstance(event, Piece):
                        chunks += job.writer.piece(event.index, event.delta)
                    else:
                        chunks += job.writer.closing(event.index, progress.answers[event.index])
                if chunks:
                    await self._send_event(send, job.writer.framing.encode(chunks))
            await bill.settle()
        progress.report.status = "done"
        tail = job.writer.usage(bill.priced(job.usage(progress.answers))) if job.include_usage else []
        framing = job.writer.framing
        await self._send_event(send, framing.encode(tail) + framing.done, last=True)

    async def _send_event(self, send: Send, data: bytes, *, last: bool = False) -> None:
        """Send a part of the stream, the headers before the first one. Raises `ClientLeft`."""
        try:
            async with asyncio.timeout(self._gateway.config.send_timeout), self._sending:
                if self._ended:
                    return
                self._ended, self._spoke = last, asyncio.get_running_loop().time()
                if not self._started:
                    self._started = True
                    await send({"type": "http.response.start", "status": 200, "headers": list(sse.HEADERS)})
                await send({"type": "http.response.body", "body": data, "more_body": not last})
        except TimeoutError:
            raise ClientLeft from None


class _Progress:
    """Keeps what the sessions gave, and tells the metrics and the request log."""

    def __init__(self, gateway: Gateway, job: Job, model_label: str, arrived: float) -> None:
        self.answers = [Answer() for _ in job.sessions]
        self.report = RequestReport(job.id, job.model.name, job.created, len(job.sessions))
        self._gateway = gateway
        self._job = job
        self._model = model_label
        self._arrived = arrived
        self._last_token: list[float | None] = [None] * len(job.sessions)

    def recorded(self) -> _Recorded:
        return _Recorded(self._gateway, self.report)

    def apply(self, event: Event) -> None:
        """Take in one event. Raises the error of a `Failed`."""
        match event:
            case Piece(index, delta, hops):
                self.answers[index].add(delta)
                self.report.advance(len(delta.tokens), time.monotonic() - self._arrived, hops)
                self._time(index, delta)
            case Ended(index, completion):
                self._end(index, completion)
            case Failed(_, error):
                raise error

    def _time(self, index: int, delta: TextDelta) -> None:
        if not delta.tokens:
            return
        now, before = time.monotonic(), self._last_token[index]
        self._last_token[index] = now
        metrics = self._gateway.metrics
        if before is None:
            metrics.first_token.labels(self._model).observe(now - self._arrived)
            metrics.tokens_out.labels(self._model).inc(len(delta.tokens))
        else:
            metrics.tokens_arrived(self._model, len(delta.tokens), now - before)

    def _end(self, index: int, completion: Completion) -> None:
        self.answers[index].completion = completion
        self.report.choices[index] = completion
        self._gateway.metrics.tokens_in.labels(self._model).inc(len(self._job.sessions[index].prompt))


class _Recorded:
    """Puts a report into the request log and sees that it never stays «running»."""

    def __init__(self, gateway: Gateway, report: RequestReport) -> None:
        self._gateway = gateway
        self._report = report

    def __enter__(self) -> None:
        self._gateway.requests.add(self._report)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._report.status == "running":
            cancelled = isinstance(error, asyncio.CancelledError | ClientLeft)
            self._report.status = "cancelled" if cancelled else "failed"
            if error is not None and not cancelled:
                self._report.error = describe(error, self._report.id).message


@dataclass(frozen=True, slots=True)
class _Run:
    """One request under way. `deadline` by the loop's clock; `ticket` is what it was resumed with."""

    gateway: Gateway
    job: Job
    progress: _Progress
    bill: Bill
    notes: Notes
    deadline: float
    ticket: ResumeTicket | None

    def failed(self, error: Exception) -> Failure:
        """Note that it failed, and log it where the fault is ours; what the client is told."""
        failure = describe(error, self.notes.request_id)
        if is_ours(error):
            log.error("request %s failed", self.notes.request_id, exc_info=error)
        self.notes.status = failure.status
        report = self.progress.report
        report.status, report.error = "failed", failure.message
        ticket = None
        resumptions, caller = self.gateway.resumptions, self.notes.caller
        if resumptions is not None and caller is not None and self.bill.delivers and failure.status >= 500:
            ticket = resumptions.ticket(caller, self.job, self.progress.answers[0], self.bill.charged, self.ticket)
        return Failure(ErrorFields(**failure.body()["error"]), ticket)


async def _paid(bill: Bill, batches: AsyncIterator[list[Event]]) -> AsyncIterator[Sequence[Event]]:
    """The same events, cut where the next one must wait to be paid for."""
    async for batch in batches:
        while batch:
            covered = await bill.cover(batch)
            yield batch[:covered]
            batch = batch[covered:]


async def _never() -> Message:
    raise RuntimeError("a plain response receives nothing")
