// Of the dashboard: how it writes, asks and reads. The law: whatever comes from the network becomes a text
// node, without control and direction characters; nothing is ever read as HTML.

const NOTHING = "–"; // in a cell without a value
const SHORT_ID = 10;
const FRESH_MS = 1200; // as long as a new row is tinted
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const plain = (text) => String(text).replace(UNSAFE, (c) => ("\n\t\u200c\u200d".includes(c) ? c : ""));
const fixed = (value, unit = "") => value.toFixed(1) + unit;
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hourCycle: "h23" });

function put(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

function make(kind, text = "", className = "") {
  const element = document.createElement(kind);
  if (text) put(element, text);
  if (className) element.className = className;
  return element;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  return whole < 172800 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86400)} days`;
}

// --- asking the gateway ---

const access = {
  keyed: document.body.dataset.access === "keyed",
  get key() { return sessionStorage.getItem("llama-gossip key") ?? ""; },
  set key(key) { sessionStorage.setItem("llama-gossip key", key); },
};

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (access.key) headers.authorization = `Bearer ${access.key}`;
  return fetch(path, { cache: "no-store", ...options, headers });
}

// Server-sent events of a fetch's answer, as {event, data}; comments are passed over.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split(/\r?\n\r?\n/);
    waiting = blocks.pop();
    for (const block of blocks) {
      const found = { event: "message", data: [] };
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("event:")) found.event = line.slice(6).trim();
        if (line.startsWith("data:")) found.data.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (found.data.length) yield { event: found.event, data: found.data.join("\n") };
    }
  }
}

async function refusalOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the gateway answered ${response.status}`;
  }
}

// --- tables ---

// Brings a table's rows in line with `rows`: new ones made, changed cells written, gone ones removed.
function showRows(body, rows, key, cells, testid) {
  const fields = [...body.parentElement.querySelectorAll("th")].map((th) => [th.dataset.field, th.textContent]);
  const there = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const first = body.dataset.filled !== "yes";
  body.dataset.filled = "yes";
  rows.forEach((row, at) => {
    const name = String(row[key]);
    let shown = there.get(name);
    there.delete(name);
    if (!shown) shown = newRow(name, fields, testid, first ? "" : "fresh");
    fields.forEach(([field], column) => showCell(shown.children[column], cells[field](row)));
    if (body.children[at] !== shown) body.insertBefore(shown, body.children[at] ?? null);
  });
  for (const row of there.values()) row.remove();
}

function newRow(name, fields, testid, className) {
  const row = make("tr", "", className);
  row.setAttribute("role", "row");
  row.dataset.testid = testid;
  row.dataset.key = name;
  for (const [field, label] of fields) {
    const cell = make("td");
    cell.setAttribute("role", "cell");
    Object.assign(cell.dataset, { field, label });
    row.append(cell);
  }
  if (className) setTimeout(() => row.classList.remove(className), FRESH_MS);
  return row;
}

// A cell is a text, or {text, mark, title}.
function showCell(cell, told) {
  const { text, mark, title } = typeof told === "object" ? told : { text: told };
  if (title !== undefined) cell.title = plain(title);
  if (mark === undefined) return put(cell, text);
  let inner = cell.firstElementChild;
  if (!inner) cell.replaceChildren((inner = make("span")));
  inner.className = `mark ${/^[a-z_]*$/.test(mark) ? mark : "failed"}`;
  return put(inner, text);
}
