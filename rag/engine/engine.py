"""Continuous batching: one thread, one loop (wait → schedule → step → sample → deliver).

Requests join and leave between two steps. A request that fails (NaN logits, an exception that only its own tokens
raise) fails alone. Token ids only: text is decoded in rag/engine/detokenizer.py.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rag.admission.rates import Rates
from rag.backends.base import Backend, Segment
from rag.engine.block_pool import PinnedBlocks
from rag.engine.sampling import Draw, Sampler, choose
from rag.engine.scheduler import Scheduler, SequenceState, Work
from rag.errors import GenerationFailed, InvalidRequest, NotReady, OutOfMemory, Overloaded, PromptTooLong, RagError
from rag.interfaces import FinishReason, Sampling

_log = logging.getLogger(__name__)

_LONGEST_PIN_WAIT_S = 5.0
_GIL_YIELD_S = 50e-6  # a sleep just long enough to release the GIL


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A new token, or the end, or both: the token that reaches max_new_tokens has the finish reason as well."""

    draw: Draw | None
    finish_reason: FinishReason | None = None


class Ticket:
    """A submitted request: `events` yields its events, in order; the last has a finish_reason or is an error."""

    def __init__(self, sequence: SequenceState, sampler: Sampler, engine: Engine) -> None:
        self.sequence = sequence
        self.sampler = sampler
        self.events: queue.SimpleQueue[TokenEvent | RagError] = queue.SimpleQueue()
        self._engine = engine

    def cancel(self) -> None:
        """End before the next step; no effect on a request that has ended."""
        self._engine.cancel(self)


class Engine:
    """Owns the backend and the thread that calls it.

    The backend allocates `num_blocks`, unless it has done so before: `allocated_bytes` is then its KV memory.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        num_blocks: int,
        max_model_len: int,
        max_batch_tokens: int = 512,
        max_waiting: int = 64,
        eos_ids: Sequence[int] = (),
        allocated_bytes: int | None = None,
    ) -> None:
        self.backend = backend
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.kv_bytes = backend.allocate(num_blocks) if allocated_bytes is None else allocated_bytes
        self.rates = Rates()
        self.on_out_of_memory: Callable[[], None] = lambda: None
        self._eos_ids = frozenset(eos_ids)
        self._scheduler = Scheduler(
            num_blocks=num_blocks,
            block_size=backend.block_size,
            max_batch_tokens=max_batch_tokens,
            max_waiting=max_waiting,
            whole_prompts=backend.whole_prompts,
            reusable=backend.reusable,
        )
        self._tickets: dict[SequenceState, Ticket] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the loop runs; once it has ended, no request is answered."""
        return self._thread.is_alive() and not self._stopping

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._scheduler.free_blocks

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens, in all, whose KV came from another request."""
        return self._scheduler.reused_tokens

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, pinned: PinnedBlocks | None = None) -> Ticket:
        """Queue a request, or start it at once in `pinned` blocks, one request at a time.

        Raises InvalidRequest, PromptTooLong, Overloaded or NotReady; no memory is held then.
        """
        self._validate(prompt_ids, sampling)
        sequence = SequenceState(tuple(prompt_ids), sampling, pinned=pinned)
        ticket = Ticket(sequence, Sampler(sampling, prompt_ids, tuple(self._eos_ids)), self)
        with self._wake:
            if not self.alive:
                raise NotReady("the engine has stopped", remedy="wait until /ping answers 200 again")
            self._scheduler.add(sequence)
            self._tickets[sequence] = ticket
            self._wake.notify()
        # Release the GIL for the engine's thread, which would otherwise wait for this thread's switch interval.
        time.sleep(_GIL_YIELD_S)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Mark `ticket` to end before the next step."""
        with self._wake:
            ticket.sequence.cancelled = True
            self._wake.notify()

    def pin_blocks(self) -> PinnedBlocks:
        """Blocks of a whole context that a conversation keeps between its turns. Raises Overloaded or NotReady."""
        waits_until = time.monotonic() + _LONGEST_PIN_WAIT_S
        with self._wake:
            while self.alive:
                pinned = self._scheduler.pin(self.max_model_len)
                if pinned is not None:
                    return pinned
                if time.monotonic() >= waits_until:
                    raise Overloaded(
                        "no memory for another session", field="session", remedy="close a session", retry_after_s=1.0
                    )
                self._wake.wait(0.01)  # a cancelled request holds its blocks until the step in flight ends
        raise NotReady("the engine has stopped", remedy="wait until /ping answers 200 again")

    def unpin_blocks(self, pinned: PinnedBlocks) -> None:
        """Give pinned blocks back, at the latest when the last turn in them ends."""
        with self._wake:
            self._scheduler.unpin(pinned)

    def rebuilt(self) -> Engine:
        """A new engine over the same backend and memory, after an error has ended this one's loop."""
        engine = Engine(
            self.backend,
            num_blocks=self.num_blocks,
            max_model_len=self.max_model_len,
            max_batch_tokens=self._scheduler.max_batch_tokens,
            max_waiting=self._scheduler.max_waiting,
            eos_ids=tuple(self._eos_ids),
            allocated_bytes=self.kv_bytes,
        )
        engine.rates, engine.on_out_of_memory = self.rates, self.on_out_of_memory
        return engine

    def stop(self) -> None:
        """End the loop after the step in flight; requests that have not ended get an error."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _validate(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        if not prompt_ids:
            raise InvalidRequest("the prompt has no tokens", field="query", value="", remedy="send some text")
        vocab_size = self.backend.vocab_size
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
            outside = next(token for token in prompt_ids if not 0 <= token < vocab_size)
            raise InvalidRequest(
                "a token id is outside the vocabulary", field="prompt", value=outside, limit=vocab_size
            )
        unknown = next((token for token in sampling.stop_ids if not 0 <= token < vocab_size), None)
        if unknown is not None:
            raise InvalidRequest(
                "a stop id is outside the vocabulary", field="stop_ids", value=unknown, limit=vocab_size - 1
            )
        if sampling.max_new_tokens < 1:
            raise InvalidRequest(
                "max_new_tokens must be at least 1", field="max_new_tokens", value=sampling.max_new_tokens, limit=1
            )
        needed = len(prompt_ids) + sampling.max_new_tokens
        if needed > self.max_model_len:
            raise PromptTooLong(
                f"{len(prompt_ids)} prompt tokens and {sampling.max_new_tokens} new ones exceed the context",
                field="max_new_tokens",
                value=f"{needed} tokens",
                limit=f"{self.max_model_len} tokens",
                remedy="shorten the prompt, ask for fewer max_new_tokens, or deploy with a larger CONTEXT",
            )

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._stopping or not self._scheduler.idle)
                    if self._stopping:
                        break
                    self._end_cancelled()
                    works = self._scheduler.schedule()
                    copies = self._scheduler.take_copies()
                for copy in copies:
                    self.backend.copy(*copy)
                if works:
                    self._step(works)
        except Exception:  # the loop itself failed: /ping reports it, and all requests end
            _log.exception("an error ended the engine's loop")
        finally:
            with self._wake:
                self._stopping = True
                for sequence in list(self._tickets):
                    self._end(sequence, GenerationFailed("the engine stopped before the answer was complete"))

    def _step(self, works: Sequence[Work]) -> None:
        began = time.perf_counter()
        try:
            logits = self._forward(works)
        except Exception as error:
            if len(works) > 1:
                # A step is idempotent: each sequence runs again alone, and only the one that raises fails.
                _log.warning("a step of %d sequences failed (%r): running each alone", len(works), error)
                if _is_out_of_memory(error):
                    self._reduce_load()
                for work in works:
                    self._step([work])
                return
            _log.exception("a request failed in the engine")
            with self._wake:
                self._end(works[0].sequence, self._failure(error))
            return
        rows = [row for row, work in enumerate(works) if work.completes]
        tickets = [self._tickets[works[row].sequence] for row in rows]
        chosen = logits if len(rows) == len(works) else logits[rows]  # indexing copies, and logits are wide
        draws = choose(chosen, [ticket.sampler for ticket in tickets]) if rows else []
        decodes = sum(work.start >= len(work.sequence.prompt_ids) for work in works)
        prefilled = sum(len(work.new_ids) for work in works) - decodes
        self.rates.observe(prefill_tokens=prefilled, decodes=decodes, seconds=time.perf_counter() - began)
        with self._wake:
            for work in works:
                work.sequence.num_computed += len(work.new_ids)
            for ticket, draw in zip(tickets, draws, strict=True):
                self._accept(ticket, draw)

    def _forward(self, works: Sequence[Work]) -> torch.Tensor:
        return self.backend.step([Segment(work.new_ids, work.start, work.sequence.block_ids) for work in works])

    def _failure(self, error: Exception) -> GenerationFailed:
        if not _is_out_of_memory(error):
            return GenerationFailed("the model failed on this request")
        self._reduce_load()
        return OutOfMemory(
            "memory ran out on this request",
            remedy="send it again: the container takes on less from now on; deploy with less CONCURRENCY or CONTEXT",
            retry_after_s=1.0,
        )

    def _reduce_load(self) -> None:
        """Smaller steps, which need less workspace; the callback makes admission accept less from now on."""
        self._scheduler.max_batch_tokens = max(16, self._scheduler.max_batch_tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.on_out_of_memory()

    def _accept(self, ticket: Ticket, draw: Draw | None) -> None:
        sequence = ticket.sequence
        if draw is None:
            self._end(sequence, GenerationFailed("the model gave no finite scores for this request"))
        elif draw.token in self._eos_ids or draw.token in sequence.sampling.stop_ids:
            self._end(sequence, TokenEvent(None, "stop"))
        else:
            sequence.output_ids.append(draw.token)
            if len(sequence.output_ids) == sequence.sampling.max_new_tokens:
                self._end(sequence, TokenEvent(draw, "length"))
            else:
                ticket.events.put(TokenEvent(draw))

    def _end_cancelled(self) -> None:
        for sequence in [sequence for sequence in self._tickets if sequence.cancelled]:
            self._end(sequence, TokenEvent(None, "cancelled"))

    def _end(self, sequence: SequenceState, last: TokenEvent | RagError) -> None:
        self._scheduler.remove(sequence, reusable=isinstance(last, TokenEvent))
        self._tickets.pop(sequence).events.put(last)


def _is_out_of_memory(error: Exception) -> bool:
    """On a GPU torch raises its own type, on a CPU a RuntimeError with this message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
