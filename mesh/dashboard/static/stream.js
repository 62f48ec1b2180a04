// The stream of events, read with fetch because an EventSource can show no API key. It is closed while the page is
// hidden, and goes on after the last event that was seen.
import { apiKey, change, connection, load, tick } from "./store.js";

const FIRST_PAUSE = 1000;
const LAST_PAUSE = 15000;

let lastEvent = "";
let reading = null;

export function watch() {
  document.addEventListener("visibilitychange", follow);
  follow();
}

export function restart() {
  lastEvent = "";
  stop();
  follow();
}

function follow() {
  if (document.visibilityState === "hidden") {
    stop();
    connection.value = "paused";
  } else if (!reading) {
    reading = new AbortController();
    keepReading(reading.signal);
  }
}

function stop() {
  reading?.abort();
  reading = null;
}

async function keepReading(signal) {
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      connection.value = "connecting";
      const began = Date.now();
      await read(signal);
      if (Date.now() - began > LAST_PAUSE) pause = FIRST_PAUSE;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused) {
        connection.value = "refused";
        return;
      }
    }
    connection.value = "waiting";
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, LAST_PAUSE);
  }
}

class Refused extends Error {}

async function read(signal) {
  const headers = { accept: "text/event-stream" };
  if (lastEvent) headers["last-event-id"] = lastEvent;
  if (apiKey.peek()) headers.authorization = `Bearer ${apiKey.peek()}`;
  const answer = await fetch("/mesh/events", { headers, signal, cache: "no-store" });
  if (answer.status === 401) throw new Refused();
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  for await (const { id, event, data } of events(answer.body)) {
    if (event === "snapshot") load(JSON.parse(data));
    else if (event === "delta") change(JSON.parse(data));
    if (id) lastEvent = id;
    connection.value = "live";
    tick(Date.now());
  }
}

// Server-sent events of a body, as they come.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        yield parse(text.slice(0, end));
        text = text.slice(end + 2);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const found = { id: "", event: "", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    if (colon > 0 && name in found) found[name] += line.slice(colon + 1).replace(/^ /, "");
  }
  return found;
}
