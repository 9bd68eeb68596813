// Of the dashboard: the chat. It speaks to the gateway as any OpenAI client does.

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
    const visible = heard.text ? plain(piece) : plain(piece).trimStart();
    heard.text += piece;
    follows(() => shown.append(visible));
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
