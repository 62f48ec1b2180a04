// The swarm: each model's blocks, who serves which of them, and what is missing.
import { about, connection, models, providersOf } from "./store.js";
import { Peer, Some, Table, blocks, count, html, large, milliseconds, plural, rate } from "./view.js";

const MOST_PIECES = 240;
const HEAD = [
  ["Provider"], ["Blocks", "map"], ["State"], ["Tokens/s", "number"], ["Sessions", "number mid"], ["Queue", "number mid"],
  ["Cache left", "number wide"], ["Precision", "wide"], ["Path", "wide"], ["Answers in", "number"],
];

export function Swarm() {
  const list = models.value;
  return html`<h1>Swarm</h1>
    ${about.value.problem && html`<p class="bad" role="status">${about.value.problem}; what is shown may be old.</p>`}
    ${about.value.left_out > 0 && html`<p class="quiet-text">${plural(about.value.left_out, "provider")} more are not shown.</p>`}
    ${list.length === 0 && html`<p class="empty">${connection.value === "live" ? "Nobody serves a model in this swarm yet." : "Looking at the swarm …"}</p>`}
    <${Some} list=${list} most=${12} what="models" draw=${([key, row]) => html`<${Model} key=${key} id=${key} row=${row} />`} />`;
}

function Model({ id, row }) {
  const model = row.value;
  const list = providersOf(id);
  return html`<section class="model" aria-labelledby=${id}>
    <h2 id=${id}>${model.name}</h2>
    <p class="facts">
      <span class=${model.complete ? "good" : "bad"}>${model.complete ? "complete" : `gaps at blocks ${gapText(model.gaps)}`}</span>
      <span>${plural(model.blocks, "block")}</span>
      <span>${plural(model.providers, "provider")}</span>
      ${model.silent > 0 && html`<span class="bad">${count(model.silent)} without an answer</span>`}
      <span><b data-value="rate">${rate(model.rate)}</b> tokens/s</span>
      <span>context ${count(model.context)}</span>
      <span class="quiet-text" title=${model.digest}>${model.digest.slice(0, 12)}</span>
    </p>
    <${Strip} model=${model} />
    <${Table} caption=${`Providers of ${model.name}`} head=${HEAD}>
      <${Some} list=${list} what="providers" as="row" columns=${HEAD.length}
        draw=${([key, provider]) => html`<${Provider} key=${key} row=${provider} total=${model.blocks} />`} />
    <//>
  </section>`;
}

function gapText(gaps) {
  const shown = gaps.slice(0, 8).map(([start, end]) => blocks(start, end));
  return shown.join(", ") + (gaps.length > 8 ? " and more" : "");
}

// How many providers each block has, as one line; of a model with very many runs of blocks the least of each stretch.
function Strip({ model }) {
  const pieces = merged(model.replicas, model.blocks);
  const words = model.complete ? "every block is served" : `blocks ${gapText(model.gaps)} are not served`;
  return html`<div class="strip" role="img" aria-label=${`${plural(model.blocks, "block")}: ${words}`}>
    ${pieces.map(
      ([length, replicas]) =>
        html`<span class=${replicas ? `piece x${Math.min(replicas, 4)}` : "piece gap"} style=${{ flexGrow: length }}></span>`,
    )}
  </div>`;
}

function merged(runs, total) {
  if (runs.length <= MOST_PIECES) return runs;
  const size = Math.ceil(total / MOST_PIECES);
  const pieces = [];
  let at = 0;
  for (const [length, replicas] of runs) {
    for (let left = length; left > 0; ) {
      const index = Math.floor(at / size);
      const part = Math.min(left, (index + 1) * size - at);
      pieces[index] ??= [0, replicas];
      pieces[index] = [pieces[index][0] + part, Math.min(pieces[index][1], replicas)];
      at += part;
      left -= part;
    }
  }
  return pieces;
}

function Provider({ row, total }) {
  const it = row.value;
  const bar = { marginLeft: `${(100 * it.start) / total}%`, width: `${(100 * (it.end - it.start)) / total}%` };
  const lost = it.reachable === false;
  return html`<tr class=${lost ? "lost" : ""}>
    <th scope="row"><${Peer} id=${it.peer} /></th>
    <td class="map"><span class="lane"><span class=${`bar ${lost ? "gap" : it.state}`} style=${bar}></span></span><span class="label">${blocks(it.start, it.end)}</span></td>
    <td>${lost ? html`<span class="bad">no answer</span>` : it.state}</td>
    <td class="number">${rate(it.rate)}</td>
    <td class="number mid">${count(it.sessions)}</td>
    <td class="number mid">${count(it.queue)}</td>
    <td class="number wide">${large(it.cache_free)}</td>
    <td class="wide">${it.numerics}</td>
    <td class="wide">${it.way ?? "–"}</td>
    <td class="number">${lost ? "–" : milliseconds(it.ping_ms)}</td>
  </tr>`;
}
