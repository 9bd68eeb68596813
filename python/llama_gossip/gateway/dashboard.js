// The dashboard: one stream of the node's state comes in, and the page is what it says.

// --- the state, and its stream ---

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
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
  age();
}

function showConnection(kind, text) {
  $("connection").className = `mark ${kind}`;
  put($("connection"), text);
}

let following = false;

async function follow() {
  if (following) return;
  following = true;
  const refused = await followToTheEnd();
  following = false;
  askForKey(refused);
}

// The end is that the key is refused; the answer is why.
async function followToTheEnd() {
  for (let tries = 0; ; tries += 1) {
    try {
      const response = await ask("api/events");
      if (response.status === 401) return "This key was refused.";
      if (!response.ok) throw new Error(await refusalOf(response));
      admit();
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

function admit() {
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

const rate = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1));

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
  put($("plot-now"), `${rate(now)} tok/s${makes ? `, makes ${rate(madeNow)}` : ""}`);
  const peak = Math.max(...throughput, ...made);
  put($("plot-most"), peak ? `last minute, most ${rate(peak)}` : "no tokens in the last minute");
  $("plot-image").setAttribute("aria-label", `Tokens a second to this node over the last minute: now ${rate(now)}, most ${rate(peak)}`);
}

// --- what is in the tables ---

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
const MARKS = { "": "running", stop: "good", length: "good", done: "good", cancelled: "calm" };
const outcomeOf = (outcome) => MARKS[outcome] ?? "failed";
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
  const rank = (p) => `${p.models.length ? 0 : 1}${p.name}\n${p.node_id}`; // no name holds a line end
  const ranked = [...state.tables.peers.values()].map((p) => [rank(p), p]);
  ranked.sort(([a], [b]) => (a < b ? -1 : 1));
  showRows($("peers-rows"), ranked.map(([, p]) => p), "node_id", PEER, "peer");
}

function showRequests() {
  const running = (r) => (r.outcome === "" ? 0 : 1);
  const rows = [...state.tables.requests.values()];
  rows.sort((a, b) => running(a) - running(b) || b.asked_ms - a.asked_ms);
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

// --- beginning ---

document.documentElement.dataset.script = "runs";
showModels([]);
if (access.keyed && !access.key) askForKey("");
else follow();
