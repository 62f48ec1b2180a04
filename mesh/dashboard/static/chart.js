// A line over the last minutes, drawn by uPlot; its last value stands beside it for those who cannot see it.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { html, rate } from "./view.js";

const HEIGHT = 140;
const SECONDS = 300;

export function Chart({ data, label }) {
  const place = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const box = place.current;
    const style = getComputedStyle(box);
    const [ink, line] = [style.getPropertyValue("--muted"), style.getPropertyValue("--accent")];
    const axis = { stroke: ink, grid: { stroke: style.getPropertyValue("--rule"), width: 1 }, ticks: { show: false } };
    plot.current = new uPlot(
      {
        width: box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { range: (_, low, high) => [high - SECONDS, high] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
        axes: [axis, { ...axis, size: 44 }],
        series: [{}, { stroke: line, width: 1.5, points: { show: false } }],
      },
      data,
      box,
    );
    const resized = new ResizeObserver(() => plot.current.setSize({ width: box.clientWidth, height: HEIGHT }));
    resized.observe(box);
    return () => {
      resized.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [data]);
  const now = data[1].at(-1);
  return html`<figure class="chart">
    <figcaption>${label}: <b data-value="tokens">${now === undefined ? "–" : rate(now)}</b></figcaption>
    <div ref=${place} aria-hidden="true"></div>
  </figure>`;
}
