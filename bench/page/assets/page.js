"use strict";
/* All text from files reaches the page through textContent, so it stays text. */

const USUAL = { sampler: "DPMpp2M", nfe: 10, images: 10000 };
const SHOWN = 12; // lines of the ranking before "show all"
const SHARED = 6; // place of a score's mean over the blocks that all lines have
const TICKED = 6; // lines of the ranking that are drawn
const FILTERS = [
  ["data", "Data set"], ["space", "Space"], ["model", "Model"], ["law", "Training law"],
  ["sampler", "Sampler"], ["nfe", "NFE"], ["features", "Feature space"], ["experiment", "Experiment"],
];

// ---------------------------------------------------------------- small tools

const at = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];

/** An element with attributes and children; a child that is text stays text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** The JSON of a compressed part of this file. */
async function unpacked(id) {
  const text = atob(at(`part-${id}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const parts = new Map();
/** As `unpacked`, once. */
function part(id) {
  if (!parts.has(id)) parts.set(id, unpacked(id));
  return parts.get(id);
}

function written(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 100 ? value.toFixed(1) : value.toPrecision(4);
}

/** A score with its interval: `46.3 ± 0.6`. */
function sure(score) {
  if (!score) return "";
  if (!score[3]) return String(score[0]); // as published
  const mean = written(score[0]);
  if (score[1] === null) return mean;
  return `${mean} ± ${((score[2] - score[1]) / 2).toFixed((mean.split(".")[1] || "").length)}`;
}

// ---------------------------------------------------------------- what the file holds

let shown; // rows, protocols, metrics, experiments; part: key -> number of its records
const byKey = new Map(); // key of a record -> its row

function protocolText(protocol) {
  if (protocol.published) return `published: ${protocol.published}`;
  const images = (n) => (n === null || n === undefined ? "?" : n.toLocaleString("en"));
  return `${protocol.features || "no features"}; reference ${protocol.reference || "none"} ` +
    `(${images(protocol.reference_n)} images); ${images(protocol.n)} images a block; ${protocol.dtype}`;
}

function prepare(content) {
  shown = content;
  // Two protocols whose texts agree differ in the bytes of their features or reference.
  const texts = shown.protocols.map(protocolText);
  shown.texts = texts.map((text, i) =>
    texts.indexOf(text) === texts.lastIndexOf(text) ? text
      : `${text}; ${(shown.protocols[i].features_digest || "").slice(0, 6)}/${(shown.protocols[i].reference_digest || "").slice(0, 6)}`);
  shown.rows.forEach((row, index) => {
    row.id = row.keys[0] ? `${row.keys[0]}.${index}` : `row.${index}`;
    row.experiment = row.experiments.join(", ") || "published";
    row.features = shown.protocols[row.protocol].features || "published";
    row.protocolText = shown.texts[row.protocol];
    for (const key of row.keys) if (!byKey.has(key)) byKey.set(key, row);
    for (const [metric, score] of Object.entries(row.scores)) row[`m_${metric}`] = score[0];
  });
  place(shown.rows);
  const images = (row) => -Math.min(shown.protocols[row.protocol].n || 0, USUAL.images);
  shown.rows = d3.sort(shown.rows, images, (row) => row.protocol, (row) => row.data, (row) => row.model,
    (row) => row.sampler, (row) => row.nfe ?? Infinity, (row) => row.rank);
}

const main = (row) => Object.keys(row.scores).find((key) => ["fd", "fid"].includes(shown.metrics[key].name));

/** The rank of each row among the lines of one model, sampler, NFE and protocol. */
function place(rows) {
  const groups = d3.group(rows.filter(main), (row) =>
    JSON.stringify([row.data, row.model, row.guidance, row.sampler, row.nfe, row.protocol, main(row)]));
  for (const group of groups.values()) {
    group.sort((a, b) => a.scores[main(a)][0] - b.scores[main(b)][0]).forEach((row, i) => { row.rank = i + 1; });
  }
}

// ---------------------------------------------------------------- the address bar

const state = new Map();

function readAddress() {
  state.clear();
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) state.set(name, value);
}

function address(changes = {}) {
  const next = new Map(state);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  return `#${new URLSearchParams([...next])}`;
}

/** Keep a change in the address; a record is a step that "back" undoes. */
function keep(changes, step = false) {
  const to = address(changes);
  history[step ? "pushState" : "replaceState"](null, "", to === "#" ? location.pathname : to);
  readAddress();
}

// ---------------------------------------------------------------- the question

let chosen; // what the question says, and the rows that answer it

/** The value of the address if it is possible, else the usual one. */
function pick(name, values, usual) {
  const wanted = values.find((value) => String(value) === state.get(name));
  return wanted !== undefined ? wanted : usual;
}

const most = (values, weight) => d3.greatest(values, (a, b) => d3.ascending(weight(a), weight(b)));
const ours = (row) => row.keys.length > 0;

function choose() {
  const answer = {}, options = {};
  let pool = shown.rows.filter((row) => row.nfe !== null);
  const narrow = (name, values, usual) => {
    options[name] = values;
    answer[name] = pick(name, values, usual);
    pool = pool.filter((row) => String(row[name]) === String(answer[name]));
  };
  const weight = (name) => (value) => d3.sum(pool, (row) => (String(row[name]) !== String(value) ? 0 : ours(row) ? 1e4 : 1));
  let values = unique(pool.map((row) => row.data)).sort();
  narrow("data", values, most(values, weight("data")));
  values = unique(pool.map((row) => row.model)).sort();
  narrow("model", values, most(values, weight("model")));
  values = unique(pool.map((row) => row.sampler)).sort();
  narrow("sampler", values, values.find((one) => one.endsWith(USUAL.sampler)) || most(values, weight("sampler")));
  answer.pool = pool; // all NFEs of this model and sampler
  values = unique(pool.map((row) => row.nfe)).sort(d3.ascending);
  narrow("nfe", values, d3.least(values, (nfe) => Math.abs(nfe - USUAL.nfe)));
  options.metric = Object.keys(shown.metrics).filter((key) => pool.some((row) => row.scores[key]));
  answer.metric = pick("metric", options.metric, options.metric[0]);
  pool = pool.filter((row) => row.scores[answer.metric]);
  values = unique(pool.map((row) => row.protocol));
  const lines = (id) => pool.filter((row) => row.protocol === id).length;
  const images = (id) => Math.min(shown.protocols[id].n || 0, USUAL.images);
  narrow("protocol", values, most(values, (id) => images(id) * 1e5 + lines(id)));
  const sign = shown.metrics[answer.metric].higher ? -1 : 1;
  answer.ranked = d3.sort(pool, (row) => sign * (row.scores[answer.metric][SHARED] ?? row.scores[answer.metric][0]));
  answer.pool = answer.pool.filter((row) => row.protocol === answer.protocol && row.scores[answer.metric]);
  answer.lines = ticked(answer.ranked);
  return { ...answer, options };
}

/** Names of the lines that are drawn: those of the address, else the first ones. */
function ticked(ranked) {
  const names = unique(ranked.map((row) => row.line));
  try {
    const wanted = JSON.parse(state.get("lines"));
    return wanted ? names.filter((name) => wanted.includes(name)) : names.slice(0, TICKED);
  } catch {
    return names.slice(0, TICKED); // of an address that no page wrote
  }
}

function fill(select, values, value, text = String) {
  select.replaceChildren(...values.map((one) => make("option", { value: one, selected: one === value }, text(one))));
}

function drawQuestion() {
  const form = at("question");
  const { options } = chosen;
  for (const name of ["data", "model", "sampler", "nfe"]) fill(form.elements[name], options[name], chosen[name]);
  fill(form.elements.metric, options.metric, chosen.metric, (key) => shown.metrics[key].label);
  fill(form.elements.protocol, options.protocol, chosen.protocol, (id) => shown.texts[id]);
}

// ---------------------------------------------------------------- the answer

const scoreOf = (row) => row.scores[chosen.metric];
/** Rows that can be the best: those of experiments that have the most seed blocks. */
const complete = () => {
  const full = d3.max(chosen.ranked, (row) => row.full);
  return chosen.ranked.filter((row) => row.full === full && scoreOf(row)[SHARED] !== null);
};
const tie = (row, best) => row !== best && scoreOf(row)[4] && scoreOf(best)[4] &&
  row.experiments.some((name) => best.experiments.includes(name));

function drawVerdict() {
  const best = complete()[0];
  const metric = shown.metrics[chosen.metric];
  const ties = chosen.ranked.filter((row) => tie(row, best));
  const next = chosen.ranked.find((row) => row !== best && !ties.includes(row));
  const models = best.space === "unknown" ? `model ${best.model}` : `${best.space} model ${best.model}`;
  const many = chosen.ranked.length > 1;
  const lines = [
    make("p", { class: "use" }, many ? "Use " : "Only one schedule has a number: ", make("strong", {}, best.line), `: ${metric.text} ${sure(scoreOf(best))}`),
    make("p", {}, `${many ? `Best of ${chosen.ranked.length} schedules on` : "On"} the ${models}; ${metric.higher ? "higher" : "lower"} is better.`,
      ties.length ? ` Ties: ${ties.slice(0, 4).map((row) => row.line).join(", ")}${ties.length > 4 ? ` and ${ties.length - 4} more` : ""}.` : "",
      next ? ` Next: ${next.line}, ${sure(scoreOf(next))}.` : ""),
  ];
  if (complete().some((row) => scoreOf(row)[3] < row.full)) {
    lines.push(make("p", { class: "hint" }, "Some lines have fewer seed blocks. Places are by the blocks that all lines have."));
  }
  if (chosen.ranked.length > 30) lines.push(make("p", { class: "hint" }, "The best of many is best by luck too: prefer a line that is good at several NFEs."));
  if (scoreOf(best)[5]) lines.push(make("p", { class: "hint" }, "This is below the distance of the model's own converged samples, so it is no gain in accuracy."));
  if (best.form) {
    lines.push(make("p", {}, "Its levels: ", make("code", {},
      `crs-bench schedule ${best.model} --schedule "${best.form}" --nfe ${best.steps} --format diffusers`)));
  }
  at("verdict").replaceChildren(...lines);
}

const bare = (text) => text.toLowerCase().replace(/[^a-z0-9=.(]/g, "");

function drawRanked() {
  const every = state.get("all") === "1";
  const rows = every ? chosen.ranked : chosen.ranked.slice(0, SHOWN);
  const best = complete()[0];
  const ends = rows.flatMap((row) => scoreOf(row).slice(0, 3)).filter((value) => value !== null);
  const positive = d3.min(ends) > 0 && d3.max(ends) / d3.min(ends) > 3;
  const scale = (positive ? d3.scaleLog() : d3.scaleLinear()).domain(d3.extent(ends)).range([3, 97]);
  at("ranked").replaceChildren(...rows.map((row, i) => {
    const [mean, low, high, blocks] = scoreOf(row);
    const badges = [
      row === best ? make("span", { class: "badge best" }, "best") : null,
      tie(row, best) ? make("span", { class: "badge" }, "tie") : null,
      blocks < row.full ? make("span", { class: "badge" }, `${blocks} of ${row.full} blocks`) : null,
      row.counted && row.counted !== row.nfe ? make("span", { class: "badge" }, `${row.counted} evaluations`) : null,
    ];
    const tick = make("input", { type: "checkbox", checked: chosen.lines.includes(row.line), "aria-label": `draw ${row.line}`,
      onchange: (event) => {
        const lines = event.target.checked ? [...chosen.lines, row.line] : chosen.lines.filter((line) => line !== row.line);
        keep({ lines: JSON.stringify(lines) });
        chosen.lines = ticked(chosen.ranked);
        drawFigures();
      } });
    const track = make("div", { class: "track", title: sure(scoreOf(row)) });
    if (low !== null) track.append(make("i", { style: { left: `${scale(low)}%`, width: `${scale(high) - scale(low)}%`, background: row.color } }));
    track.append(make("b", { style: { left: `${scale(mean)}%`, background: row.color } }));
    const about = row.schedule && bare(row.schedule) !== bare(row.line) ? make("span", { class: "quiet" }, row.schedule) : null;
    return make("li", { class: row === best ? "first" : "" }, tick, make("span", { class: "place" }, `${i + 1}`),
      make("span", { class: "name" }, link(row, row.line), ...badges, about), track,
      make("span", { class: "value" }, sure(scoreOf(row))));
  }));
  at("more").hidden = chosen.ranked.length <= SHOWN;
  at("more").textContent = every ? `Show the first ${SHOWN}` : `Show all ${chosen.ranked.length}`;
  const names = unique(chosen.ranked.flatMap((row) => row.experiments));
  at("notes").textContent = names.map((name) => `${name}: ${shown.experiments[name].title}. ${shown.experiments[name].note}`).join(" — ");
}

function drawPublished() {
  const rows = d3.sort(shown.rows.filter((row) => row.data === chosen.data && !ours(row)),
    (row) => row.source, (row) => row.nfe ?? 1e9, (row) => row.scores["published-fid"]?.[0]);
  at("sides").classList.toggle("alone", !rows.length);
  if (!rows.length) {
    at("published").replaceChildren(make("p", { class: "quiet" }, `published.csv has no numbers of ${chosen.data}.`));
    return;
  }
  const table = make("table", { class: "plain" });
  for (const [source, group] of d3.group(rows, (row) => row.source)) {
    table.append(make("tr", {}, make("th", { colspan: 4 }, source)), make("tr", {},
      ...["Sampler, schedule", "NFE", "FID"].map((text, i) => make("th", { class: i ? "number" : "" }, text))));
    for (const row of group) {
      table.append(make("tr", {}, make("td", {}, link(row, `${row.model}: ${row.sampler}, ${row.line}`)),
        make("td", { class: "number" }, row.nfe ?? "?"), make("td", { class: "number" }, sure(row.scores["published-fid"]))));
    }
  }
  at("published").replaceChildren(make("p", { class: "quiet" },
    "Copied from their sources, not run here, and under other protocols. They stand beside our numbers and are never ranked with them."), table);
}

// ---------------------------------------------------------------- figures

const width = (figure) => Math.max(300, Math.min(640, figure.clientWidth || 600));

function show(id, options, caption) {
  const figure = at(id);
  if (!options) { figure.replaceChildren(make("figcaption", {}, caption)); return; }
  const drawn = Plot.plot({ width: width(figure), height: 360, marginLeft: 52, marginRight: 20, marginBottom: 46, inset: 8, style: { fontSize: "12px" }, grid: true, ...options });
  figure.replaceChildren(drawn, make("figcaption", {}, caption));
}

/** One colour a line, the line's own where no other line has it. */
function colors(lines, rows) {
  const spare = ["#E69F00", "#009E73", "#CC79A7", "#8C6D00", "#9575CD", "#D55E00", "#333333", "#00838F", "#A50F15", "#7F9DB9"];
  const used = [];
  for (const line of lines) {
    const own = rows.find((row) => row.line === line)?.color;
    used.push(own && !used.includes(own) ? own : spare.find((one) => !used.includes(one)) || "#777777");
  }
  return { domain: lines, range: used, legend: true };
}

/** The axis of y values. On a log axis of less than a decade, d3 leaves out most of the numbers. */
function axisOfY(low, high, log, label) {
  if (!log || high > 10 * low) return Plot.axisY({ label, ticks: 6, tickFormat: "~g" });
  return Plot.axisY(d3.ticks(low, high, 6), { label, text: (tick) => String(+tick.toPrecision(6)) });
}

function drawCurves() {
  const metric = shown.metrics[chosen.metric];
  const rows = chosen.pool.filter((row) => chosen.lines.includes(row.line));
  const points = d3.sort(rows, (row) => row.nfe).map((row) => ({
    line: row.line, nfe: row.nfe, value: scoreOf(row)[0], low: scoreOf(row)[1] ?? scoreOf(row)[0], high: scoreOf(row)[2] ?? scoreOf(row)[0],
    text: `${row.line}\nNFE ${row.nfe}: ${sure(scoreOf(row))}\n${scoreOf(row)[1] === null ? "no interval" : `${written(scoreOf(row)[1])} to ${written(scoreOf(row)[2])}`}; ${scoreOf(row)[3]} blocks`,
  }));
  if (!points.length) { show("against-nfe", null, "Tick a schedule to draw it."); return; }
  const nfes = unique(points.map((point) => point.nfe));
  const low = d3.min(points, (point) => point.low), high = d3.max(points, (point) => point.high);
  const log = !metric.higher && low > 0;
  show("against-nfe", {
    ariaLabel: `${metric.label} against NFE`,
    x: { type: "log", label: "NFE →", grid: false },
    y: { type: log ? "log" : "linear" },
    color: colors(chosen.lines, rows),
    marks: [
      Plot.gridX(nfes), Plot.axisX(nfes, { text: String, label: "NFE →" }),
      axisOfY(low, high, log, `${metric.higher ? "↑ better:" : "↓ better:"} ${metric.label}`),
      Plot.areaY(points, { x: "nfe", y1: "low", y2: "high", z: "line", fill: "line", fillOpacity: 0.16 }),
      Plot.ruleX(points, { x: "nfe", y1: "low", y2: "high", stroke: "line", strokeOpacity: 0.6 }),
      Plot.lineY(points, { x: "nfe", y: "value", z: "line", stroke: "line" }),
      Plot.dot(points, { x: "nfe", y: "value", fill: "line", r: 3.5 }),
      Plot.tip(points, Plot.pointer({ x: "nfe", y: "value", title: "text" })),
    ],
  }, `${metric.label} against NFE, ${chosen.sampler}, ${chosen.model}. Bands: the interval over seed blocks. Point at a mark to read it.`);
}

function drawPrecisionRecall() {
  const keyOf = (row, name) => Object.keys(row.scores).find((key) => shown.metrics[key].name === name);
  const rows = d3.sort(chosen.pool.filter((row) => chosen.lines.includes(row.line) && keyOf(row, "precision") && keyOf(row, "recall")), (row) => row.nfe);
  if (!rows.length) { show("precision-recall", null, "These cells have no precision and recall. Another protocol may have them."); return; }
  const points = rows.map((row) => {
    const precision = row.scores[keyOf(row, "precision")], recall = row.scores[keyOf(row, "recall")];
    return { line: row.line, nfe: row.nfe, x: recall[0], y: precision[0], text: `${row.line}\nNFE ${row.nfe}\nprecision ${sure(precision)}\nrecall ${sure(recall)}` };
  });
  const nfes = unique(points.map((point) => point.nfe)).sort(d3.ascending);
  show("precision-recall", {
    ariaLabel: "Precision against recall",
    x: { label: "better → recall (coverage)" }, y: { label: "↑ better: precision (fidelity)" },
    color: colors(chosen.lines, rows),
    marks: [
      Plot.line(points, { x: "x", y: "y", z: "line", stroke: "line", strokeOpacity: 0.6 }),
      Plot.dot(points, { x: "x", y: "y", fill: "line", r: (point) => (point.nfe === chosen.nfe ? 6 : 3) }),
      Plot.text(points.filter((point) => [nfes[0], chosen.nfe, nfes[nfes.length - 1]].includes(point.nfe)), { x: "x", y: "y", text: (point) => String(point.nfe), dy: -9, fontSize: 10, fill: "line" }),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "text" })),
    ],
  }, `Precision against recall. A number is the NFE; large marks are NFE ${chosen.nfe}.`);
}

async function recordOf(key) {
  return (await part(`records-${shown.part[key]}`))[key];
}

async function drawGrids() {
  const asked = chosen;
  const rows = chosen.ranked.filter((row) => ours(row) && chosen.lines.includes(row.line));
  const records = await Promise.all(rows.map((row) => recordOf(row.keys[0])));
  if (asked !== chosen) return;
  const points = rows.flatMap((row, i) => records[i].grid.map((sigma, step) => ({ line: row.line, step, sigma,
    text: `${row.line}\nstep ${step}: σ = ${sigma.toPrecision(5)}` })).filter((point) => point.sigma > 0));
  if (!points.length) { show("grids", null, "There are no grids to draw here."); return; }
  show("grids", {
    ariaLabel: "Noise level against step",
    x: { label: "step →", ticks: d3.range(d3.max(points, (point) => point.step) + 1).filter((_, i, all) => all.length < 16 || i % 5 === 0), tickFormat: String },
    y: { type: "log", label: "↑ σ (noise over signal)", tickFormat: "~g", ticks: 6 },
    color: colors(chosen.lines, rows),
    marks: [
      Plot.line(points, { x: "step", y: "sigma", z: "line", stroke: "line" }),
      Plot.dot(points, { x: "step", y: "sigma", fill: "line", r: 3 }),
      Plot.tip(points, Plot.pointer({ x: "step", y: "sigma", title: "text" })),
    ],
  }, `Noise levels at NFE ${chosen.nfe}. Each grid ends at 0, or where its schedule ends.`);
}

function drawRates() {
  const found = new Map();
  for (const name of unique(chosen.ranked.flatMap((row) => row.experiments))) {
    for (const rate of shown.experiments[name].rates) if (rate.model === chosen.model) found.set(rate.name, rate);
  }
  const points = [...found.values()].flatMap((rate) => rate.angle.map((angle, i) => ({ name: rate.name, angle, v: rate.v[i],
    low: rate.low ? Math.max(rate.low[i], rate.v[i] / 100) : rate.v[i], high: rate.high ? rate.high[i] : rate.v[i] })).filter((point) => point.v > 0));
  if (!points.length) { show("rates", null, "These schedules use no measured rate."); return; }
  show("rates", {
    ariaLabel: "Measured rates",
    x: { label: "angle = atan σ, degrees →", ticks: d3.range(0, 91, 15) },
    y: { type: "log", label: "↑ rate per degree, normalised", tickFormat: "~g", ticks: 6 },
    color: { legend: true },
    marks: [
      Plot.areaY(points, { x: "angle", y1: "low", y2: "high", fill: "name", fillOpacity: 0.18 }),
      Plot.lineY(points, { x: "angle", y: "v", stroke: "name" }),
      Plot.tip(points, Plot.pointerX({ x: "angle", y: "v", title: (point) => `${point.name}\n${point.angle}°: ${point.v.toPrecision(3)}` })),
    ],
  }, `Measured rates of ${chosen.model}. Bands: 90 % of the bootstrap replicates.`);
}

async function drawStrips() {
  const asked = chosen;
  const strips = await part("strips");
  if (asked !== chosen) return;
  const rows = shown.rows.filter((row) => row.data === chosen.data && row.model === chosen.model && row.sampler === chosen.sampler);
  const known = rows.flatMap((row) => row.keys.filter((key) => strips[key]).map((key) => ({ row, key })));
  const groups = d3.groups(known, ({ row }) => row.experiments[0], ({ row }) => row.nfe).flatMap(([name, sub]) => sub.map(([nfe, each]) => [name, nfe, each]));
  const other = (group) => !group[2].some(({ row }) => row.protocol === chosen.protocol);
  const sorted = d3.sort(groups, other, (group) => Math.abs(Math.log(group[1] / chosen.nfe)));
  at("strips").replaceChildren(...sorted.map(([name, nfe, each], i) =>
    make("details", { class: "strip-group", open: i === 0 }, make("summary", {}, `NFE ${nfe}, ${name}`), make("div", { class: "strip-list" },
      ...each.map(({ row, key }) => make("button", { type: "button", class: "strip", onclick: () => openRecord(row, key) },
        make("span", {}, row.line), make("img", { src: `data:image/png;base64,${strips[key]}`, alt: `samples of ${row.line} at NFE ${nfe}` })))))));
  if (!groups.length) at("strips").append(make("p", { class: "quiet" }, "There are no sample strips of this model and sampler."));
}

function drawFigures() {
  drawCurves();
  drawPrecisionRecall();
  drawGrids();
  drawRates();
}

// ---------------------------------------------------------------- all results

let table;

const numeric = (a, b, rowA, rowB, column, dir) => {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) && none(b) ? 0 : none(a) === (dir === "asc") ? 1 : -1; // last, either way
  return a - b;
};

function link(row, text) {
  return make("a", { href: address({ record: row.keys[0] || row.id }), onclick: (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    openRecord(row);
  } }, text);
}

const counted = (count) => `${count.toLocaleString("en")} row${count === 1 ? "" : "s"}`;

function columns() {
  const text = (field, title, more = {}) => ({ field, title, headerTooltip: true, ...more });
  const number = (field, title, more = {}) => ({ field, title, sorter: numeric, hozAlign: "right", headerHozAlign: "right", ...more });
  return [
    number("rank", "#", { width: 52 }),
    text("line", "Schedule", { minWidth: 170, widthGrow: 2, formatter: (cell) => link(cell.getData(), cell.getValue()) }),
    text("model", "Model", { minWidth: 110 }),
    text("sampler", "Sampler", { minWidth: 120, widthGrow: 1 }),
    number("nfe", "NFE", { width: 66 }),
    ...Object.entries(shown.metrics).map(([key, metric]) => number(`m_${key}`, `${metric.label} ${metric.higher ? "↑" : "↓"}`, {
      minWidth: 124, formatter: (cell) => document.createTextNode(sure(cell.getData().scores[key])) })),
    text("space", "Space", { width: 80 }), text("law", "Training law", { minWidth: 110 }),
    text("data", "Data set", { minWidth: 110 }), number("n", "Images", { width: 96 }), number("blocks", "Blocks", { width: 92 }),
    text("features", "Features", { minWidth: 110 }), text("experiment", "Experiment", { minWidth: 110 }),
  ];
}

const has = (row, name, value) => (name === "experiment" ? row.experiments.includes(value) || row.experiment === value : String(row[name]) === value);

function passes(row) {
  const words = (state.get("q") || "").toLowerCase();
  const metric = state.get("f_metric");
  return FILTERS.every(([name]) => !state.has(`f_${name}`) || has(row, name, state.get(`f_${name}`))) &&
    (!metric || Boolean(row.scores[metric])) &&
    (!words || `${row.line} ${row.schedule} ${row.note || ""} ${row.also || ""}`.toLowerCase().includes(words));
}

function drawFilters() {
  const options = (name) => (name === "experiment"
    ? unique(shown.rows.flatMap((row) => (row.experiments.length ? row.experiments : ["published"])))
    : unique(shown.rows.map((row) => row[name]).filter((value) => value !== null)))
    .sort(name === "nfe" ? d3.ascending : undefined);
  const select = (name, title, values, text = String) => make("label", {}, title, make("select", { name: `f_${name}` },
    make("option", { value: "" }, "all"),
    ...values.map((value) => make("option", { value, selected: String(value) === state.get(`f_${name}`) }, text(value)))));
  at("filters").replaceChildren(
    make("label", {}, "Schedule", make("input", { type: "search", name: "q", placeholder: "part of its name", value: state.get("q") || "" })),
    ...FILTERS.map(([name, title]) => select(name, title, options(name))),
    select("metric", "Metric", Object.keys(shown.metrics), (key) => shown.metrics[key].label));
}

function applyFilters() {
  table.setFilter(passes);
  const only = state.get("f_metric");
  const rows = shown.rows.filter(passes);
  table.setGroupValues([unique(rows.map((row) => row.protocolText))]); // without empty groups
  for (const key of Object.keys(shown.metrics)) {
    const used = (!only || only === key) && rows.some((row) => row.scores[key]);
    table[used ? "showColumn" : "hideColumn"](`m_${key}`);
  }
  at("count").textContent = `${rows.length.toLocaleString("en")} of ${counted(shown.rows.length)}`;
}

function drawTable() {
  drawFilters();
  const [field, dir] = (state.get("sort") || "").split(":");
  const made = columns();
  table = new Tabulator(at("table"), {
    data: shown.rows, columns: made, index: "id", height: "620px", layout: "fitColumns",
    groupBy: "protocolText", groupValues: [unique(shown.rows.map((row) => row.protocolText))], groupToggleElement: "header",
    groupHeader: (value, count) => make("span", {}, `${value} — ${counted(count)}`),
    initialSort: made.some((column) => column.field === field) ? [{ column: field, dir: dir === "desc" ? "desc" : "asc" }] : [],
  });
  table.on("cellClick", (_, cell) => openRecord(cell.getData()));
  table.on("tableBuilt", () => {
    for (const head of at("table").querySelectorAll(".tabulator-col.tabulator-sortable")) {
      head.tabIndex = 0;
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        head.click();
      });
    }
    applyFilters();
    document.documentElement.dataset.ready = Math.round(performance.now());
  });
  table.on("dataSorted", (sorters) => {
    if (sorters.length) keep({ sort: `${sorters[0].field}:${sorters[0].dir}` });
  });
}

// ---------------------------------------------------------------- one record

function listed(pairs) {
  return make("table", { class: "plain" }, ...pairs.map(([name, value]) => make("tr", {}, make("th", {}, name), make("td", {}, value))));
}

async function openRecord(row, key = row.keys[0]) {
  const dialog = at("record");
  const body = at("record-body");
  keep({ record: key || row.id }, state.get("record") !== (key || row.id));
  const head = make("h2", {}, `${row.line}, ${row.sampler}, NFE ${row.nfe ?? "not stated"}`);
  const about = [["Data set", row.data], ["Model", row.model], ["Space", row.space], ["Training law", row.law], ["Protocol", row.protocolText], ["Experiment", row.experiment]];
  if (row.schedule) about.push(["Schedule", row.schedule]);
  if (row.also) about.push(["Also named", row.also.join("; ")]);
  if (row.note) about.push(["Note", row.note]);
  const scores = Object.entries(row.scores).map(([metric, score]) => [shown.metrics[metric].label, sure(score)]);
  body.replaceChildren(head, listed([...about, ...scores]));
  if (key) {
    const [record, strips] = await Promise.all([recordOf(key), part("strips")]);
    const tabs = row.keys.map((other, i) => make("button", { type: "button", disabled: other === key, onclick: () => openRecord(row, other) }, `block ${i + 1}`));
    body.append(make("h2", { style: { marginTop: "14px" } }, "Whole record ", make("small", {}, key)), make("p", {}, ...tabs));
    if (strips[key]) body.append(make("div", { class: "scroll" }, picture(strips[key], `samples of ${row.line}`)));
    body.append(make("pre", { tabindex: 0 }, JSON.stringify(record, null, 1)));
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** A strip at full size: at least 3 pixels a pixel for small images. */
function picture(data, alt) {
  const image = make("img", { src: `data:image/png;base64,${data}`, alt });
  image.addEventListener("load", () => { image.width = image.naturalWidth * (image.naturalHeight < 100 ? 4 : 1); });
  return image;
}

function openFromAddress() {
  const wanted = state.get("record");
  const row = wanted && (byKey.get(wanted) || shown.rows.find((one) => one.id === wanted));
  if (row) openRecord(row, byKey.has(wanted) ? wanted : undefined);
  else if (at("record").open) at("record").close();
}

// ---------------------------------------------------------------- together

function drawAnswer() {
  chosen = choose();
  drawQuestion();
  drawVerdict();
  drawRanked();
  drawPublished();
  drawFigures();
  drawStrips();
}

function listen() {
  at("question").addEventListener("change", (event) => {
    keep({ [event.target.name]: event.target.value, lines: null, all: null });
    drawAnswer();
  });
  at("question").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", () => { keep({ all: state.get("all") === "1" ? null : "1" }); drawRanked(); });
  at("filters").addEventListener("input", (event) => { keep({ [event.target.name]: event.target.value }); applyFilters(); });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("reset").addEventListener("click", (event) => { event.preventDefault(); location.hash = ""; location.reload(); });
  for (const anchor of document.querySelectorAll("[data-to]")) {
    anchor.addEventListener("click", (event) => { event.preventDefault(); at(anchor.dataset.to).scrollIntoView(); });
  }
  at("record").querySelector(".close").addEventListener("click", () => at("record").close());
  at("record").addEventListener("click", (event) => { if (event.target === at("record")) at("record").close(); });
  at("record").addEventListener("close", () => { if (state.has("record")) keep({ record: null }); });
  window.addEventListener("popstate", () => {
    readAddress();
    drawAnswer();
    drawFilters();
    applyFilters();
    openFromAddress();
  });
  let wide = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== wide) { wide = window.innerWidth; drawFigures(); } });
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    at("verdict").textContent = "This browser is too old for this page: it needs one of 2023 or later.";
    return;
  }
  prepare(await part("shown"));
  readAddress();
  drawAnswer();
  listen();
  drawTable();
  openFromAddress();
}

start();
