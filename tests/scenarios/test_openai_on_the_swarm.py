"""The official `openai` SDK, litellm and lm-eval, unmodified, against a gateway over a swarm of three processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from shards.text.fast import load_tokenizer
from tests.scenarios.processes import Swarm, wait_until
from tests.shards.models import reference

PROMPT = "a span is half-open, a route"
MESSAGES = [{"role": "user", "content": "what is a span?"}]
GREEDY = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def base_url(swarm: Swarm) -> Iterator[str]:
    gateway = swarm.world.start("gateway", "--peers", swarm.address, "--port", "0", "--json")
    url: str = gateway.event("ready")["url"]
    root = url.removesuffix("/v1")
    wait_until(lambda: httpx.get(f"{root}/health").status_code == 200, "the gateway sees a complete model")
    yield url
    assert gateway.stop() == 0, str(gateway)
    assert "Traceback" not in gateway.stderr, gateway.stderr


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, Any]:
    """What transformers says: 24 greedy tokens after the prompt, and their log-probabilities."""
    tokenizer = load_tokenizer(checkpoint)
    ids = tokenizer.encode(PROMPT)
    model = reference(checkpoint)
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([ids]), max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=0
        )[0]
        logprobs = model(found[None]).logits[0].log_softmax(-1)
    tokens = found[len(ids) :].tolist()
    chosen = [logprobs[len(ids) + i - 1, token].item() for i, token in enumerate(tokens)]
    return {"prompt": ids, "tokens": tokens, "text": tokenizer.decode(tokens), "logprobs": chosen}


def test_models_are_listed(client: openai.OpenAI, swarm: Swarm) -> None:
    assert [model.id for model in client.models.list()] == [swarm.model]
    assert client.models.retrieve(swarm.model).id == swarm.model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/has-this")


def test_a_greedy_completion_is_what_transformers_says(
    client: openai.OpenAI, swarm: Swarm, expected: dict[str, Any]
) -> None:
    answer = client.completions.create(model=swarm.model, prompt=PROMPT, max_tokens=24, logprobs=2, **GREEDY)
    choice = answer.choices[0]
    assert choice.text == expected["text"]
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == pytest.approx(expected["logprobs"], abs=1e-3)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(expected["prompt"]), 24)


def test_a_streamed_completion_is_the_same_with_usage_at_its_end(
    client: openai.OpenAI, swarm: Swarm, expected: dict[str, Any]
) -> None:
    chunks = list(
        client.completions.create(
            model=swarm.model,
            prompt=PROMPT,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == expected["text"]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 24


def test_stop_seed_and_n_hold_on_the_swarm(client: openai.OpenAI, swarm: Swarm, expected: dict[str, Any]) -> None:
    stop = expected["text"][5:8]
    stopped = client.completions.create(model=swarm.model, prompt=PROMPT, max_tokens=24, stop=[stop], **GREEDY)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == expected["text"].partition(stop)[0]

    def sampled(n: int) -> list[str]:
        answer = client.completions.create(
            model=swarm.model, prompt=PROMPT, max_tokens=16, temperature=0.9, seed=11, n=n
        )
        return [choice.text for choice in answer.choices]

    three = sampled(3)
    assert three == sampled(3)
    assert three[0] == sampled(1)[0]
    assert len(set(three)) == 3


def test_a_chat_answers_streams_and_gives_logprobs(client: openai.OpenAI, swarm: Swarm) -> None:
    whole = client.chat.completions.create(
        model=swarm.model, messages=MESSAGES, max_tokens=12, logprobs=True, top_logprobs=2, **GREEDY
    )
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 12
    pieces = list(
        client.chat.completions.create(model=swarm.model, messages=MESSAGES, max_tokens=12, stream=True, **GREEDY)
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == choice.message.content


def test_echo_scores_the_prompt_as_transformers_does(
    client: openai.OpenAI, swarm: Swarm, checkpoint: Path, expected: dict[str, Any]
) -> None:
    answer = client.completions.create(
        model=swarm.model, prompt=expected["prompt"], max_tokens=0, echo=True, logprobs=0, temperature=0
    )
    ids = torch.tensor([expected["prompt"]])
    with torch.inference_mode():
        logprobs = reference(checkpoint)(ids).logits[0].log_softmax(-1)
    wanted = [logprobs[i - 1, token].item() for i, token in enumerate(expected["prompt"]) if i]
    found = answer.choices[0].logprobs
    assert found is not None and found.token_logprobs is not None
    assert found.token_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"max_tokens": 0}, openai.BadRequestError),
        ({"max_tokens": -3}, openai.BadRequestError),
        ({"max_tokens": 100_000}, openai.BadRequestError),
        ({"prompt": "long " * 2000}, openai.BadRequestError),
        ({"prompt": [5, 10**6]}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"logit_bias": {"999999": 5}}, openai.BadRequestError),
    ],
)
def test_bad_requests_have_openai_errors_and_cost_nothing(
    client: openai.OpenAI, swarm: Swarm, expected: dict[str, Any], change: dict[str, Any], error: type[Exception]
) -> None:
    request = {"model": swarm.model, "prompt": PROMPT, "max_tokens": 4, "temperature": 0.0, **change}
    with pytest.raises(error) as raised:
        client.completions.create(**request)
    assert isinstance(raised.value, openai.APIStatusError)
    assert raised.value.body is not None and "Traceback" not in str(raised.value.body)
    after = client.completions.create(model=swarm.model, prompt=PROMPT, max_tokens=4, **GREEDY)
    assert expected["text"].startswith(after.choices[0].text)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_session_on_every_stage(base_url: str, swarm: Swarm, stream: bool) -> None:
    body = {
        "model": swarm.model,
        "prompt": PROMPT,
        "max_tokens": 450,
        "stream": stream,
        "temperature": 0,
        "ignore_eos": True,
    }
    with httpx.Client(timeout=60) as http:
        if stream:
            with http.stream("POST", f"{base_url}/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{base_url}/completions", json=body, timeout=httpx.Timeout(60, read=0.15))
        metrics = base_url.removesuffix("/v1") + "/metrics"
        wait_until(
            lambda: "mesh_gateway_active_sessions 0.0" in http.get(metrics).text,
            "the gateway has no session",
            seconds=10,
        )
    # The swarm's caches hold two such sessions: four more in a row only fit if each is freed on every stage.
    with httpx.Client(timeout=60) as http:
        for _ in range(4):
            answer = http.post(f"{base_url}/completions", json={**body, "stream": False, "max_tokens": 440})
            assert answer.status_code == 200, answer.text


def test_the_route_of_an_answer_can_be_asked_for(client: openai.OpenAI, base_url: str, swarm: Swarm) -> None:
    answer = client.completions.create(model=swarm.model, prompt=PROMPT, max_tokens=4, **GREEDY)
    report = httpx.get(f"{base_url.removesuffix('/v1')}/mesh/requests/{answer.id}").json()
    route = report["choices"][0]["route"]
    assert [(hop["peer"], hop["blocks"]) for hop in route] == [
        (swarm.peer(i), span) for i, span in enumerate(("0:2", "2:4", "4:5"))
    ]
    assert all(hop["tokens_per_second"] > 0 for hop in route)


LITELLM = """
import json, sys
import litellm

model, base, prompt = sys.argv[1:]
options = {"api_base": base, "api_key": "unused", "temperature": 0, "max_tokens": 24}
text = litellm.text_completion(model="text-completion-openai/" + model, prompt=prompt, **options)
messages = [{"role": "user", "content": "what is a span?"}]
chat = litellm.completion(model="openai/" + model, messages=messages, **options)
pieces = litellm.completion(model="openai/" + model, messages=messages, stream=True, **options)
streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
print(json.dumps({"text": text.choices[0].text, "chat": chat.choices[0].message.content, "streamed": streamed}))
"""


def offline(arguments: list[str], folder: Path) -> str:
    """Run Python in `folder` with every hub switched off; what it printed."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "unused",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_litellm_talks_to_the_swarm(
    client: openai.OpenAI, base_url: str, swarm: Swarm, expected: dict[str, Any], tmp_path: Path
) -> None:
    seen = json.loads(offline(["-c", LITELLM, swarm.model, base_url, PROMPT], tmp_path).splitlines()[-1])
    plain = client.completions.create(model=swarm.model, prompt=PROMPT, max_tokens=24, temperature=0)
    assert seen["text"] == plain.choices[0].text
    assert seen["chat"] == seen["streamed"]


def test_lm_eval_scores_the_swarm_as_it_scores_transformers(
    base_url: str, swarm: Swarm, checkpoint: Path, tmp_path: Path
) -> None:
    documents = [
        {"context": "the provider serves", "choices": [" blocks of the model", " a session"], "answer": 0},
        {"context": "def add(left, right):", "choices": [" a route covers", "\n    return left"], "answer": 1},
    ]
    data = tmp_path / "pick.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    task = {
        "task": "pick",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    (tmp_path / "pick.yaml").write_text(json.dumps(task))
    arguments = {
        "model": swarm.model,
        "base_url": f"{base_url}/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": checkpoint,
        "tokenized_requests": True,
        "max_length": 256,
        "max_retries": 1,
    }
    offline(
        [
            *("-m", "lm_eval", "--model", "local-completions", "--tasks", "pick", "--log_samples"),
            *("--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())),
            *("--include_path", str(tmp_path), "--output_path", str(tmp_path / "results")),
        ],
        tmp_path,
    )
    [samples] = (tmp_path / "results").rglob("samples_*.jsonl")
    model, tokenizer = reference(checkpoint), load_tokenizer(checkpoint)
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        document = sample["doc"]
        for choice, response in zip(document["choices"], sample["filtered_resps"], strict=True):
            context = tokenizer.encode(document["context"], add_special_tokens=False)
            whole = tokenizer.encode(document["context"] + choice, add_special_tokens=False)
            with torch.inference_mode():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            wanted = sum(logprobs[i - 1, whole[i]].item() for i in range(len(context), len(whole)))
            assert float(response[0]) == pytest.approx(wanted, abs=1e-3)
