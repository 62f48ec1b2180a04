// Every provider by itself: whether it answers, how it is reached, and what this gateway thinks of it.
import { pairs, peers } from "./store.js";
import { Peer, Some, Table, blocks, count, html, milliseconds, plural, rate } from "./view.js";

const HEAD = [
  ["Provider"], ["Serves"], ["Answers"], ["In", "number"], ["Path", "wide"], ["Our sessions", "number mid"],
  ["Trouble here"], ["Wants pay", "wide"], ["Version", "wide"],
];
const PAIRS = [["From"], ["To"], ["Way"], ["Round trip", "number"], ["Channels", "number mid"], ["Why", "wide"]];

export function Nodes() {
  const list = peers.value;
  return html`<h1>Nodes</h1>
    <p class="facts"><span>${plural(list.length, "provider")}</span></p>
    <${Table} caption="Providers" head=${HEAD}>
      <${Some} list=${list} what="providers" as="row" columns=${HEAD.length}
        draw=${([peer, rows]) => html`<${Node} key=${peer} peer=${peer} rows=${rows} />`} />
    <//>
    <h2>Paths</h2>
    <p class="quiet-text">As the providers say themselves.</p>
    <${Table} caption="Paths between providers" head=${PAIRS}>
      <${Some} list=${pairs.value} what="paths" as="row" columns=${PAIRS.length}
        draw=${([key, row]) => html`<${Pair} key=${key} row=${row} />`} />
    <//>`;
}

function Node({ peer, rows }) {
  const all = rows.map((row) => row.value);
  const it = all[0];
  const answers = { true: "yes", false: "no", null: "not asked yet" }[it.reachable];
  return html`<tr class=${it.reachable === false ? "lost" : ""}>
    <th scope="row"><${Peer} id=${peer} /></th>
    <td>${all.map((row) => html`<div>${row.model.split("@")[0]} <small>${blocks(row.start, row.end)}</small></div>`)}</td>
    <td><span class=${it.reachable === false ? "bad" : ""}>${answers}</span></td>
    <td class="number">${milliseconds(it.ping_ms)}</td>
    <td class="wide">${it.way ?? "–"}</td>
    <td class="number mid">${count(it.ours)}</td>
    <td>${it.trouble > 1.05 ? html`<span class="bad">failed lately (×${rate(it.trouble)})</span>` : "none"}</td>
    <td class="wide">${it.paid ? "yes" : "no"}</td>
    <td class="wide">${it.version}</td>
  </tr>`;
}

function Pair({ row }) {
  const it = row.value;
  return html`<tr>
    <td><${Peer} id=${it.source} /></td>
    <td><${Peer} id=${it.target} /></td>
    <td>${it.way}${it.relay && html` by <${Peer} id=${it.relay} />`}</td>
    <td class="number">${milliseconds(it.ms)}</td>
    <td class="number mid">${count(it.channels)}</td>
    <td class="wide">${it.problem ?? ""}</td>
  </tr>`;
}
