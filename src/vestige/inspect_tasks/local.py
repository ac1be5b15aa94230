"""Local models for Inspect: ``--model vestige/NAME``, a bundled name or a folder.

Requests that wait together are sampled together, with our own sampler at any temperature.
"""

from __future__ import annotations

import asyncio
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from vestige.core.types import ConfigError, Message

BATCH = 64  # prompts that are drawn together; chosen
MAX_TOKENS = 256  # of an answer, where the task names no limit; chosen
COLDEST = 1e-4  # T=0 divides by nothing


@modelapi(name="vestige")
def vestige_models() -> type[ModelAPI]:
    """The provider."""
    return VestigeAPI


class VestigeAPI(ModelAPI):
    """A model in memory. ``-M precision=fp32`` and ``-M chat=plain`` as in a recipe; ``-M seed=N``
    draws other answers."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        precision: Any = "auto",
        chat: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        from vestige.models import catalog
        from vestige.models.hf import LanguageModel

        self.lm = LanguageModel.load(
            catalog.path(model_name),
            style=catalog.chat_style(model_name, chat),
            precision=precision,
        )
        self.seed, self.drawn = seed, 0
        self.waiting: list[tuple[list[int], tuple[int, float], asyncio.Future[str]]] = []
        self.worker: asyncio.Task[None] | None = None

    def max_connections(self) -> int:
        return BATCH

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        if tools:
            raise ConfigError("vestige/ models call no tools")
        prompt = self.lm.prompt_ids([Message(m.role, m.text) for m in input])
        temperature = 1.0 if config.temperature is None else max(config.temperature, COLDEST)
        parameters = (config.max_tokens or MAX_TOKENS, temperature)
        texts = await asyncio.gather(
            *(self._draw(prompt, parameters) for _ in range(config.num_choices or 1))
        )
        written = sum(len(self.lm.answer_ids(text)) for text in texts)
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=text, source="generate"),
                    stop_reason="stop",
                )
                for text in texts
            ],
            usage=ModelUsage(
                input_tokens=len(prompt),
                output_tokens=written,
                total_tokens=len(prompt) + written,
            ),
        )

    async def _draw(self, prompt: list[int], parameters: tuple[int, float]) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting.append((prompt, parameters, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        """Sample what waits, a batch of one kind at a time."""
        from vestige.models.sampling import sample_free

        while self.waiting:
            await asyncio.sleep(0.01)  # those that ask at the same time join
            parameters = self.waiting[0][1]
            part = [w for w in self.waiting if w[1] == parameters][:BATCH]
            self.waiting = [w for w in self.waiting if w not in part]
            seed = self.seed * 1_000_003 + self.drawn
            self.drawn += len(part)
            try:
                texts = await asyncio.to_thread(
                    sample_free,
                    self.lm,
                    [prompt for prompt, _, _ in part],
                    seed=seed,
                    max_new_tokens=parameters[0],
                    temperature=parameters[1],
                )
            except Exception as error:
                for _, _, future in part:
                    future.set_exception(error)
                continue
            for (_, _, future), text in zip(part, texts, strict=True):
                if not future.done():
                    future.set_result(text)
