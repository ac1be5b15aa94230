"""A model behind an API, asked through Inspect AI's model layer.

Inspect knows the providers, retries what can be tried again, backs off and limits connections.
Added here: every attempt goes through a ``Ledger``, so that a limit holds before anything is sent,
and an answer is on the disk before anybody sees it. Async stays inside.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from json import JSONDecodeError
from queue import SimpleQueue
from threading import Thread
from typing import Any

from vestige.api.ledger import Ledger
from vestige.api.provider_errors import readable, refused, status_of
from vestige.api.requests import Reply, Request, answer_of, reply_of, tokens_of
from vestige.api.settings import Tokens
from vestige.core.redaction import redact
from vestige.core.types import ConfigError, MissingExtraError, ModelError, VestigeError
from vestige.models.catalog import API_PREFIX
from vestige.store import hash_config

OPENAI_URL = "https://api.openai.com/v1"
BACKOFF = 0.5  # seconds before the first retry; doubled from one to the next
LONGEST_WAIT = 60.0  # seconds between two attempts; chosen
GIVE_UP = 20  # requests in a row that failed after their retries
#: Providers whose own client would try again unseen.
OWN_RETRIES = ("openai", "openai-api", "anthropic", "groq", "together", "fireworks", "deepseek")
NOTHING = Tokens()
_asked: ContextVar[Request] = ContextVar("asked")


class ApiModel:
    """A model by its name: ``api:provider/model`` as Inspect has it, or the bare name of a model
    of an OpenAI-compatible service (``OPENAI_BASE_URL``, ``OPENAI_API_KEY``).

    Args:
        timeout: seconds that an attempt may take.
        retries: attempts after the first, for what may pass: 429, 5xx, time-outs, cut connections.

    Attributes:
        answered: whether it has ever answered, so that single requests may be refused.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        *,
        connections: int = 8,
        timeout: float = 60.0,
        retries: int = 4,
    ) -> None:
        try:
            importlib.import_module("inspect_ai")
            importlib.import_module("openai")
        except ImportError as error:
            raise MissingExtraError("inspect-ai", "api") from error
        self.name, self.ledger = name, ledger
        self.connections, self.timeout, self.retries = connections, timeout, retries
        self.answered = False
        self._stopped = False
        self._failures = self._refusals = 0
        self._fatal: BaseException | None = None

    def key(self, request: Request) -> str:
        """What a recorded answer is found by."""
        fields = {name: getattr(request, name) for name in request.__slots__}
        return hash_config({"model": self.name.removeprefix(API_PREFIX), **fields})

    def new(self, requests: Sequence[Request]) -> list[Request]:
        """The requests that have no recorded answer."""
        return [r for r in requests if self.key(r) not in self.ledger.answers]

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Replies as they come: (index, reply). Recorded answers come first and cost nothing.

        Raises:
            ConfigError: a wrong or missing key, or a model that is not served.
            SpendingError: the next request may pass a limit. What is in flight is waited for.
            ModelError: ``GIVE_UP`` requests in a row have failed, or that many were refused (400)
                and none was ever answered.
        """
        todo = []
        for index, request in enumerate(requests):
            if (key := self.key(request)) not in self.ledger.answers:
                todo.append((index, request))
            else:
                self.answered = True
                yield index, reply_of(self.ledger.answer(key))
        if todo:
            yield from self._ask(todo)

    def _ask(self, todo: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Reply]]:
        replies: SimpleQueue[tuple[int, Reply] | BaseException | None] = SimpleQueue()
        self._stopped, self._failures, self._fatal = False, 0, None

        def work() -> None:
            try:
                asyncio.run(self._all(todo, replies.put))
                replies.put(None)
            except BaseException as error:
                replies.put(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := replies.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stopped = True
            thread.join()

    async def _all(
        self, todo: Sequence[tuple[int, Request]], put: Callable[[tuple[int, Reply]], object]
    ) -> None:
        waiting = iter(todo)
        self._settled = asyncio.Event()

        async def worker(model: Any) -> None:
            for index, request in waiting:
                if self._stopped:
                    return
                try:  # in a task of its own: Inspect keeps a transcript as long as a task's context
                    put((index, await asyncio.create_task(self._one(model, request))))
                except BaseException as error:
                    self._stopped, self._fatal = True, self._fatal or error
                    return

        async with self._open() as model:
            await asyncio.gather(*(worker(model) for _ in range(self.connections)))
        if self._fatal:
            raise self._fatal

    def _open(self) -> Any:
        """Inspect's model, every attempt of which goes through the ledger."""
        from inspect_ai._util.error import PrerequisiteError
        from inspect_ai.model import GenerateConfig, get_model
        from tenacity import wait_exponential_jitter

        name, extra = self.name.removeprefix(API_PREFIX), {}
        if "/" not in name:
            extra["base_url"] = os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
            name = f"openai-api/openai/{name}"
        if name.split("/")[0] in OWN_RETRIES:
            extra["max_retries"] = 0
        config = GenerateConfig(
            max_connections=self.connections,
            max_retries=self.retries,
            attempt_timeout=math.ceil(self.timeout),
        )
        try:
            model = get_model(name, config=config, memoize=False, **extra)
        except (PrerequisiteError, ValueError, ImportError) as error:
            text = re.sub(r"\[/?\w+\]|^ERROR: ", "", str(getattr(error, "message", error)))
            raise ConfigError(
                f"{self.name} cannot be used: {redact(' '.join(text.split()))} (any text will do "
                "as the key of a service that asks for none)"
            ) from None
        api: Any = model.api
        retried = api.should_retry
        api.generate = self._metered(api.generate)
        if hasattr(api, "_generate_completion"):
            api._generate_completion = readable(api._generate_completion)
        api.should_retry = lambda error: isinstance(error, JSONDecodeError) or retried(error)
        wait = wait_exponential_jitter(initial=BACKOFF, max=LONGEST_WAIT, jitter=BACKOFF)
        api.retry_wait = lambda: wait
        return model

    def _metered(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        async def generate(*args: Any, **kwargs: Any) -> Any:
            request = _asked.get()
            attempt = await self._reserve(request.most)
            used: Tokens | None = None  # a time-out, a cut connection: nobody knows
            answer, error = None, ""
            try:
                result = await ask(*args, **kwargs)
                output = result[0] if isinstance(result, tuple) else result
                if isinstance(output, Exception):
                    used, error = NOTHING, str(output)
                else:
                    used, answer = tokens_of(output, request), answer_of(output)
                return result
            except BaseException as problem:
                error = f"{type(problem).__name__}: {problem}"
                used = NOTHING if refused(problem) else None
                raise
            finally:
                self.ledger.settle(attempt, used, key=self.key(request), answer=answer, error=error)
                self._settled.set()

        return generate

    async def _reserve(self, most: Tokens) -> str:
        while True:
            if self._stopped:
                raise ModelError(f"{self.name} is not asked any more")
            self._settled.clear()
            if attempt := self.ledger.reserve(most):
                return attempt
            await self._settled.wait()

    async def _one(self, model: Any, request: Request) -> Reply:
        key = self.key(request)
        self.ledger.refresh()
        if key not in self.ledger.answers:  # another process may have asked it meanwhile
            try:
                await self._send(model, request)
            except VestigeError:
                raise
            except Exception as error:
                return self._failed(error)
            self._failures = 0
        self.answered = True
        return reply_of(self.ledger.answer(key))

    async def _send(self, model: Any, request: Request) -> None:
        from inspect_ai.model import (
            ChatMessageAssistant,
            ChatMessageSystem,
            ChatMessageUser,
            GenerateConfig,
        )

        roles = {"system": ChatMessageSystem, "assistant": ChatMessageAssistant}
        config = GenerateConfig(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            num_choices=request.choices if request.choices > 1 else None,
            seed=request.seed,
            logprobs=True if request.top else None,
            top_logprobs=request.top or None,
        )
        messages = [
            # A lone surrogate cannot be sent: a question mark stands for it.
            roles.get(m.role, ChatMessageUser)(
                content=m.content.encode("utf-8", "replace").decode()
            )
            for m in request.messages
        ]
        _asked.set(request)
        await model.generate(messages, config=config)

    def _failed(self, error: BaseException) -> Reply:
        from tenacity import RetryError

        if isinstance(error, RetryError):
            error = error.last_attempt.exception() or error
        status = status_of(error)
        message = getattr(error, "provider_message", None) or str(error)
        text = redact(f"{type(error.__cause__ or error).__name__}: {' '.join(message.split())}")[
            :300
        ]
        if status in (401, 403):
            raise ConfigError(f"the service of {self.name} refused the key: {text}") from None
        if status == 404:
            raise ConfigError(
                f"the service does not know {self.name.removeprefix(API_PREFIX)}: {text}"
            ) from None
        if status == 400:
            self._refusals += 1
            if self._refusals >= GIVE_UP and not self.answered:
                raise ModelError(
                    f"{self.name} has refused {GIVE_UP} requests and answered none, the last with "
                    f"{text}"
                ) from None
            return Reply(error=text, status=status)
        self._failures += 1
        if self._failures >= GIVE_UP:
            raise ModelError(
                f"{GIVE_UP} requests in a row to {self.name} have failed, the last with {text}; "
                "answers so far are kept: run the same command again when the service is back"
            ) from None
        return Reply(error=text, status=status)
