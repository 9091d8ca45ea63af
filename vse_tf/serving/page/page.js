// The search page. Words and photos become vectors by TensorFlow Serving's REST calls; the gallery's own routes find the
// nearest items. Foreign text reaches the page as textContent only.

const COUNT = 48;
const get = (id) => document.getElementById(id);
const [form, words, photo, status, results, hint, drop] =
  ["search", "words", "photo", "status", "results", "hint", "drop"].map(get);
const [query, queryPicture, queryName] = ["query", "query-picture", "query-name"].map(get);

let gallery = null;
let asked = 0; // number of the newest question: answers to older ones are dropped

function say(text, error = false) {
  status.textContent = text;
  status.classList.toggle("error", error);
}

async function call(address, body) {
  const options = body === undefined ? {} :
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("the server does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
}

// One row of TensorFlow Serving's predict call.
async function embed(model, instance) {
  const answer = await call(`v1/models/${encodeURIComponent(model)}:predict`, { instances: [instance] });
  const row = answer.predictions[0];
  return Array.isArray(row) ? row : row.embedding;
}

const nearest = (question) => call("gallery/nearest", { ...question, k: COUNT });

async function ask(title, find) {
  const number = ++asked;
  results.setAttribute("aria-busy", "true");
  say("searching…");
  try {
    const started = performance.now();
    const answer = await find();
    if (number !== asked) return;
    show(answer.items);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    say(`${answer.items.length} of ${gallery.count.toLocaleString("en")} for ${title} (${seconds} s)`);
    document.title = `${title} – vse_tf search`;
  } catch (error) {
    if (number === asked) say(error.message, true);
  } finally {
    if (number === asked) results.setAttribute("aria-busy", "false");
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(item) {
  const image = element("img");
  image.alt = item.id;
  image.loading = "lazy";
  image.src = `gallery/thumbnails/${item.row}`;
  image.addEventListener("error", () => image.replaceWith(element("span", "no-picture", "no picture")));
  return image;
}

function show(items) {
  hint.hidden = true;
  results.replaceChildren(...items.map((item, place) => {
    const button = element("button");
    button.type = "button";
    button.title = "Search on from this";
    if (gallery.kind === "images") button.append(picture(item));
    button.append(element("span", "name", item.caption ?? item.id));
    button.append(element("span", "score", `${place + 1} · ${item.score.toFixed(3)}`));
    button.addEventListener("click", () => { location.hash = new URLSearchParams({ row: item.row }); });
    const entry = element("li");
    entry.append(button);
    return entry;
  }));
  window.scrollTo({ top: 0 });
}

function showQuery(source, name) {
  if (queryPicture.src.startsWith("blob:")) URL.revokeObjectURL(queryPicture.src);
  query.hidden = !name;
  queryPicture.hidden = !source;
  if (source) queryPicture.src = source; else queryPicture.removeAttribute("src");
  queryName.textContent = name || "";
}

function searchWords(text) {
  words.value = text;
  showQuery();
  ask(`“${text}”`, async () => nearest({ vector: await embed(gallery.models.text, text) }));
}

function searchRow(row) {
  words.value = "";
  ask(`item ${row}`, async () => {
    const answer = await nearest({ row });
    showQuery(gallery.kind === "images" ? `gallery/thumbnails/${row}` : "", answer.query.caption ?? answer.query.id);
    return answer;
  });
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function searchPhoto(file) {
  words.value = "";
  history.replaceState(null, "", location.pathname + location.search);
  showQuery(URL.createObjectURL(file), file.name || "pasted photo");
  ask(file.name || "the pasted photo", async () =>
    nearest({ vector: await embed(gallery.models.image, { b64: await base64(file) }) }));
}

// The address holds the question, so that back, forward and reload work.
function followAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.get("q")) searchWords(asked.get("q"));
  else if (/^\d+$/.test(asked.get("row") ?? "")) searchRow(Number(asked.get("row")));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = words.value.trim();
  if (!text) return;
  const address = `#${new URLSearchParams({ q: text })}`;
  if (location.hash === address) searchWords(text); else location.hash = address;
});
photo.addEventListener("change", () => {
  if (photo.files.length) searchPhoto(photo.files[0]);
  photo.value = "";
});
window.addEventListener("hashchange", followAddress);

// Photos from outside: dropped or pasted.
const filesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
let inside = 0;
document.addEventListener("dragenter", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  inside += 1;
  drop.hidden = false;
});
document.addEventListener("dragleave", () => {
  inside = Math.max(0, inside - 1);
  drop.hidden = inside === 0;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  drop.hidden = true;
  const [file] = filesOf(event.dataTransfer);
  if (file) searchPhoto(file); else say("that is no photo", true);
});
document.addEventListener("paste", (event) => {
  const [file] = filesOf(event.clipboardData);
  if (file) searchPhoto(file);
});

// The keyboard: "/" to the box, arrows between results.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.activeElement !== words) {
    event.preventDefault();
    words.focus();
    words.select();
    return;
  }
  const buttons = [...results.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  if (document.activeElement === words && event.key === "ArrowDown" && buttons.length) {
    event.preventDefault();
    buttons[0].focus();
    return;
  }
  if (at < 0) return;
  const top = buttons[0].getBoundingClientRect().top;
  const columns = Math.max(1, buttons.filter((button) => button.getBoundingClientRect().top === top).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  if (at + step < 0) words.focus(); else buttons[Math.min(at + step, buttons.length - 1)].focus();
});

try {
  gallery = await call("gallery");
  say(`${gallery.count.toLocaleString("en")} ${gallery.kind === "images" ? "photos" : "captions"}`);
  followAddress();
} catch (error) {
  say(error.message, true);
}
