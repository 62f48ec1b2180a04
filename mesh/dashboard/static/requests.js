// This gateway's requests, as they run: their route, first token and speed; never what is said in them.
import { about, requests, tokensPerSecond } from "./store.js";
import { Chart } from "./chart.js";
import { Peer, Some, Table, blocks, count, html, milliseconds, rate } from "./view.js";

const HEAD = [
  ["Began", "mid"], ["Model"], ["State"], ["Tokens", "number"], ["First token", "number mid"], ["Tokens/s", "number"], ["Route"],
];

export function Requests() {
  if (!about.value.requests) {
    return html`<h1>Requests</h1>
      <p class="empty">${about.value.chat
        ? "This gateway's requests are shown to its operator: give one of its API keys under Chat."
        : "This page belongs to no gateway, so it sees no requests."}</p>`;
  }
  const list = requests.value;
  return html`<h1>Requests</h1>
    <p class="facts"><span><b data-value="running">${count(about.value.running)}</b> of ${count(about.value.max_concurrent)} at once</span></p>
    <${Chart} data=${tokensPerSecond.value} label="Tokens per second of this gateway" />
    <${Table} caption="The newest requests" head=${HEAD}>
      ${list.length === 0 && html`<tr><td colspan=${HEAD.length} class="empty">No request has come yet.</td></tr>`}
      <${Some} list=${list} what="requests" as="row" columns=${HEAD.length}
        draw=${([key, row]) => html`<${Request} key=${key} row=${row} />`} />
    <//>`;
}

function Request({ row }) {
  const it = row.value;
  return html`<tr>
    <td class="mid">${new Date(it.created * 1000).toLocaleTimeString()}</td>
    <td>${it.model}</td>
    <td><span class=${it.status === "failed" ? "bad" : it.status === "running" ? "good" : ""}>${it.status}</span></td>
    <td class="number">${count(it.tokens)}</td>
    <td class="number mid">${milliseconds(it.first_token_ms)}</td>
    <td class="number">${rate(it.rate)}</td>
    <td><${Route} hops=${it.route} /></td>
  </tr>`;
}

function Route({ hops }) {
  if (hops.length === 0) return html`<span class="quiet-text">–</span>`;
  return html`<ol class="route">${hops.map(
    ([peer, start, end]) => html`<li><${Peer} id=${peer} /> <small>${blocks(start, end)}</small></li>`,
  )}</ol>`;
}
