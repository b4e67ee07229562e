"use strict";

// The data, and what is asked of it.

const $ = (id) => document.getElementById(id);
const sweep = JSON.parse($("data").textContent);
const SELECTS = ["order", "direction", "rows", "columns", "number", "axis", "lines"];
const STATUSES = ["done", "failed", "missing"];
const COLUMNS = 12; // the most columns that are laid out unasked
const PIXELS = 64; // the widest picture that is enlarged as pixels
const WITHIN = "In a grid the order holds within each place: set rows and columns to none to see it whole.";
const MANY = 150; // the most points that are drawn large
const LOGARITHMIC = 1000; // the least ratio of the ends of an axis that is drawn logarithmically

const own = (table, key) => (Object.hasOwn(table, key) ? table[key] : null);
const code = (value) => JSON.stringify(value); // 1 and "1" differ
const text = (value) => (value === null ? "null" : value === "" ? "(empty)" : String(value));
const finite = (value) => typeof value === "number";
const short = (value, digits = 4) => (finite(value) ? String(Number(value.toPrecision(digits))) : text(value));
const axisNamed = (name) => filters.find((filter) => filter.name === name);
const numberOf = (cell, name) => own(cell.numbers, name);

function filterOf(name, title, said, typed, raw) {
  const known = new Map([...typed, ...sweep.cells.map(raw)].map((value) => [code(value), value]));
  const values = [...known.values()];
  const rank = new Map(values.map((value, place) => [code(value), place]));
  const held = new Map(sweep.cells.map((cell) => [cell, known.get(code(raw(cell)))])); // one object for each value: === tells lists apart
  const of = (cell) => held.get(cell);
  const from = (labels) => (value) => labels?.[rank.get(code(value))] ?? text(value);
  return { name, title, values, of, rank, text: from(said.labels), short: from(said.short), tick: from(said.ticks) };
}

const axes = sweep.axes.map((axis) => filterOf(`axis.${axis.key}`, axis.key, axis, axis.values, (cell) => own(cell.axes, axis.key)));
const status = filterOf("status", "status", {}, [], (cell) => cell.status);
const filters = [status, ...axes];
status.values.sort((a, b) => STATUSES.indexOf(a) - STATUSES.indexOf(b));

const label = (cell) => axes.map((axis) => `${axis.title} ${axis.text(axis.of(cell))}`).join(", ") || cell.id;
const address = (path) => path.split("/").map(encodeURIComponent).join("/");
const image = (picture) => (picture.thumb?.startsWith("data:image/") ? picture.thumb : address(picture.file));
const picturesOf = (cell) => (cell.pictures.length || !cell.sheet ? cell.pictures : [{ file: cell.sheet, thumb: null, caption: "" }]);

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}

// The state of the view, which is in the address behind #.

const DEFAULTS = {
  view: "pictures", order: "", direction: "", ...laidOut(), size: "",
  number: sweep.numbers[0] ?? "", axis: axes[0]?.name ?? "", lines: axes[1]?.name ?? "", cell: "",
};
const state = { ...DEFAULTS, off: new Map() };
let shown = [];
let pending = 0;

function laidOut() {
  const none = { rows: "", columns: "" };
  if (!axes.length || axes.length > 2) return none;
  const columns = [...axes].reverse().find((axis) => axis.values.length <= COLUMNS);
  return columns ? { rows: axes.find((axis) => axis !== columns)?.name ?? "", columns: columns.name } : none;
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = said.get(name) ?? DEFAULTS[name];
  state.off = new Map(filters.map((filter) => [filter.name, new Set(said.getAll(`off.${filter.name}`))]));
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) said.set(name, state[name]);
  for (const [name, off] of state.off) off.forEach((value) => said.append(`off.${name}`, value));
  history.replaceState(null, "", `#${said}`);
}

function change(changes) {
  Object.assign(state, changes);
  clearTimeout(pending); // browsers refuse more than a few of these a second
  pending = setTimeout(writeAddress, 100);
}

const isOn = (cell) => filters.every((filter) => !state.off.get(filter.name).has(code(filter.of(cell))));

function ordered(cells) {
  const [kind, ...rest] = state.order.split(".");
  if (!kind) return state.direction ? cells.reverse() : cells;
  const axis = axisNamed(state.order);
  const of = axis ? (cell) => axis.rank.get(code(axis.of(cell))) : (cell) => numberOf(cell, rest.join("."));
  const sign = state.direction ? -1 : 1;
  const known = cells.filter((cell) => finite(of(cell))).sort((a, b) => sign * (of(a) - of(b)));
  return [...known, ...cells.filter((cell) => !finite(of(cell)))];
}

// Elements: every text becomes a text node.

function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

function picture(source, alt = "") {
  return make("img", { src: source, alt, loading: "lazy", decoding: "async", draggable: false });
}

function command(place, words) {
  const said = make("code", { textContent: words });
  const button = make("button", { type: "button", textContent: "Copy", "aria-live": "polite", "aria-label": "copy the command" });
  button.addEventListener("click", () => copy(words, button));
  place.replaceChildren(said, button);
}

async function copy(words, button) {
  const done = await navigator.clipboard?.writeText(words).then(() => true, () => false) || copiedBySelecting(words, button);
  button.textContent = done ? "copied" : "select it and press Ctrl+C";
  button.removeAttribute("aria-label");
  setTimeout(() => fill(button, { textContent: "Copy", "aria-label": "copy the command" }, []), 2000);
}

function copiedBySelecting(words, button) {
  const field = make("textarea", { value: words });
  button.before(field); // inside the dialog where there is one: what is outside takes no focus
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  button.focus();
  return done;
}

// The gallery.

const cards = new Map(sweep.cells.map((cell) => [cell, card(cell)]));

function card(cell) {
  const words = axes.map((axis) => make("span", {}, make("i", {}, `${axis.title} `), axis.short(axis.of(cell))));
  const measured = make("span", { className: "measured", hidden: true });
  const button = make("button", { type: "button", className: "card", "aria-haspopup": "dialog" });
  button.append(art(cell), make("span", { className: "words" }, ...words, measured));
  if (cell.status !== "done") button.classList.add("hole", cell.status);
  button.setAttribute("aria-label", `${label(cell)}: ${cell.status}`);
  button.title = label(cell);
  button.dataset.id = cell.id;
  button.addEventListener("click", () => open(cell));
  return { button, words, measured };
}

function art(cell) {
  if (cell.status !== "done") return make("span", { className: "art" }, make("b", {}, cell.status), beginning(cell.error ?? ""));
  const pictures = picturesOf(cell);
  const place = make("span", { className: "art" }, ...pictures.slice(0, 4).map((one) => picture(image(one))));
  place.classList.toggle("several", pictures.length > 1);
  if (!pictures.length) place.append(make("i", { className: "words" }, "no picture"));
  if (pictures.length > 4) place.append(make("span", { className: "more" }, `${pictures.length}`));
  return place;
}

function beginning(words) {
  return words.length > 110 ? `${words.slice(0, 110).trimEnd()}…` : words;
}

function gallery() {
  const [rows, columns] = [axisNamed(state.rows), axisNamed(state.columns)];
  const across = columns ? present(columns) : [null];
  caption(rows, columns);
  const side = sideFor(across.length, Boolean(rows), Boolean(rows || columns));
  const lines = axes.length - Boolean(rows) - Boolean(columns && columns !== rows) + Boolean(numberInOrder());
  $("gallery").style.setProperty("--side", `${side}px`);
  $("gallery").style.setProperty("--words", `${lines * 18 + 10}px`);
  $("gallery").className = side < 100 ? "tiny" : "";
  $("gallery").replaceChildren(shown.length ? rows || columns ? grid(rows, columns, across, side) : flow(shown, "flow") : nothing());
  $("gallery").classList.toggle("wide", $("gallery").scrollWidth > $("gallery").clientWidth);
  $("size").value = side;
  $("hint").textContent = numberInOrder() && (rows || columns) ? WITHIN : "";
}

const flow = (cells, kind) => make("div", { className: kind }, ...cells.map((cell) => cards.get(cell).button));
const nothing = () =>
  make("p", {}, sweep.cells.length ? "The filter leaves no cell: switch a value on again." : "This sweep has no cells.");
const numberInOrder = () => (state.order.startsWith("number.") ? state.order.slice(7) : "");

function caption(rows, columns) {
  const number = numberInOrder();
  for (const cell of shown) {
    const { words, measured } = cards.get(cell);
    words.forEach((word, place) => (word.hidden = axes[place] === rows || axes[place] === columns));
    measured.hidden = !number || cell.status !== "done";
    measured.textContent = number && `${number} ${short(numberOf(cell, number))}`;
  }
}

function sideFor(across, labelled, gridded) {
  if (state.size) return Number(state.size);
  const [room, gap, phone] = [$("gallery").clientWidth, 10, innerWidth <= 700];
  if (!gridded) return phone ? Math.floor((room - gap) / 2) : shown.length <= 48 ? 168 : shown.length <= 240 ? 128 : 104;
  const free = room - (labelled ? (phone ? 52 : 104) : 0);
  return Math.max(phone ? 64 : 88, Math.min(168, Math.floor(free / across) - gap));
}

function present(axis) {
  const found = new Set(shown.map((cell) => code(axis.of(cell))));
  const values = axis.values.filter((value) => found.has(code(value)));
  return state.order === axis.name && state.direction ? values.reverse() : values;
}

function grid(rows, columns, across, side) {
  const place = (row, column) => `${rows ? code(row) : ""} ${columns ? code(column) : ""}`;
  const places = grouped(shown, (cell) => place(rows?.of(cell), columns?.of(cell)));
  const directions = [rows && `${rows.title} ↓`, columns && `${columns.title} →`].filter(Boolean).join("   ");
  const table = make("table", { className: "grid" }, make("caption", {}, directions), sizes(rows, columns, across, side));
  if (columns) table.append(make("thead", {}, headings(rows, columns, across)));
  table.append(make("tbody", {}, ...(rows ? present(rows) : [null]).map((row) => line(row))));
  return table;

  function line(row) {
    const head = rows ? [make("th", { scope: "row", title: rows.text(row) }, rows.short(row))] : [];
    return make("tr", {}, ...head, ...across.map((column) => make("td", {}, flow(places.get(place(row, column)) ?? [], "heap"))));
  }
}

function sizes(rows, columns, across, side) {
  const [phone, room] = [innerWidth <= 700, $("gallery").clientWidth];
  const [labels, width] = [`${phone ? 52 : 104}px`, columns ? `${side + 10}px` : `${room - (phone ? 52 : 104)}px`];
  const group = make("colgroup", {}, ...(rows ? [make("col")] : []), ...across.map(() => make("col")));
  [...group.children].forEach((col, number) => (col.style.width = rows && !number ? labels : width));
  return group;
}

function headings(rows, columns, across) {
  const heads = across.map((value) => make("th", { scope: "col", title: columns.text(value) }, columns.short(value)));
  return make("tr", {}, ...(rows ? [make("td")] : []), ...heads);
}

// The filter.

function chips() {
  const useful = filters.filter((filter) => filter.values.length > 1);
  $("chips").replaceChildren(...useful.map(fieldset));
  $("filters").hidden = !useful.length;
}

function fieldset(filter) {
  const boxes = filter.values.map((value) => chip(filter, value));
  const all = (words, off) => {
    const button = make("button", { type: "button", textContent: words, "aria-label": `${words} of ${filter.title}` });
    button.addEventListener("click", () => switchAll(filter, off));
    return button;
  };
  const both = filter.values.length > 2 ? [all("all", []), all("none", filter.values)] : [];
  return make("fieldset", {}, make("legend", {}, filter.title), make("div", { className: "values" }, ...both, ...boxes));
}

function chip(filter, value) {
  const box = make("input", { type: "checkbox", name: filter.name, value: code(value) });
  box.addEventListener("change", () => {
    state.off.get(filter.name)[box.checked ? "delete" : "add"](box.value);
    change({});
    render();
  });
  return make("label", {}, box, filter.text(value));
}

function switchAll(filter, off) {
  state.off.set(filter.name, new Set(off.map(code)));
  change({});
  settle();
}

// The plots.

function plot() {
  const axis = axisNamed(state.axis);
  const able = axis ? shown.filter((cell) => cell.status === "done" && finite(numberOf(cell, state.number))) : [];
  $("left-out").textContent = leftOut(able, axis);
  $("legend").replaceChildren();
  $("plot").replaceChildren(...(able.length ? [chart(able, axis, axisNamed(state.lines))] : []));
}

function leftOut(able, axis) {
  if (!axis || !sweep.numbers.length) return axis ? "No cell has a number." : "Nothing was swept, so there is nothing to plot against.";
  const rest = shown.filter((cell) => !able.includes(cell));
  const counts = STATUSES.map((kind) => [kind, rest.filter((cell) => cell.status === kind).length]).filter(([, count]) => count);
  const reasons = counts.map(([kind, count]) => `${count} ${kind === "done" ? "without this number" : kind}`);
  const hidden = sweep.cells.length - shown.length;
  const words = `${able.length} of ${shown.length} cells are drawn${reasons.length ? `; left out: ${reasons.join(", ")}` : ""}.`;
  return words + (hidden ? ` The filter hides ${hidden}.` : "");
}

function chart(cells, axis, lines) {
  const ys = cells.map((cell) => numberOf(cell, state.number));
  const marks = ticks(Math.min(...ys), Math.max(...ys));
  const frame = { left: 30 + widest(marks.map((mark) => short(mark))), right: 18, top: 26, width: $("plot").clientWidth };
  const x = across(cells, axis, frame);
  frame.height = Math.max(300, Math.min(480, frame.width * 0.55));
  frame.bottom = frame.height - x.depth - 44;
  const low = marks[0], high = marks.at(-1);
  const y = (value) => frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
  const many = cells.length > MANY;
  const svg = draw("svg", { viewBox: `0 0 ${frame.width} ${frame.height}`, height: frame.height, role: "group" });
  svg.setAttribute("aria-label", `${state.number} against ${axis.title}`);
  svg.classList.toggle("many", many);
  svg.append(...marks.flatMap((mark) => levelLine(mark, y(mark), frame)), ...x.labels(frame), ...names(axis, frame));
  const series = lines ? lines.values.map((value) => [value, cells.filter((cell) => lines.of(cell) === value)]) : [[null, cells]];
  series.forEach(([value, those], number) => those.length && svg.append(...line(those, number, value)));
  return svg;

  function line(those, number, value) {
    if (lines) $("legend").append(legend(`${lines.title} ${lines.text(value)}`, number));
    const place = (cell) => [x.at(axis.of(cell)), y(numberOf(cell, state.number))];
    const means = [...grouped(those, (cell) => place(cell)[0])].map(([at, group]) => [at, mean(group.map((cell) => place(cell)[1]))]);
    const path = means.sort((a, b) => a[0] - b[0]).map((pair) => pair.join(" ")).join(" L ");
    const joined = x.numeric || lines ? [draw("path", { class: "line", d: `M ${path}`, fill: "none", ...stroke(number) })] : [];
    const points = those.map((cell) => point(cell, place(cell), number));
    return many ? [...points, ...joined] : [...joined, ...points];
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const widest = (words) => Math.max(...words.map((word) => word.length)) * 7.6;
const colour = (number) => `var(--c${number % 8})`;
const dashes = (number) => ["none", "7 4", "2 3", "9 3 2 3"][Math.floor(number / 8) % 4];
const stroke = (number) => ({ stroke: colour(number), "stroke-width": 2, "stroke-dasharray": dashes(number) });

function ticks(low, high) {
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, number) => Number(((first + number) * step).toPrecision(12)));
}

function across(cells, axis, frame) {
  const values = present(axis).filter((value) => cells.some((cell) => axis.of(cell) === value));
  return values.every(finite) ? numberLine(values, frame) : categories(values, axis, frame);
}

function numberLine(values, frame) {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted.at(-1)];
  const scaled = low > 0 && high / low >= LOGARITHMIC ? Math.log10 : (value) => value;
  const [from, to] = [scaled(low), scaled(high)];
  const [start, end] = [frame.left + 16, frame.width - frame.right - 16];
  const at = (value) => (to > from ? start + ((scaled(value) - from) / (to - from)) * (end - start) : (start + end) / 2);
  const marks = sorted.length > 12 && scaled !== Math.log10 ? ticks(low, high).filter((mark) => mark >= low && mark <= high) : sorted;
  return { numeric: true, at, depth: 8, labels: () => apart(marks, at).map((mark) => tick(frame, at(mark), short(mark))) };
}

function apart(marks, at) {
  const kept = [];
  for (const mark of marks) {
    const before = kept.at(-1);
    if (kept.length === 0 || at(mark) - at(before) > (widest([short(mark)]) + widest([short(before)])) / 2 + 8) kept.push(mark);
  }
  return kept;
}

function categories(values, axis, frame) {
  const bandFrom = (left) => (frame.width - left - frame.right) / values.length;
  const turned = widest(values.map(axis.text)) > bandFrom(frame.left) - 6;
  const room = widest(values.map(axis.tick)) * 0.77; // a turned label ends at its place and begins on the page
  if (turned) frame.left = Math.max(frame.left, room - bandFrom(Math.max(frame.left, room)) / 2);
  const band = bandFrom(frame.left);
  const at = (value) => frame.left + band * (values.indexOf(value) + 0.5);
  const every = Math.ceil(18 / band); // so many that even turned ones would meet: only some are named
  const named = values.filter((_, number) => number % every === 0);
  const depth = turned ? room * 0.84 + 8 : 8;
  const kept = turned ? axis.tick : axis.text;
  return { numeric: false, at, depth, labels: () => named.map((value) => tick(frame, at(value), axis.text(value), kept(value), turned)) };
}

function tick(frame, x, words, kept = words, turned = false) {
  const y = frame.bottom + 20;
  const placed = turned ? { x, y: y - 4, "text-anchor": "end", transform: `rotate(-40 ${x} ${y - 4})` } : { x, y, "text-anchor": "middle" };
  const rule = draw("line", { class: "rule", x1: x, x2: x, y1: frame.bottom, y2: frame.bottom + 5 });
  return draw("g", {}, rule, draw("text", placed, kept, draw("title", {}, words)));
}

function levelLine(mark, y, frame) {
  const rule = draw("line", { class: "rule", x1: frame.left, x2: frame.width - frame.right, y1: y, y2: y });
  return [rule, draw("text", { x: frame.left - 8, y: y + 4, "text-anchor": "end" }, short(mark))];
}

function names(axis, frame) {
  const middle = (frame.left + frame.width - frame.right) / 2;
  const below = draw("text", { class: "name", x: middle, y: frame.height - 8, "text-anchor": "middle" }, axis.title);
  return [draw("text", { class: "name", x: 4, y: 14 }, state.number), below];
}

function point(cell, [cx, cy], number) {
  const words = `${label(cell)}: ${state.number} ${short(numberOf(cell, state.number))}`;
  const dot = draw("circle", { class: "point", cx, cy, r: 6, fill: colour(number), tabindex: 0, role: "button", "aria-label": words });
  dot.append(draw("title", {}, words));
  dot.dataset.id = cell.id;
  dot.addEventListener("click", () => open(cell));
  return dot;
}

function legend(words, number) {
  const bar = draw("line", { x1: 0, x2: 34, y1: 6, y2: 6, ...stroke(number) });
  const dot = draw("circle", { cx: 17, cy: 6, r: 5, fill: colour(number) });
  return make("li", {}, draw("svg", { "aria-hidden": true }, bar, dot), words);
}

// The dialog: one cell, large.

const looking = { cell: null, which: 0, reading: null, playing: 0 };

function open(cell) {
  stop();
  Object.assign(looking, { cell, which: 0, reading: null });
  heading(cell);
  facts(cell);
  pick(cell);
  compare(cell);
  readings(cell);
  viewing(cell);
  way(cell);
  enlarge();
  change({ cell: cell.id });
  if (!$("dialog").open) $("dialog").showModal();
  $("dialog").scrollTop = 0;
}

function heading(cell) {
  const place = shown.indexOf(cell);
  $("name").textContent = label(cell);
  $("position").textContent = place < 0 ? "filtered out" : `${place + 1} of ${shown.length}`;
}

function turn(step) {
  const place = shown.indexOf(looking.cell);
  if (shown.length) open(shown.at((place + step) % shown.length));
}

function closed() {
  stop();
  const { id } = looking.cell;
  change({ cell: "" });
  const all = document.querySelectorAll(state.view === "plots" ? "#plot .point" : "#gallery .card");
  [...all].find((one) => one.dataset.id === id)?.focus();
}

function facts(cell) {
  $("status").textContent = cell.status === "done" ? "" : cell.status === "failed" ? "This cell failed." : "This cell has not run.";
  $("status").className = cell.status === "failed" ? "bad" : "";
  $("error").textContent = cell.error ?? "";
  $("error").hidden = !cell.error;
  table($("values"), axes.map((axis) => [axis.title, axis.text(axis.of(cell))]));
  table($("numbers"), Object.entries(cell.numbers).map(([name, value]) => [name, short(value, 8)]));
  command($("cell-command"), cell.command);
  $("links").replaceChildren(...links(cell));
}

function table(place, rows) {
  place.hidden = !rows.length;
  const line = ([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value));
  place.tBodies[0].replaceChildren(...rows.map(line));
}

function links(cell) {
  const link = (path, words) => (path ? [make("a", { href: address(path), textContent: words })] : []);
  return cell.status === "missing" ? [] : [...link(cell.folder && `${cell.folder}/`, "folder"), ...link(cell.sheet, "labelled sheet")];
}

function pick(cell) {
  const pictures = picturesOf(cell);
  $("pick").hidden = pictures.length < 2;
  $("pick").replaceChildren(...pictures.map((one, which) => {
    const named = { "aria-label": one.caption || `picture ${which + 1}`, "aria-current": which === 0 };
    const button = make("button", { type: "button", ...named }, picture(image(one)));
    button.addEventListener("click", () => choose(which));
    return button;
  }));
}

function choose(which) {
  looking.which = which;
  [...$("pick").children].forEach((button, number) => button.setAttribute("aria-current", number === which));
  enlarge();
}

function enlarge() {
  const chosen = picturesOf(looking.cell)[looking.which];
  const seen = looking.reading?.degrees === null ? looking.reading.files[looking.which] : null;
  $("stage").hidden = !chosen;
  before(chosen?.original ?? looking.cell.original);
  $("caption").textContent = chosen?.caption ?? "";
  if (chosen) fill($("large"), { src: address(seen ?? chosen.file), alt: `${label(looking.cell)}, ${chosen.caption}` }, []);
  turned(looking.reading?.degrees ?? 0);
}

function turned(degrees) {
  const { naturalWidth: width, naturalHeight: height } = $("large");
  const [cos, sin] = [Math.cos, Math.sin].map((of) => Math.abs(of((degrees * Math.PI) / 180)));
  const fits = width && Math.min(1, width / (width * cos + height * sin), height / (width * sin + height * cos));
  $("turn").style.rotate = `${degrees}deg`;
  $("turn").style.scale = fits || 1;
}

function shape() {
  const { naturalWidth: width, naturalHeight: height } = $("large");
  if (width && height) $("stage").style.setProperty("--ratio", width / height);
  turned(looking.reading?.degrees ?? 0);
}

function compare(cell) {
  $("compare").hidden = $("before").hidden = !cell.original;
  $("cut").value = 0;
  cut();
}

function before(original) {
  if (original) $("before").src = address(original);
  else $("before").removeAttribute("src");
}

function cut() {
  const part = $("cut").value;
  $("far").style.setProperty("--cut", `${part}%`);
  $("edge").hidden = part === "0" || part === "100";
  $("cut-said").textContent = part === "0" ? "result" : part === "100" ? "original" : `${part} %`;
}

function readings(cell) {
  $("reading").hidden = !cell.readings.length;
  $("said").textContent = "";
  $("views").replaceChildren(...cell.readings.map((reading) => {
    const button = make("button", { type: "button", textContent: reading.label, "aria-pressed": false });
    button.addEventListener("click", () => read(looking.reading === reading ? null : reading));
    return button;
  }));
}

function read(reading) {
  looking.reading = reading;
  [...$("views").children].forEach((button, number) => button.setAttribute("aria-pressed", looking.cell.readings[number] === reading));
  $("said").textContent = reading ? `${reading.label}: ${reading.said}` : "";
  enlarge();
}

function viewing(cell) {
  $("viewing").hidden = !cell.distance;
  $("away").value = 1;
  away();
}

function away() {
  const times = Number($("away").value);
  const blur = (times - 1) * 0.012 * $("stage").clientWidth;
  $("far").style.scale = 1 / times;
  $("far").style.filter = times > 1 ? `blur(${blur.toFixed(1)}px)` : "";
  $("away-said").textContent = times > 1 ? `${times.toFixed(1)} × as far` : "close by";
}

function way({ frames }) {
  $("way").hidden = !frames;
  $("tiles").replaceChildren(...(frames ? frames.rows.map((row) => tile(row, frames)) : []));
  if (!frames) return;
  $("time").max = frames.t.length - 1;
  $("time").value = frames.t.length - 1;
  scrub();
}

function tile(row, { file, t, size: [width, height], rows }) {
  const times = Math.max(1, Math.floor(150 / width)); // whole pixels: neighbouring tiles must not shine through
  const wide = times > 1 ? times * width : Math.min(width, 150);
  const view = make("div", { role: "img", className: width <= PIXELS ? "small" : "" });
  Object.assign(view.style, {
    width: `${wide}px`, height: `${Math.round((wide * height) / width)}px`,
    backgroundImage: `url("${address(file)}")`, backgroundSize: `${t.length * 100}% ${rows.length * 100}%`,
  });
  return make("figure", {}, view, make("figcaption", {}, row));
}

function scrub() {
  const { t, rows } = looking.cell.frames;
  const step = Number($("time").value);
  const part = (number, count) => `${count > 1 ? (number / (count - 1)) * 100 : 0}%`;
  [...$("tiles").children].forEach(({ firstChild: view }, row) => {
    view.style.backgroundPosition = `${part(step, t.length)} ${part(row, rows.length)}`;
    view.setAttribute("aria-label", `${rows[row]} at t = ${t[step]}`);
  });
  $("time-said").textContent = `t = ${t[step]}`;
  $("time").setAttribute("aria-valuetext", `t = ${t[step]}`);
}

function play() {
  if (looking.playing) return stop();
  if ($("time").value === $("time").max) $("time").value = 0;
  $("play").textContent = "Stop";
  looking.playing = setInterval(forward, 140);
  scrub();
}

function forward() {
  $("time").value = Number($("time").value) + 1;
  scrub();
  if ($("time").value === $("time").max) stop();
}

function stop() {
  clearInterval(looking.playing);
  looking.playing = 0;
  $("play").textContent = "Play";
}

// Keys.

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || target.matches?.("input, select, textarea")) return;
  if ($("dialog").open) return key in STEPS && consumed(event, () => turn(STEPS[key]));
  if (target.matches?.(".point") && (key === "Enter" || key === " ")) return consumed(event, () => open(cellOf(target)));
  if (target.matches?.(".card, .point") && key.startsWith("Arrow")) consumed(event, () => neighbour(target, key)?.focus());
}

const cellOf = (node) => sweep.cells.find((cell) => cell.id === node.dataset.id);

function consumed(event, act) {
  event.preventDefault();
  act();
}

function neighbour(from, key) {
  const all = [...document.querySelectorAll(from.matches(".card") ? "#gallery .card" : "#plot .point")];
  return key in STEPS ? all[all.indexOf(from) + STEPS[key]] : nearest(from, all, key === "ArrowDown" ? 1 : -1);
}

function nearest(from, all, sign) {
  const middle = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const [x, y] = middle(from);
  const far = (node) => {
    const [there, height] = middle(node);
    const down = (height - y) * sign;
    return down > 4 ? down + 3 * Math.abs(there - x) : Infinity;
  };
  return all.map((node) => [far(node), node]).reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, null])[1];
}

// The page.

function head() {
  const count = (kind) => sweep.cells.filter((cell) => cell.status === kind).length;
  const worry = (kind) => (kind === "failed" && count(kind) ? "bad" : "");
  const counts = STATUSES.map((kind) => make("span", { className: worry(kind) }, `${count(kind)} ${kind}`));
  document.title = $("title").textContent = sweep.title;
  $("counts").replaceChildren(...counts.flatMap((one, number) => (number ? [" · ", one] : [one])));
  $("note").textContent = sweep.note;
  command($("command"), sweep.command);
}

function options(select, choices) {
  select.replaceChildren(...choices.map(([value, words]) => make("option", { value, textContent: words })));
}

function selects() {
  const named = axes.map((axis) => [axis.name, axis.title]);
  options($("order"), [["", "as swept"], ...named, ...sweep.numbers.map((name) => [`number.${name}`, name])]);
  options($("number"), sweep.numbers.map((name) => [name, name]));
  options($("axis"), named);
  for (const id of ["rows", "columns", "lines"]) options($(id), [["", "none"], ...named]);
}

function settle() {
  for (const name of SELECTS) settled($(name), name);
  for (const box of $("chips").querySelectorAll("input")) box.checked = !state.off.get(box.name).has(box.value);
  render();
}

function settled(select, name) {
  select.value = state[name];
  if (select.selectedIndex < 0) select.value = state[name] = DEFAULTS[name]; // an address may name what this sweep has not
}

function render() {
  shown = ordered(sweep.cells.filter(isOn));
  const all = shown.length === sweep.cells.length;
  $("shown").textContent = all ? `all ${shown.length} shown` : `${shown.length} of ${sweep.cells.length} shown`;
  const plots = state.view === "plots";
  $("reset").disabled = filters.every((filter) => !state.off.get(filter.name).size);
  $("pictures").hidden = plots;
  $("plots").hidden = !plots;
  $("to-pictures").setAttribute("aria-pressed", !plots);
  $("to-plots").setAttribute("aria-pressed", plots);
  if (plots) plot();
  else gallery();
}

function reset() {
  for (const filter of filters) state.off.set(filter.name, new Set());
  change({});
  settle();
}

function arrive() {
  readAddress();
  settle();
  const cell = sweep.cells.find((one) => one.id === state.cell);
  if (cell) open(cell);
}

function listen() {
  const says = (name) => () => { change({ [name]: $(name).value }); render(); };
  for (const name of SELECTS) $(name).addEventListener("change", says(name));
  $("size").addEventListener("input", says("size"));
  $("to-pictures").addEventListener("click", () => { change({ view: "pictures" }); render(); });
  $("to-plots").addEventListener("click", () => { change({ view: "plots" }); render(); });
  $("reset").addEventListener("click", reset);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("close").addEventListener("click", () => $("dialog").close());
  $("dialog").addEventListener("click", (event) => event.target === $("dialog") && $("dialog").close());
  $("dialog").addEventListener("close", closed);
  $("large").addEventListener("load", shape);
  $("cut").addEventListener("input", cut);
  $("away").addEventListener("input", away);
  $("time").addEventListener("input", () => { stop(); scrub(); });
  $("play").addEventListener("click", play);
  document.addEventListener("keydown", pressed);
  document.addEventListener("load", ({ target }) => target.classList?.toggle("small", target.naturalWidth <= PIXELS), true);
  addEventListener("hashchange", arrive);
  addEventListener("resize", widthChanged);
}

let width = innerWidth;

function widthChanged() {
  if (width !== innerWidth) requestAnimationFrame(render); // a phone's own bars change the height alone
  width = innerWidth;
}

head();
chips();
selects();
listen();
$("filters").open = innerWidth > 700;
arrive();
