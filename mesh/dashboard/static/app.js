// The page: its head, which part of it is shown, and what is told to screen readers.
import { render } from "preact";
import { effect, signal } from "@preact/signals";
import { Chat } from "./chat.js";
import { Nodes } from "./nodes.js";
import { Requests } from "./requests.js";
import { about, connection, said, short } from "./store.js";
import { watch } from "./stream.js";
import { Swarm } from "./swarm.js";
import { html } from "./view.js";

const PAGES = { swarm: ["Swarm", Swarm], requests: ["Requests", Requests], chat: ["Chat", Chat], nodes: ["Nodes", Nodes] };
const WORDS = {
  connecting: "connecting", live: "live", waiting: "not connected; trying again", paused: "paused", refused: "key not accepted",
};

const pageNow = () => (Object.hasOwn(PAGES, location.hash.slice(1)) ? location.hash.slice(1) : "swarm");
const page = signal(pageNow());

window.addEventListener("hashchange", () => {
  page.value = pageNow();
  document.querySelector("main").focus();
});
effect(() => {
  document.title = `${PAGES[page.value][0]} · Inference mesh`;
});

function App() {
  const Page = PAGES[page.value][1];
  return html`<a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header>
      <span class="name">Inference mesh</span>
      <nav aria-label="Pages">
        ${Object.entries(PAGES).map(
          ([name, [title]]) =>
            html`<a href=${`#${name}`} aria-current=${name === page.value ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <span class=${`connection ${connection.value}`} role="status">${WORDS[connection.value]}</span>
    </header>
    <main id="main" tabindex="-1"><${Page} /></main>
    <footer>
      ${about.value.peer && html`<span title=${about.value.peer}>${about.value.chat ? "gateway" : "viewer"} ${short(about.value.peer)}</span>`}
      <span>version ${about.value.version ?? "…"}</span>
    </footer>
    <div class="unseen" aria-live="polite">${said.value}</div>`;
}

function skip(event) {
  event.preventDefault();
  document.querySelector("main").focus();
}

render(html`<${App} />`, document.getElementById("app"));
watch();
