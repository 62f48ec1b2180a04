// A talk with a model of the swarm, streamed from this gateway. It is kept in this page's memory only, as is the key.
import { batch, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { about, apiKey, connection, models } from "./store.js";
import { events, restart } from "./stream.js";
import { html, milliseconds, rate } from "./view.js";

const turns = signal([]); // {role, text: signal, facts: signal}
const answering = signal(null); // the AbortController of the answer that comes
const chosen = signal("");

export function Chat() {
  const served = [...new Set(models.value.map(([, row]) => row.value).filter((model) => model.complete).map((model) => model.name))];
  const model = served.includes(chosen.value) ? chosen.value : served[0] ?? "";
  const field = useRef(null);
  const submit = (event) => {
    event.preventDefault();
    const text = field.current.value.trim();
    if (!text || !model || answering.value) return;
    field.current.value = "";
    ask(model, text);
  };
  const typed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  if (!about.value.chat && connection.value === "live") {
    return html`<h1>Chat</h1><p class="empty">This page belongs to no gateway: start <code>mesh gateway</code> to talk.</p>`;
  }
  return html`<h1>Chat</h1>
    <div class="choices">
      <label>Model
        <select value=${model} onChange=${(event) => (chosen.value = event.target.value)}>
          ${served.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      ${about.value.needs_key && html`<${Key} />`}
      <button type="button" class="quiet" disabled=${turns.value.length === 0 || answering.value} onClick=${() => (turns.value = [])}>New talk</button>
    </div>
    <div class="talk" role="log" aria-label="Talk" aria-busy=${answering.value ? "true" : "false"}>
      ${turns.value.length === 0 && html`<p class="empty">${model ? "What you write goes through the swarm: its providers can read it." : "No model is complete now."}</p>`}
      ${turns.value.map((turn) => html`<${Turn} turn=${turn} />`)}
    </div>
    <form class="ask" onSubmit=${submit}>
      <label class="unseen" for="ask">Message</label>
      <textarea id="ask" ref=${field} rows="2" placeholder="Message" onKeyDown=${typed}></textarea>
      ${answering.value
        ? html`<button type="button" onClick=${() => answering.value?.abort()}>Stop</button>`
        : html`<button type="submit" disabled=${!model}>Send</button>`}
    </form>`;
}

function Key() {
  return html`<label>API key
    <input type="password" autocomplete="off" spellcheck="false" value=${apiKey.value}
      onChange=${(event) => { apiKey.value = event.target.value.trim(); restart(); }} />
    ${connection.value === "refused" && html`<span class="bad" role="alert">This key is not accepted.</span>`}
  </label>`;
}

function Turn({ turn }) {
  const end = useRef(null);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [turn.text.value]);
  return html`<article class=${`turn ${turn.role}`} aria-label=${turn.role === "user" ? "You" : "Answer"}>
    <div class="text">${turn.text}</div>
    <p class=${turn.failed.value ? "bad" : "quiet-text"}>${turn.facts}</p>
    <span ref=${end}></span>
  </article>`;
}

const makeTurn = (role, text) => ({ role, text: signal(text), facts: signal(""), failed: signal(false) });

async function ask(model, text) {
  const answer = makeTurn("assistant", "");
  const before = turns.value.filter((turn) => turn.text.value);
  const talk = [...before, makeTurn("user", text)];
  const messages = talk.map((turn) => ({ role: turn.role, content: turn.text.value }));
  const control = new AbortController();
  batch(() => {
    turns.value = [...talk, answer];
    answering.value = control;
  });
  const clock = { began: performance.now(), first: null, last: null, tokens: 0 };
  const pen = makePen(answer);
  try {
    await stream(model, messages, control.signal, clock, pen);
    answer.facts.value = facts(clock);
  } catch (error) {
    answer.failed.value = !control.signal.aborted;
    answer.facts.value = control.signal.aborted ? `stopped · ${facts(clock)}` : error.message;
  } finally {
    pen.finish();
    answering.value = null;
  }
}

async function stream(model, messages, signal, clock, pen) {
  const headers = { "content-type": "application/json" };
  if (apiKey.peek()) headers.authorization = `Bearer ${apiKey.peek()}`;
  const body = JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } });
  const answer = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message ?? `Status ${answer.status}`);
  for await (const { data } of events(answer.body)) {
    if (!data || data === "[DONE]") continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) {
      clock.last = performance.now();
      clock.first ??= clock.last;
      clock.tokens += 1;
      pen.write(piece);
    }
    if (chunk.usage) clock.tokens = chunk.usage.completion_tokens;
  }
}

function facts({ began, first, last, tokens }) {
  if (first === null) return "no token came";
  const speed = last > first ? `${rate((tokens - 1) / ((last - first) / 1000))} tokens/s · ` : "";
  return `${speed}${tokens} tokens · first after ${milliseconds(first - began)}`;
}

// Text is drawn once a frame however many pieces come, and not at all while the page is hidden.
function makePen(turn) {
  let waiting = "";
  let frame = 0;
  const draw = () => {
    frame = 0;
    turn.text.value += waiting;
    waiting = "";
  };
  return {
    write(piece) {
      waiting += piece;
      frame ||= requestAnimationFrame(draw);
    },
    finish() {
      cancelAnimationFrame(frame);
      draw();
    },
  };
}
