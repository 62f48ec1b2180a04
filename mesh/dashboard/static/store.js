// What the server has told: a table of rows for each kind of thing, every row a signal of its own, so that a change
// draws its row again and nothing else.
import { batch, computed, signal } from "@preact/signals";

const makeTable = () => ({ rows: new Map(), layout: signal(0) });

const tables = {
  about: makeTable(),
  models: makeTable(),
  providers: makeTable(),
  pairs: makeTable(),
  requests: makeTable(),
};

// Columns by which rows are put in order: only when one of them changes is anything sorted again.
const ORDERING = ["model", "start", "end", "complete", "providers", "source", "target", "created"];

// "connecting", "live", "waiting" (it will be tried again), "paused" (nobody looks) or "refused" (by its key).
export const connection = signal("connecting");
export const apiKey = signal("");
export const said = signal("");
export const tokensPerSecond = signal([[], []]);

const MOST_POINTS = 300;
let tokens = 0;
let pointAt = 0;

export const about = computed(() => {
  tables.about.layout.value;
  return tables.about.rows.get("self")?.value ?? {};
});

export function rowsOf(name) {
  tables[name].layout.value;
  return [...tables[name].rows];
}

export function load(snapshot) {
  batch(() => {
    for (const [name, table] of Object.entries(tables)) {
      const rows = snapshot[name] ?? {};
      for (const key of table.rows.keys()) if (!Object.hasOwn(rows, key)) table.rows.delete(key);
      for (const [key, row] of Object.entries(rows)) put(table, key, row);
      table.layout.value += 1;
    }
  });
}

export function change(delta) {
  batch(() => {
    for (const [name, { set = {}, gone = [] }] of Object.entries(delta)) {
      const table = tables[name];
      if (!table) continue;
      let moved = gone.length > 0;
      for (const key of gone) table.rows.delete(key);
      for (const [key, columns] of Object.entries(set)) {
        const known = table.rows.get(key);
        notice(name, known?.peek(), columns);
        moved ||= !known || ORDERING.some((column) => Object.hasOwn(columns, column));
        put(table, key, known ? { ...known.peek(), ...columns } : columns);
      }
      if (moved) table.layout.value += 1;
    }
  });
}

function put(table, key, row) {
  const known = table.rows.get(key);
  if (known) known.value = row;
  else table.rows.set(key, signal(row));
}

// What is told aloud, and what is counted, as it changes.
function notice(name, before, columns) {
  if (name === "requests" && "tokens" in columns) tokens += columns.tokens - (before?.tokens ?? 0);
  if (!before) return;
  if (name === "models" && "complete" in columns) {
    said.value = columns.complete ? `${before.name} is complete` : `${before.name} has gaps`;
  }
  if (name === "providers" && columns.reachable === false) said.value = `provider ${short(before.peer)} does not answer`;
}

// One point of the chart for each second that was watched.
export function tick(now) {
  const seconds = (now - pointAt) / 1000;
  if (pointAt && seconds < 0.9) return;
  if (pointAt && seconds < 5) {
    const [times, rates] = tokensPerSecond.peek();
    tokensPerSecond.value = [
      [...times.slice(-MOST_POINTS), now / 1000],
      [...rates.slice(-MOST_POINTS), tokens / seconds],
    ];
  }
  pointAt = now;
  tokens = 0;
}

// A peer's id begins as all do, and ends as no other does.
export const short = (peer) => (peer.length > 10 ? `…${peer.slice(-8)}` : peer);

const byModel = computed(() => {
  const found = new Map();
  for (const [key, row] of rowsOf("providers")) {
    const { model } = row.peek();
    if (!found.has(model)) found.set(model, []);
    found.get(model).push([key, row]);
  }
  for (const list of found.values()) list.sort(([, a], [, b]) => inOrder(a.peek(), b.peek()));
  return found;
});

const inOrder = (a, b) => a.start - b.start || a.end - b.end || (a.peer < b.peer ? -1 : 1);

export const providersOf = (model) => byModel.value.get(model) ?? [];

export const models = computed(() =>
  rowsOf("models").sort(([, one], [, other]) => {
    const [a, b] = [one.peek(), other.peek()];
    return b.complete - a.complete || b.providers - a.providers || (a.name < b.name ? -1 : 1);
  }),
);

export const requests = computed(() => rowsOf("requests").sort(([, a], [, b]) => b.peek().created - a.peek().created));

export const pairs = computed(() => rowsOf("pairs").sort(([a], [b]) => (a < b ? -1 : 1)));

// Every peer once, with the rows of all that it serves.
export const peers = computed(() => {
  const found = new Map();
  for (const [, row] of rowsOf("providers")) {
    const { peer } = row.peek();
    if (!found.has(peer)) found.set(peer, []);
    found.get(peer).push(row);
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
});
