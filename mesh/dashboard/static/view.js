// What all pages share: templates, numbers in words, and lists that do not draw more than a person reads.
import { h } from "preact";
import { useState } from "preact/hooks";
import htm from "htm";
import { short } from "./store.js";

export const html = htm.bind(h);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);
export const rate = (value) => (value == null ? "–" : value >= 100 ? whole.format(value) : few.format(value));
export const large = (value) => brief.format(value);
export const milliseconds = (value) =>
  value == null ? "–" : value >= 1000 ? `${few.format(value / 1000)} s` : `${few.format(value)} ms`;
export const blocks = (start, end) => (end - start === 1 ? `${start}` : `${start}–${end - 1}`);
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

export function Peer({ id }) {
  return html`<span class="peer" title=${id}>${short(id)}</span>`;
}

// `draw` for each of the first `most` of a list, and a button for the others.
export function Some({ list, most = 40, draw, as = "button", columns = 1, what }) {
  const [shown, setShown] = useState(most);
  const more = Math.min(list.length - shown, 10 * most);
  const button = html`<button type="button" class="quiet" onClick=${() => setShown(shown + more)}>
    Show ${count(more)} more of ${count(list.length)} ${what}
  </button>`;
  return html`${list.slice(0, shown).map(draw)}
  ${more > 0 && (as === "row" ? html`<tr key="more"><td colspan=${columns}>${button}</td></tr>` : button)}`;
}

export function Table({ caption, head, children }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
    <table>
      <caption class="unseen">${caption}</caption>
      <thead>
        <tr>
          ${head.map(([text, kind = ""]) => html`<th scope="col" class=${kind}>${text}</th>`)}
        </tr>
      </thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;
}
