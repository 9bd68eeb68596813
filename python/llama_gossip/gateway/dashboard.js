"use strict";
// The dashboard: one stream of the node's state comes in, the page is what it says. Whatever comes from the
// network becomes a text node, without control and direction characters; nothing is ever read as HTML.

const NOTHING = "–";
const SHORT_ID = 10;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const FRESH_MS = 1200; // as long as a new row is tinted
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const plain = (text) => String(text).replace(UNSAFE, (c) => ("\n\t\u200c\u200d".includes(c) ? c : ""));
const fixed = (value, unit = "") => value.toFixed(1) + unit;
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

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

// --- the state, and its stream ---

const KEYS = { peers: "node_id", requests: "request_id", served: "request_id", log: "number" };
const state = { tables: { peers: new Map(), requests: new Map(), served: new Map(), log: new Map() } };

function take(row) {
  if ("last_seen_s" in row) row.seenAt = performance.now() - row.last_seen_s * 1000;
  return row;
}

function takeTable(name, told, whole) {
  const rows = whole ? new Map() : state.tables[name];
  for (const row of whole ? told : told.rows) rows.set(row[KEYS[name]], take(row));
  for (const key of whole ? [] : told.gone) rows.delete(key);
  state.tables[name] = rows;
}

function takeState(told, whole) {
  for (const [name, part] of Object.entries(told)) {
    if (name in KEYS) takeTable(name, part, whole);
    else state[name] = { ...part };
  }
  if (told.node) state.began = performance.now() - told.node.uptime_s * 1000;
  if (told.version) state.version = told.version;
  const all = Object.keys(told);
  if (all.includes("network")) showNetwork(state.network);
  if (all.includes("peers")) showPeers();
  if (all.includes("requests")) showRequests();
  if (all.includes("served")) showServed();
  if (all.includes("log")) showLog(whole);
  if (all.includes("node")) showOwn(state.node);
}

function showConnection(kind, text) {
  $("connection").className = `mark ${kind}`;
  put($("connection"), text);
}

// Ends only when a key is refused.
async function follow() {
  for (let tries = 0; ; tries += 1) {
    try {
      const response = await ask("api/events");
      if (response.status === 401) return askForKey("This key was refused.");
      if (!response.ok) throw new Error(await refusalOf(response));
      open();
      for await (const { event, data } of events(response)) {
        showConnection("on", "live");
        tries = 0;
        takeState(JSON.parse(data), event === "status");
      }
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof DOMException)) console.warn(error.message);
    }
    const pause = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    showConnection("off", `not live; trying again in ${Math.ceil(pause / 1000)} s`);
    await wait(pause * (0.75 + Math.random() / 2));
    showConnection("wait", "connecting");
  }
}

// --- a key, where one is needed ---

function askForKey(refusal) {
  document.body.dataset.access = "keyed";
  $("gate").hidden = false;
  showConnection("off", "a key is needed");
  put($("refusal"), refusal);
  $("key").focus();
}

function open() {
  document.body.dataset.access = "open";
  $("gate").hidden = true;
}

$("gate").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  access.key = $("key").value.trim();
  $("key").value = "";
  follow();
});

// --- network ---

const TILES = {
  workers: (n) => n.ready_workers,
  peers: (n) => n.peers,
  models: (n) => n.models.length,
  running: (n) => `${n.running} / ${n.max_concurrent}`,
  queue: (n) => n.queue_depth,
  requests: (n) => n.requests,
  failovers: (n) => n.failovers,
};

function showNetwork(network) {
  for (const [name, tile] of Object.entries(TILES)) put(document.querySelector(`[data-tile="${name}"]`), tile(network));
  showPlot(network);
  showModels(network.models);
}

function curve(values, most) {
  const step = 236 / (values.length - 1);
  return values.map((value, at) => `${at ? "L" : "M"}${(at * step).toFixed(1)} ${(54 - (value / most) * 50).toFixed(1)}`).join("");
}

function showPlot({ throughput, made_throughput: made, tokens_per_s: now, made_tokens_per_s: madeNow }) {
  const most = Math.max(1, ...throughput, ...made);
  const makes = made.some((value) => value > 0);
  $("plot").hidden = false;
  $("plot-line").setAttribute("d", curve(throughput, most));
  $("plot-area").setAttribute("d", `${curve(throughput, most)}L236 56L0 56Z`);
  $("plot-made").setAttribute("d", makes ? curve(made, most) : "");
  put($("plot-now"), `${fixed(now)} tok/s` + (makes ? `, makes ${fixed(madeNow)}` : ""));
  const peak = Math.max(...throughput, ...made);
  put($("plot-most"), peak ? `last minute, at most ${fixed(peak)}` : "no tokens in the last minute");
  $("plot-image").setAttribute("aria-label", `Tokens a second to this node over the last minute: now ${fixed(now)}, at most ${fixed(peak)}`);
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

const works = (peer) => peer.max_concurrent > 0;
const stateOf = (peer) => (peer.silent ? "silent" : peer.state);
const seen = (peer) => `${span((performance.now() - peer.seenAt) / 1000)} ago`;
const PEER = {
  name: (p) => p.name,
  node_id: (p) => ({ text: p.node_id.slice(0, SHORT_ID), title: p.node_id }),
  role: (p) => p.role || NOTHING,
  models: (p) => p.models.join(", ") || NOTHING,
  device: (p) => p.device || NOTHING,
  state: (p) => ({ text: stateOf(p), mark: stateOf(p) }),
  running: (p) => (works(p) ? `${p.running} / ${p.max_concurrent}` : NOTHING),
  queue_depth: (p) => (works(p) ? p.queue_depth : NOTHING),
  tokens_per_s: (p) => (p.tokens_per_s ? fixed(p.tokens_per_s) : NOTHING),
  rtt_ms: (p) => (p.rtt_ms === null ? NOTHING : fixed(p.rtt_ms, " ms")),
  path: (p) => p.path || NOTHING,
  last_seen_s: seen,
  version: (p) => p.version || NOTHING,
};
const outcomeOf = (outcome) => (outcome === "" ? "running" : ["stop", "length"].includes(outcome) ? outcome : "failed");
const REQUEST = {
  asked_ms: (r) => clock(r.asked_ms),
  model: (r) => r.model || "any",
  worker_name: (r) => ({ text: r.worker_name || NOTHING, title: r.worker }),
  tokens: (r) => (r.outcome === "" ? NOTHING : r.tokens),
  first_token_ms: (r) => (r.first_token_ms === null ? NOTHING : fixed(r.first_token_ms, " ms")),
  outcome: (r) => ({ text: r.outcome || "running", mark: outcomeOf(r.outcome) }),
  failovers: (r) => r.failovers,
};
const SERVED = {
  accepted_ms: (r) => clock(r.accepted_ms),
  model: (r) => r.model,
  requester_name: (r) => ({ text: r.requester_name, title: r.requester }),
  tokens: (r) => (r.reason === "" ? NOTHING : r.tokens),
  reason: (r) => ({ text: r.reason || "running", mark: outcomeOf(r.reason) }),
};

function showPeers() {
  const rank = (p) => [p.models.length ? 0 : 1, p.name, p.node_id];
  const order = (a, b) => { const [x, y] = [rank(a), rank(b)]; const at = x.findIndex((v, i) => v !== y[i]); return at < 0 ? 0 : x[at] < y[at] ? -1 : 1; };
  showRows($("peers-rows"), [...state.tables.peers.values()].sort(order), "node_id", PEER, "peer");
}

function showRequests() {
  const rows = [...state.tables.requests.values()].sort((a, b) => b.asked_ms - a.asked_ms);
  showRows($("requests-rows"), rows, "request_id", REQUEST, "request");
}

function showServed() {
  const rows = [...state.tables.served.values()].sort((a, b) => b.accepted_ms - a.accepted_ms);
  $("served").hidden = rows.length === 0;
  showRows($("served-rows"), rows, "request_id", SERVED, "served-request");
}

// Newest first. What was there before the page was is not read aloud.
function showLog(whole) {
  const log = $("log");
  if (whole) log.setAttribute("aria-busy", "true");
  const there = new Map([...log.children].map((line) => [Number(line.dataset.key), line]));
  const shown = [...state.tables.log.values()].sort((a, b) => b.number - a.number);
  shown.forEach((line, at) => {
    const item = there.get(line.number) ?? logLine(line);
    there.delete(line.number);
    if (log.children[at] !== item) log.insertBefore(item, log.children[at] ?? null);
  });
  for (const item of there.values()) item.remove();
  if (whole) log.removeAttribute("aria-busy");
}

function logLine(line) {
  const item = make("li", "", line.kind);
  const at = make("time", clock(line.at_ms));
  at.dateTime = new Date(line.at_ms).toISOString();
  item.append(at, make("span", line.text, "what"));
  Object.assign(item.dataset, { key: line.number, testid: "log-line" });
  return item;
}

// --- this node ---

function showOwn(node) {
  const own = { ...node, models: node.models.join(", ") || "none", addresses: node.addresses.join(", ") || NOTHING, version: state.version };
  for (const element of document.querySelectorAll("[data-own]")) if (element.dataset.own in own) put(element, own[element.dataset.own]);
  put($("whoami"), `${node.name} · ${node.role} · ${node.node_id.slice(0, SHORT_ID)}`);
  document.title = `${plain(node.name)} · llama-gossip`;
}

function age() {
  for (const row of $("peers-rows").children) {
    const peer = state.tables.peers.get(row.dataset.key);
    if (peer) put(row.querySelector('[data-field="last_seen_s"]'), seen(peer));
  }
  if (state.began !== undefined) put(document.querySelector('[data-own="uptime"]'), span((performance.now() - state.began) / 1000));
}
setInterval(age, 1000);

async function ticket() {
  const response = await ask("api/status");
  if (!response.ok) throw new Error(await refusalOf(response));
  return (await response.json()).ticket;
}

function showTicket(text, visible) {
  put($("ticket"), text);
  $("ticket").hidden = !visible;
  $("ticket-show").setAttribute("aria-expanded", String(visible));
  put($("ticket-show"), visible ? "Hide ticket" : "Show ticket");
}

$("ticket-show").addEventListener("click", async () => {
  if (!$("ticket").hidden) return showTicket("", false);
  try {
    showTicket(await ticket(), true);
  } catch (error) {
    put($("ticket-told"), `The ticket could not be read: ${error.message}`);
  }
});

$("ticket-copy").addEventListener("click", async () => {
  try {
    const text = await ticket();
    try {
      await navigator.clipboard.writeText(text);
      put($("ticket-told"), "Copied.");
    } catch { // no permission, or a page that is neither local nor encrypted
      showTicket(text, true);
      getSelection().selectAllChildren($("ticket"));
      put($("ticket-told"), "Selected: copy it with the keyboard.");
    }
  } catch (error) {
    put($("ticket-told"), `The ticket could not be read: ${error.message}`);
  }
});

if (access.keyed) {
  for (const id of ["ticket-show", "ticket-copy", "ticket-help"]) $(id).hidden = true;
  $("ticket-none").hidden = false;
}

// --- chat ---

const chat = { messages: [], running: null };

function showModels(names) {
  const select = $("model");
  const wanted = names.length ? names : [""];
  if (wanted.join("\n") === [...select.options].map((o) => o.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((name) => Object.assign(make("option", name || "no model is served"), { value: name })));
  if (names.includes(chosen)) select.value = chosen;
  select.disabled = names.length === 0;
  $("send").disabled = names.length === 0 || chat.running !== null;
}

function say(text, className) {
  const item = make("li", "", className);
  item.append(make("div", text, "text"));
  $("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  return item;
}

function follows(change) {
  const talk = $("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
  change();
  if (atEnd) talk.scrollTop = talk.scrollHeight;
}

function busy(controller) {
  chat.running = controller;
  $("stop").hidden = controller === null;
  $("send").disabled = controller !== null || $("model").disabled;
  $("talk").setAttribute("aria-busy", String(controller !== null));
}

async function converse(text) {
  say(text, "said");
  const question = { role: "user", content: text };
  const controller = new AbortController();
  const item = say("", "heard");
  item.dataset.testid = "answer";
  const heard = { text: "", began: performance.now(), first: null, usage: null, facts: null };
  busy(controller);
  try {
    await stream([...chat.messages, question], controller.signal, heard, item.firstElementChild);
  } catch (error) {
    const stopped = error.name === "AbortError";
    follows(() => item.append(make("p", stopped ? "Stopped." : sentence(error), stopped ? "facts-of" : "refusal")));
  } finally {
    busy(null);
  }
  if (heard.text) chat.messages.push(question, { role: "assistant", content: heard.text });
  follows(() => item.append(make("p", factsOf(heard), "facts-of")));
}

async function stream(messages, signal, heard, shown) {
  const body = { model: $("model").value, messages, stream: true, stream_options: { include_usage: true } };
  const response = await ask("v1/chat/completions", { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await refusalOf(response));
  for await (const { data } of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) heard.usage = chunk.usage;
    if (chunk.llama_gossip) heard.facts = chunk.llama_gossip;
    const piece = chunk.choices[0]?.delta?.content;
    if (!piece) continue;
    heard.first ??= performance.now() - heard.began;
    heard.text += piece;
    follows(() => shown.append(plain(piece)));
  }
  throw new Error("the stream ended before the answer was complete");
}

function sentence(error) {
  const message = error instanceof TypeError ? "the gateway cannot be reached" : error.message;
  return `${message[0].toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
}

function factsOf({ usage, first, facts }) {
  const parts = [];
  if (facts?.worker) parts.push(state.tables.peers.get(facts.worker)?.name ?? (facts.worker === state.node?.node_id ? state.node.name : facts.worker.slice(0, SHORT_ID)));
  if (usage) parts.push(many(usage.completion_tokens, "token"));
  if (first !== null) parts.push(`first token after ${Math.round(first)} ms`);
  if (facts?.attempts > 1) parts.push(`${facts.attempts} attempts`);
  return parts.join(" · ");
}

$("ask").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const text = $("message").value.trim();
  if (!text || $("send").disabled) return;
  $("message").value = "";
  converse(text);
});

$("message").addEventListener("keydown", (pressed) => {
  if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
  pressed.preventDefault();
  $("ask").requestSubmit();
});

$("stop").addEventListener("click", () => chat.running?.abort());
$("clear").addEventListener("click", () => {
  chat.running?.abort();
  chat.messages = [];
  $("talk").replaceChildren();
  $("message").focus();
});

// --- beginning ---

showModels([]);
if (access.keyed && !access.key) askForKey("");
else follow();
