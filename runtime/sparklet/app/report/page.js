"use strict";
// Draws the report in #report, or in live mode what the server answers. All text enters as text nodes, never as markup.
const STATES = ["FAILED", "RUNNING", "PENDING", "SUCCEEDED"];
const PAGE = 50, MOST_PRINTED = 2000, MOST_WORKERS = 50, MOST_SPANS = 5000, BINS = 60, FITS = 48;
const byId = (id) => document.getElementById(id);
const live = document.documentElement.dataset.live === "1";
let report = null, rows = [], columns = [], end = 1;
const view = { text: "", state: "", sort: "took_s", down: true, page: 0, all: false };

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return made;
}

// --- forms of numbers ---
const count = (n) => (n == null ? "" : n.toLocaleString("en"));
const counted = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
const usd = (n) => (n == null ? "" : n >= 1 ? `$${n.toFixed(2)}` : n === 0 ? "$0" : n < 1e-4 ? "< $0.0001" : `$${n.toFixed(4)}`);
const percent = (n) => `${Math.round(100 * n)} %`;
function duration(s) {
  if (s == null) return "";
  if (s < 60) return s < 10 ? `${s.toFixed(1)} s` : `${Math.round(s)} s`;
  const whole = Math.round(s), minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
function size(bytes) {
  if (bytes == null) return "";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} TiB`;
}
const ago = (s) => `${s < 60 ? `${Math.max(0, Math.round(s))} s` : duration(s)} ago`;
const time = (s) => new Date(1000 * s).toISOString().slice(0, 19).replace("T", " ") + " UTC";
function quantile(sorted, share) { return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]; }
const sortedOf = (name, of = rows.filter((row) => row.sampled)) =>
  of.map((row) => row[name]).filter((value) => value != null).sort((a, b) => a - b);

// --- the shards as rows ---
function readRows() {
  const table = report.shard_table, names = Object.keys(table.columns);
  const firsts = new Set(), now = report.made_s - report.run.created_s;
  rows = table.columns.shard.map((_, place) => {
    const row = Object.fromEntries(names.map((name) => [name, table.columns[name][place]]));
    row.worker = row.worker == null ? null : table.workers[row.worker];
    row.engine = row.engine == null ? "" : table.engines[row.engine];
    row.cause = row.cause == null ? "" : table.causes[row.cause].filter(Boolean).join(": ");
    row.files = (report.inputs.names[place] || "").split("\n");
    row.input = row.files[0];
    row.lines = (report.printed[place] || "").trimEnd().split("\n");
    row.printed = row.lines[0];
    row.began = row.started_s;
    row.ended = row.took_s != null ? row.began + row.took_s : row.state === "RUNNING" ? now : null;
    row.searched = `${row.shard} ${row.worker || ""} ${row.engine} ${row.cause} ${report.inputs.names[place] || ""}`.toLowerCase();
    return row;
  });
  for (const row of [...rows].sort((a, b) => a.began - b.began)) {
    if (row.began == null || row.worker == null) continue;
    row.first = !firsts.has(row.worker);
    firsts.add(row.worker);
  }
  if (rows.some((row) => row.state === "SPLIT") && !STATES.includes("SPLIT")) { STATES.push("SPLIT"); stateScale.range.push("--SPLIT"); }
  columns = COLUMNS.filter(([name]) => rows.some((row) => row[name] != null && row[name] !== ""));
  end = Math.max(1, ...rows.map((row) => row.ended || 0).filter(Number.isFinite));
}

// --- parts of the page ---
const facts = (pairs) => el("dl", {}, pairs.filter(([, value]) => value != null && value !== "" && value.length !== 0)
  .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
function command(text) {
  const said = el("span", { role: "status", class: "dim" });
  const copy = () => navigator.clipboard.writeText(text).then(() => { said.textContent = "copied"; }, () => {});
  return el("div", { class: "command" }, el("code", {}, text), el("button", { type: "button", onclick: copy }, "Copy"), said);
}
function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
}

const isOpen = () => !report.run.ended_s;

function head() {
  const { status, run } = report, { total, ...shards } = status.shards, [cause] = report.causes;
  const states = Object.entries(shards).filter(([, n]) => n).map(([state, n]) => `${count(n)} ${state}`).join(", ");
  const left = status.remaining_s == null || !isOpen() ? "" : `, about ${duration(status.remaining_s)} left`;
  const took = isOpen() ? `${duration(report.made_s - run.created_s)} so far` : duration(status.duration_s);
  const color = { SUCCEEDED: "SUCCEEDED", FAILED: "FAILED" }[status.state] || "RUNNING";
  return [
    live ? el("a", { href: "?" }, "All runs") : null,
    el("h1", {}, run.id),
    el("p", { role: live ? "status" : null }, el("span", { class: `state ${color}` }, status.state.replaceAll("_", " ")),
      ` · ${counted(total, "shard")}: ${states}${left} · ${took} · ${usd(status.cost_usd)}`,
      report.worker.local ? " (what Lambda would charge)" : ""),
    isOpen() ? el("progress", { "aria-label": "shards that have ended", max: run.shards || 1,
      value: run.shards == null ? null : String(shards.succeeded + shards.failed) }) : null,
    isOpen() ? el("p", { id: "age", class: "dim" }) : null,
    facts([
      ["rows", status.rows == null ? "" : `${count(status.rows)}${status.uncommitted ? ` of succeeded shards; ${status.uncommitted}` : ""}`],
      ["table", status.uncommitted ? `${status.table}: ${status.uncommitted}` : status.table], ["drift", status.drift],
      ...status.warnings.map((each) => ["warning", `${counted(each.count, "shard")}: ${each.message}`]),
      ["output", status.has_output || isOpen() ? command(status.output) : ""], ["to see it", status.open ? command(status.open) : ""],
      ["to do first", cause ? [el("p", {}, cause.remedy), cause.redrive ? command(cause.redrive) : ""] : ""],
    ]),
  ];
}
function tellAge() {
  if (report && byId("age")) byId("age").textContent = `${live ? "Updated" : `As of ${time(report.made_s)},`} ${ago(Date.now() / 1000 - report.made_s)}`;
}

function cause(each) {
  const named = each.files.length ? each.files : [each.example_file || each.example_object].filter(Boolean);
  const { first, lines } = each.script;
  const code = lines && lines.length ? el("pre", { tabindex: 0, "aria-label": "The script around the line that failed" },
    lines.map((line, place) => {
      const number = first + place, text = `${String(number).padStart(5)}  ${line}\n`;
      return number === each.script_line ? el("mark", {}, text) : text;
    })) : null;
  return el("article", { class: "panel FAILED" },
    el("h3", {}, `${each.task ? `${each.task} run, ` : ""}${each.error_class}: ${each.message}`),
    code,
    facts([
      ["failed", each.task ? each.run_id : `${counted(each.count, "shard")}: ${each.shards}${each.shards_complete ? "" : " …"}`],
      [each.count > named.length ? "inputs, some" : "inputs", named.join(", ")],
      ["most likely", each.reason], ["at fault", each.at_fault], ["remedy", each.remedy],
    ]),
    each.redrive ? command(each.redrive) : null);
}

function ran() {
  const { run, status } = report, script = run.scripts[run.scripts.length - 1];
  const after = status.follow_ups.map((each) => `${each.what} ${each.script.split("/").pop()}: ${each.state} ${each.message || ""}`);
  return facts([
    ["script", `${script.source} (sha256 ${script.sha256.slice(0, 12)}…)`],
    ["earlier scripts", run.scripts.length > 1 ? run.scripts.slice(0, -1).map((each) => each.source).join(", ") : ""],
    ["parameters", Object.entries(run.params).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ")],
    ["arguments", run.args.join(" ")], ["variables set", run.variables.join(", ")], ["options", run.options.join(" ")],
    ["created", time(run.created_s)], ["ended", run.ended_s ? time(run.ended_s) : ""],
    ["input", `${counted(status.objects, "object")}, ${size(status.input_bytes)}: ${[...status.inputs, ...status.lists].join(", ")}`],
    ["left out", Object.entries(status.skipped).map(([why, n]) => (n ? `${count(n)} ${why}` : why)).join(", ")],
    ["written", size(status.output_bytes)], ["afterwards", after.join("; ")],
    ["attempts", `${count(status.attempts)}; they worked ${duration(status.task_s)}`],
    ["driven by", `${status.dispatch}${report.worker.local ? ", on this machine" : ""}; ${count(report.worker.memory_mb)} MB a function`],
    ["versions", Object.entries(report.versions).map(([name, value]) => `${name} ${value}`).join(", ")],
  ]);
}

// A table of texts: the first column heads its rows; numbers stand to the right.
function grid(label, titles, lines, isText = (n) => n === 0) {
  const cells = (tag, line) => line.map((each, n) => el(n ? tag : "th",
    { scope: tag === "th" ? "col" : n ? null : "row", class: isText(n) ? "" : "number" }, each));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", {},
    el("thead", {}, el("tr", {}, cells("th", titles))), el("tbody", {}, lines.map((line) => el("tr", {}, cells("td", line))))));
}

function costs() {
  const { status, estimate } = report, parts = Object.keys({ ...status.costs_usd, ...(estimate ? estimate.costs_usd : {}) });
  const sides = [status, estimate].filter(Boolean).map((side) => side.costs_usd), sum = (of) => Object.values(of).reduce((a, b) => a + b, 0);
  return [
    grid("Cost by part", ["part", isOpen() ? "so far" : "cost", "estimated"].slice(0, 1 + sides.length), [
      ...parts.map((part) => [part, ...sides.map((of) => usd(of[part] || 0))]), ["all", ...sides.map((of) => usd(sum(of)))]]),
    el("p", { class: "dim" }, `Included: ${status.cost_includes}. Not included: ${status.cost_excludes}.`,
      estimate ? ` Estimate: ${duration(estimate.shard_s)} a shard (${estimate.origin}), an end after ${duration(estimate.end_s)}.` : ""),
  ];
}

function advised() {
  const of = (verdict) => report.advice.filter((each) => each.verdict === verdict), act = of("act"), unknown = of("unknown").length;
  const said = { unknown: "cannot tell: ", fine: "fine: " }, rest = report.advice.filter((each) => said[each.verdict]);
  return [
    act.length || !of("fine").length ? null : el("p", {}, unknown ? `${unknown} of ${counted(report.advice.length, "rule")} cannot tell from this run; the others find nothing to change.`
      : "Nothing to change, as far as the rules can tell."),
    act.map((each) => el("div", { class: "panel act" }, el("h3", {}, each.rule), el("p", {}, each.finding),
      el("p", {}, el("strong", {}, "Try: "), each.remedy, each.saves_usd ? `, saves up to ${usd(each.saves_usd)}` : "",
        each.saves_s ? `, ends up to ${duration(each.saves_s)} earlier` : ""))),
    rest.length ? el("details", {}, el("summary", {}, "What each rule looked at"),
      facts(rest.map((each) => [each.rule, said[each.verdict] + each.finding]))) : null,
  ];
}

const SPARK = [["shard", count], ["stages", count], ["tasks", count], ["cpu_s", duration], ["gc_s", duration], ["peak_task_memory_bytes", size],
  ["memory_spilled_bytes", size], ["disk_spilled_bytes", size], ["records_read", count], ["records_written", count]];
function sparkFigures() {
  const name = (text) => text.replace(/_(s|bytes)$/, "").replaceAll("_", " ");
  return grid("Spark's figures of the slowest and of failed shards", SPARK.map(([key]) => name(key)),
    report.spark.map((each) => SPARK.map(([key, form]) => form(each[key]))), () => false);
}

// --- plots ---
function plot(label, spec, wide) {
  const box = el("div", { class: "plot", role: "img", "aria-label": label });
  const axis = { labelColor: "--text", titleColor: "--text", gridColor: "--line", domainColor: "--dim", tickColor: "--dim" };
  const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 180, background: null,
    autosize: { type: "fit-x", contains: "padding" }, ...spec,
    config: { axis, legend: { labelColor: "--text", titleColor: "--text", orient: "top" }, view: { stroke: null } } };
  const text = JSON.stringify(full).replace(/"(--\w+)"/g, '"var($1)"'); // SVG follows the page, also on paper
  const options = { mode: "vega-lite", actions: false, ast: true, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  box.draw = () => vegaEmbed(box, JSON.parse(text), options).then((made) => { box.made = made; box.dataset.drawn = "1"; });
  return el("figure", { class: wide ? "wide" : "" }, box, el("figcaption", {}, label));
}
const stateScale = { domain: STATES, range: STATES.map((state) => `--${state}`) };
const stateColor = { field: "state", type: "nominal", title: null, scale: stateScale };

function progress() {
  const weight = report.shard_table.count / Math.max(1, rows.filter((row) => row.sampled).length);
  const fair = rows.filter((row) => row.sampled && row.state !== "SPLIT"), step = end / BINS, states = [], pace = [];
  for (let bin = 0; bin <= BINS; bin++) {
    const at = bin * step, n = Object.fromEntries(STATES.map((state) => [state, 0]));
    for (const row of fair) {
      if (row.began == null || row.began > at) n.PENDING += weight;
      else if (row.took_s == null || row.ended > at) n.RUNNING += weight;
      else n[row.state] += weight;
    }
    for (const state of STATES) states.push({ at, state, shards: Math.round(n[state]) });
    const lately = fair.filter((row) => row.took_s).reduce((sum, row) => // the part of a shard that a bar has of its time
      sum + Math.max(0, Math.min(at, row.ended) - Math.max(at - step, row.began)) / row.took_s, 0);
    if (bin) pace.push({ at: at - step, to: at, pace: 60 * weight * lately / step });
  }
  const x = { field: "at", type: "quantitative", title: "seconds since the run began", scale: { nice: false } };
  const peak = Math.round(Math.max(0, ...pace.map((each) => each.pace)));
  return el("div", { class: "figures" },
    plot(`States of shards over time; ${isOpen() ? `the run has taken ${duration(end)} so far` : `the run took ${duration(end)} until its last shard`}.`, { data: { values: states },
      mark: "area", encoding: { x, y: { field: "shards", type: "quantitative", stack: true, title: "shards" }, color: stateColor,
        order: { field: "state" } } }),
    plot(`Pace: up to ${count(peak)} shards a minute, ${count(Math.round(report.status.average_shards_per_min))} on average.`, { data: { values: pace },
      mark: { type: "rect", color: "--RUNNING" }, encoding: { x, x2: { field: "to" },
        y: { field: "pace", type: "quantitative", title: "shards a minute" }, y2: { datum: 0 } } }));
}

function distributions() {
  const fair = rows.filter((row) => row.sampled && row.took_s != null), times = sortedOf("took_s"), peaks = sortedOf("memory_mb");
  const slow = [...rows].filter((row) => row.took_s != null).sort((a, b) => b.took_s - a.took_s).slice(0, 5);
  const tooltip = [{ field: "shard" }, { field: "took_s", title: "seconds" }, { field: "input_bytes", title: "bytes" }, { field: "state" }];
  const figures = [];
  if (times.length) {
    figures.push(plot(`Time of a shard: median ${duration(quantile(times, 0.5))}, 95 % within ${duration(quantile(times, 0.95))}; the slowest: ` +
      slow.map((row) => `shard ${row.shard} ${duration(row.took_s)}`).join(", ") + ".", { data: { values: fair }, mark: "bar",
      encoding: { x: { field: "took_s", bin: { maxbins: 40 }, title: "seconds" }, y: { aggregate: "count", title: "shards" }, color: stateColor } }));
    const some = fair.filter((_, place) => place % Math.ceil(fair.length / 2000) === 0 || slow.includes(fair[place]));
    figures.push(plot("Time by input size; a point above the others is slow for its size.", { data: { values: some },
      mark: { type: "point", filled: true, opacity: 0.6 }, encoding: { tooltip, color: stateColor,
        x: { field: "input_bytes", type: "quantitative", title: "input, bytes", axis: { format: "~s" } },
        y: { field: "took_s", type: "quantitative", title: "seconds" } } }));
  }
  if (peaks.length) {
    figures.push(plot(`Peak memory of workers when a shard had succeeded: median ${count(quantile(peaks, 0.5))} MB, most ` +
      `${count(peaks[peaks.length - 1])} MB of ${count(report.worker.memory_mb)} MB.`, { data: { values: fair }, mark: { type: "bar", color: "--RUNNING" },
      encoding: { x: { field: "memory_mb", bin: { maxbins: 40 }, title: "MB" }, y: { aggregate: "count", title: "shards" } } }));
  }
  return figures.length ? el("div", { class: "figures" }, figures) : el("p", {}, isOpen() ? "No shard has ended yet." : "No shard was timed.");
}

function timeline() {
  const workers = new Map();
  for (const row of rows.filter((each) => each.worker != null && each.ended != null).sort((a, b) => a.began - b.began)) {
    const of = workers.get(row.worker) || { began: row.began, busy: 0, ended: 0, shards: 0 };
    workers.set(row.worker, { ...of, busy: of.busy + row.ended - row.began, ended: Math.max(of.ended, row.ended), shards: of.shards + 1 });
  }
  let spans = 0; // drawn in all
  const shown = [...workers.keys()].slice(0, MOST_WORKERS).filter((name, n) => (spans += workers.get(name).shards) <= MOST_SPANS || !n);
  const all = [...workers.values()], place = new Map(shown.map((name, n) => [name, n + 1]));
  if (!all.length) return el("p", {}, isOpen() ? "No worker has begun yet." : "No worker began.");
  const what = (row) => `${row.first ? "first of its worker, " : ""}${row.attempts > 1 ? `attempt ${row.attempts}` : "one attempt"}${row.lost ? ", a worker was lost" : ""}`;
  const values = rows.filter((row) => place.has(row.worker) && row.ended != null)
    .map((row) => ({ ...row, number: place.get(row.worker), what: what(row), searched: "" }));
  const sum = (of) => all.reduce((total, each) => total + of(each), 0), span = sum((each) => each.ended - each.began);
  const retried = rows.filter((row) => row.attempts > 1).length, lost = rows.filter((row) => row.lost).length;
  const busy = report.shard_table.complete ? ` They ${isOpen() ? "have been" : "were"} idle for ${percent(Math.max(0, 1 - sum((each) => each.busy) / Math.max(span, 1e-9)))} of the time between their first and last shard.` : "";
  return el("div", { class: "figures" }, plot(
    `${counted(all.length, "worker")}${all.length > shown.length ? `, the first ${shown.length} shown` : ""}; an outline marks the first shard of a worker, ` +
    `which may include a cold start, a thick one a repeated shard.${busy} ${counted(retried, "shard")} repeated, ${count(lost)} after a lost worker. The last attempt of each shard is shown.`,
    { data: { values }, height: { step: 14 }, mark: { type: "rect", tooltip: true }, encoding: {
      y: { field: "number", type: "ordinal", title: "worker" }, color: stateColor,
      x: { field: "began", type: "quantitative", title: "seconds since the run began" }, x2: { field: "ended" },
      stroke: { condition: { test: "datum.first || datum.attempts > 1", value: "--text" }, value: "--back" },
      strokeWidth: { condition: { test: "datum.attempts > 1", value: 2.5 }, value: 1 },
      tooltip: [{ field: "shard" }, { field: "worker" }, { field: "took_s", title: "seconds" }, { field: "what" }, { field: "cause" }] } }, true));
}

// --- the table of shards ---
const COLUMNS = [["shard", "shard", count], ["cause", "last failure", String], ["input", "input", String], ["state", "state", String], ["printed", "printed", String], ["attempts", "attempts", count], ["took_s", "last attempt", duration],
  ["memory_mb", "memory, MB", count], ["objects", "objects", count], ["input_bytes", "size", size], ["output_bytes", "output", size],
  ["rows", "rows", count], ["engine", "engine", String], ["worker", "worker", String]];
const isNumber = (name) => !["cause", "input", "printed", "state", "engine", "worker"].includes(name);

function chosenRows() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean), sign = view.down ? -1 : 1;
  const found = rows.filter((row) => (!view.state || row.state === view.state) && words.every((word) => row.searched.includes(word)));
  const value = (row) => (row[view.sort] == null || row[view.sort] === "" ? null : row[view.sort]);
  return found.sort((a, b) => {
    const [one, other] = [value(a), value(b)];
    if (one === null || other === null) return (one === null) - (other === null) || a.shard - b.shard;
    return sign * (one < other ? -1 : one > other ? 1 : 0) || a.shard - b.shard;
  });
}
function cell(row, [name, , form], place) {
  const text = row[name] == null ? "" : form(row[name]), more = name === "input" ? row.files.slice(1) : name === "printed" ? row.lines.slice(1) : [];
  const whole = more.length || (["cause", "input", "printed"].includes(name) && text.length > FITS) // a line, and the rest on demand
    ? el("details", { open: view.all }, el("summary", {}, text), more.length ? el("div", { class: name }, more.join("\n")) : null) : text;
  return el(place ? "td" : "th", { scope: place ? null : "row", class: `${isNumber(name) ? "number" : ""} ${name === "state" ? row.state : ""}` },
    whole, more.length && !view.all ? el("span", { class: "dim" }, `and ${count(more.length)} more`) : null);
}
function fillTable() {
  const found = chosenRows(), most = view.all ? MOST_PRINTED : PAGE, pages = Math.max(1, Math.ceil(found.length / most));
  view.page = view.all ? 0 : Math.min(Math.max(0, view.page), pages - 1);
  const shown = found.slice(view.page * most, (view.page + 1) * most);
  byId("rows").replaceChildren(...shown.map((row) => el("tr", {}, columns.map((column, place) => cell(row, column, place)))));
  byId("found").textContent = counted(found.length, "shard") + (pages === 1 ? "" : view.all ? `, the first ${count(most)}` : `, page ${view.page + 1} of ${pages}`);
  for (const [id, none] of [["previous", view.page === 0], ["next", view.page === pages - 1]]) Object.assign(byId(id), { hidden: pages === 1, disabled: none });
  for (const header of document.querySelectorAll("#shards thead th")) {
    header.setAttribute("aria-sort", header.dataset.name === view.sort ? (view.down ? "descending" : "ascending") : "none");
  }
}
function change(what) { Object.assign(view, { page: 0, ...what }); fillTable(); }
function shards() {
  const { count: all, complete } = report.shard_table;
  const sort = (name) => () => change({ sort: name, down: view.sort === name ? !view.down : isNumber(name) && name !== "shard" });
  return [
    complete ? null : el("p", { id: "sampled" }, `Of ${counted(all, "shard")}, ${count(rows.length)} are listed: failed ones, the slowest, and a random sample, ` +
      "from which the plots are drawn. sparklet status RUN --shards lists all."),
    report.inputs.names.length ? el("p", { class: "dim" }, report.inputs.folder ? `Inputs are below ${report.inputs.folder}` : "")
      : el("p", { class: "dim" }, `Of so many inputs none is listed; one is found by sparklet status ${report.run.id} --object URI`),
    el("div", { class: "controls" },
      el("label", {}, "search", el("input", { id: "search", type: "search", value: view.text, oninput: (event) => change({ text: event.target.value }) })),
      el("label", {}, "state", el("select", { id: "state", onchange: (event) => change({ state: event.target.value }) },
        ["", ...STATES].map((state) => el("option", { value: state, selected: state === view.state }, state || "all")))),
      el("button", { type: "button", id: "previous", onclick: () => change({ page: view.page - 1 }) }, "Previous"),
      el("button", { type: "button", id: "next", onclick: () => change({ page: view.page + 1 }) }, "Next"),
    ),
    el("p", { id: "found", role: "status" }),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of shards" }, el("table", { id: "shards" },
      el("thead", {}, el("tr", {}, columns.map(([name, title]) => el("th", { scope: "col", "data-name": name, class: isNumber(name) ? "number" : "" },
        el("button", { type: "button", onclick: sort(name) }, title))))), el("tbody", { id: "rows" }))),
  ];
}

// --- all of it ---
function draw() {
  readRows();
  document.title = `${report.run.id}: ${report.status.state}`;
  byId("head").replaceChildren(...head().filter(Boolean));
  const parts = [
    report.causes.length ? section("why", `Why ${report.status.shards.failed ? counted(report.status.shards.failed, "shard") : "the run"} failed${isOpen() ? " so far" : ""}`, report.causes.map(cause),
      report.causes_left_out ? el("p", {}, `${report.causes_left_out} further causes: sparklet explain ${report.run.id}`) : null) : null,
    section("what", isOpen() ? "What runs" : "What ran", ran()), section("pace", "Progress", progress()), section("sizes", "Time and memory", distributions()),
    section("workers", "Workers", timeline()),
    report.spark.length ? section("spark", "Spark's own figures", sparkFigures()) : null,
    section("cost", "Cost", costs()), section("advice", "Advice", advised()),
    section("list", "Shards", shards()),
  ].filter(Boolean);
  const focused = document.activeElement && document.activeElement.id, at = focused && byId(focused).selectionStart;
  byId("main").replaceChildren(...parts);
  byId("sections").replaceChildren(...parts.map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  byId("foot").replaceChildren(`Made ${time(report.made_s)} by Sparklet ${report.versions.sparklet}${live ? "" : "; this page needs no network"}.`);
  fillTable();
  tellAge();
  if (focused && byId(focused)) { byId(focused).focus(); if (at != null) byId(focused).setSelectionRange(at, at); }
  return drawPlots();
}
function drawPlots() { return Promise.all([...document.querySelectorAll(".plot")].map((box) => box.draw())); }

function listRuns(runs) {
  const color = (state) => (["SUCCEEDED", "FAILED"].includes(state) ? state : "RUNNING");
  const known = (value, form) => (value == null ? "–" : form(value));
  const line = ({ counts, ...run }) => [el("a", { href: `?run=${encodeURIComponent(run.run_id)}` }, run.run_id),
    el("span", { class: color(run.state) }, run.state.replaceAll("_", " ")), run.shards == null ? "being planned" : count(run.shards),
    count(counts.failed), counts.total ? count(counts.pending + counts.running) : "", run.ended ? duration(run.duration_s) || "–" : `${duration(run.took_s)} so far`,
    count(run.objects), size(run.input_bytes), known(run.rows, count), known(run.cost_usd, usd), run.marks.join(", "), run.created];
  const titles = ["run", "state", "shards", "failed", "open", "took", "inputs", "size", "rows", "cost", "trend", "created"];
  document.title = "Runs";
  byId("head").replaceChildren(el("h1", {}, "Runs"));
  byId("main").replaceChildren(runs.length ? grid("Runs", titles, runs.map(line), (n) => n < 2 || n > 9) : el("p", {}, "No runs yet."));
}
async function follow() {
  let next_s = 10;
  try {
    const answer = await fetch(`data${location.search}`), found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    next_s = found.next_s;
    if (found.runs) listRuns(found.runs);
    else if (!report || JSON.stringify(found.report.shard_table) !== JSON.stringify(report.shard_table) || found.report.status.state !== report.status.state) {
      report = found.report;
      await draw();
    } else report.made_s = found.report.made_s;
  } catch (error) {
    byId("foot").replaceChildren(`No answer, this page is of an earlier moment: ${error.message}`);
  }
  if (next_s) setTimeout(follow, 1000 * next_s);
}

if (live) follow();
else { report = JSON.parse(byId("report").textContent); draw(); }
setInterval(tellAge, 1000);
for (const [event, all] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => { if (report) { view.all = all; fillTable(); } });
}
