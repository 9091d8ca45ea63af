// The search page. TensorFlow Serving's REST calls embed texts and images; the gallery's own routes find the nearest
// items. Text from the index is only ever set as textContent or value.

const COUNT = 48; // results at a time
const MOST = 1000; // results that the server gives at most
const NO_WORD = "\ua66e\ua66e\ua66e"; // of no language
const STORED = 4_000_000; // characters of an image that outlives a reload

const get = (id) => document.getElementById(id);
const [form, textInput, withoutInput, imageInput, status, results, more, hint, drop] =
  ["search", "text", "without", "image", "status", "results", "more", "hint", "drop"].map(get);
const [queryPicture, queryCaption, remove] = ["query-picture", "query-caption", "remove"].map(get);
const [large, largePicture, largeName, noPicture, path, copied] =
  ["large", "large-picture", "large-name", "no-picture", "path", "copied"].map(get);

let gallery = null;
let newest = 0; // number of the newest search: results of older ones are ignored
let shown = { items: [], question: null, title: "", unknown: [] };
let current = 0; // number of the result in the dialog
let like = {}; // the image or the result that words are added to, as in the address
const images = new Map(); // uploaded images by their name in the address

function say(text, error = false) {
  status.textContent = text;
  status.classList.toggle("error", error);
}

// --- The server ---

class ServerError extends Error {
  constructor(code, detail) {
    super(detail);
    this.code = code;
  }
}

async function call(address, body) {
  const options = body === undefined ? {} :
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new ServerError(0, "");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ServerError(response.status, String(answer.error ?? ""));
  return answer;
}

// What the server says is for programmers; this is for people.
function sentence(error) {
  if (!(error instanceof ServerError)) return error.message;
  const reason = /image_bytes\[0\]: ([^;\]\n]*)/.exec(error.message)?.[1];
  if (reason?.includes("max_pixels") || reason?.includes(" pixels")) return "This image has too many pixels.";
  if (reason) return `This image cannot be read: ${reason}.`;
  return {
    0: "The server does not answer. Is it still running?",
    403: "The server does not answer under this address; open it as localhost.",
    404: "The server has no model for this kind of search.",
    409: "The images have changed on the disk; start the server again.",
    413: "This is too large for the server.",
    429: "The server is busy; try again in a moment.",
    503: "The server is busy; try again in a moment.",
  }[error.code] ?? "The server could not answer this search.";
}

async function isLoading(model) {
  const { model_version_status: versions } = await call(`v1/models/${encodeURIComponent(model)}`);
  return versions.some((version) => version.state === "LOADING");
}

// One row of TensorFlow Serving's predict call.
async function embed(model, instance) {
  const number = newest;
  for (;;) {
    try {
      const answer = await call(`v1/models/${encodeURIComponent(model)}:predict`, { instances: [instance] });
      const row = answer.predictions[0];
      return Array.isArray(row) ? row : row.embedding;
    } catch (error) {
      if (error.code !== 404 || number !== newest || !(await isLoading(model))) throw error;
      if (number === newest) say("The model is being loaded…");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

// An image that the model does not read the server may convert; it sends a picture of it that the browser can show.
async function embedImage(image) {
  const [number, instance] = [newest, { b64: image.data.slice(image.data.indexOf(",") + 1) }];
  try {
    return await embed(gallery.models.image, instance);
  } catch (error) {
    if (!/image_bytes\[0\]: (not a JPEG|a HEIC)/.test(error.message)) throw error;
  }
  const { vector, picture } = await call("gallery/photo", instance);
  if (number === newest) queryPicture.src = `data:image/jpeg;base64,${picture}`;
  return vector;
}

const nearest = (question, count) => call("gallery/nearest", { ...question, k: Math.min(count, MOST) });

// --- Searching ---

// Results stay only as long as their query: they go before anything else happens.
function clear() {
  shown = { items: [], question: null, title: "", unknown: [] };
  results.replaceChildren();
  more.hidden = true;
  hint.hidden = true;
  if (large.open) large.close();
  document.title = "vse_tf search";
}

function start(typed = {}) {
  newest += 1;
  clear();
  showQuery(typed);
  hint.hidden = false;
  if (gallery) say(`${gallery.count.toLocaleString("en")} ${gallery.kind}`);
}

function fail(error) {
  console.error(error);
  clear();
  // After a fault of the server the same query can be sent again; an image that is at fault is dropped.
  if (!(error instanceof ServerError) || /image_bytes\[0\]: /.test(error.message)) showLike({});
  results.setAttribute("aria-busy", "false");
  say(sentence(error), true);
}

// `find` gives what to ask the gallery for, `check` sees the answer before it is shown.
async function search(title, find, check = () => {}) {
  const number = ++newest;
  clear();
  results.setAttribute("aria-busy", "true");
  say("Searching…");
  try {
    gallery ??= await call("gallery");
    const { unknown, ...question } = await find();
    const answer = await nearest(question, COUNT);
    if (number !== newest) return;
    check(answer);
    shown = { items: [], question, title, unknown };
    add(answer.items);
    results.setAttribute("aria-busy", "false");
    document.title = `${title} – vse_tf search`;
    window.scrollTo({ top: 0 });
  } catch (error) {
    if (number === newest) fail(error);
  }
}

more.addEventListener("click", async () => {
  const [number, before] = [newest, shown.items.length];
  more.disabled = true;
  try {
    const answer = await nearest(shown.question, before + COUNT);
    if (number !== newest) return;
    add(answer.items.slice(before));
    results.children[before]?.firstChild.focus({ preventScroll: true });
  } catch (error) {
    if (number === newest) say(sentence(error), true);
  } finally {
    more.disabled = false;
  }
});

function add(items) {
  const first = shown.items.length;
  shown.items.push(...items);
  results.append(...items.map((item, index) => card(item, first + index)));
  more.hidden = shown.items.length >= Math.min(gallery.count, MOST);
  const best = shown.items[0]?.relevance ?? 1;
  const notes = shown.unknown.map((words) => `No word of “${words}” is in the vocabulary. `);
  if (best < gallery.min_relevance) notes.push("No relevant result. The nearest: ");
  const count = gallery.count.toLocaleString("en");
  say(`${notes.join("")}${shown.items.length} of ${count} ${gallery.kind} ${shown.title}`);
}

function element(name, className, text) {
  const created = document.createElement(name);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

function card(item, number) {
  const button = element("button");
  button.type = "button";
  if (gallery.kind === "images") {
    const image = element("img");
    image.alt = ""; // its name follows
    image.loading = "lazy";
    image.src = `gallery/thumbnails/${item.row}`;
    image.addEventListener("error", () => image.replaceWith(element("span", "no-picture", "no picture")));
    button.append(image);
  }
  button.append(element("span", "name", item.caption ?? item.id));
  const relevance = typeof item.relevance === "number" ? ` · ${Math.round(100 * item.relevance)} %` : "";
  button.append(element("span", "score", `${number + 1} · ${item.score.toFixed(3)}${relevance}`));
  button.addEventListener("click", () => showLarge(number));
  const entry = element("li");
  entry.append(button);
  return entry;
}

// The image that outlives a reload, by its name in the address; a browser may forbid to keep any.
function stored() {
  try {
    return JSON.parse(sessionStorage.getItem("image")) ?? {};
  } catch {
    return {};
  }
}

// A query, as the address names it: words (q), an image or a result (row, item), and what to leave out.
function showQuery(query, picture) {
  textInput.value = query.q ?? "";
  withoutInput.value = query.without ?? "";
  showLike(query, picture);
}

// The image or the result alone: when an answer comes, other words may already have been typed.
function showLike({ image, row, item }, picture, caption) {
  like = image ? { image } : row ? { row, item } : {};
  remove.hidden = !(image || row);
  queryPicture.hidden = !picture;
  if (picture) queryPicture.src = picture; else queryPicture.removeAttribute("src");
  queryCaption.hidden = !caption;
  queryCaption.textContent = caption ?? "";
}

function titleOf({ q, without, image, row, item }) {
  const name = image ? images.get(image)?.name ?? stored()[image]?.name ?? "an image" :
    gallery?.kind === "captions" ? "this one" : item;
  const wanted = [q && `for “${q}”`, (image || row) && `like ${name}`].filter(Boolean).join(" and ");
  return without ? `${wanted}, without “${without}”` : wanted;
}

function searchFor(query) {
  const { q, without, image: key, row, item } = query;
  const image = key && (images.get(key) ?? stored()[key]);
  showQuery(query, image?.data);
  const unknown = [];
  const text = async (words, weight) => {
    // A text of which no word is known has the vector of as many words of no language.
    const nonsense = words.match(/[\p{L}\p{M}\p{N}]+/gu)?.map(() => NO_WORD).join(" ") ?? "";
    const [vector, other] = await Promise.all([words, nonsense].map((each) => embed(gallery.models.text, each)));
    const known = !nonsense || vector.some((value, place) => Math.abs(value - other[place]) >= 1e-5);
    if (!known) unknown.push(words);
    return { vector, weight, known };
  };
  search(titleOf(query), async () => {
    if (key && !image) throw new Error("The image that was searched for is not kept any longer; choose it again.");
    const parts = [];
    if (q) parts.push(await text(q, 1));
    if (image) {
      parts.push({ vector: await embedImage(image), of: "images" });
    }
    if (row) parts.push({ row: Number(row) });
    if (without) parts.push(await text(without, -1));
    return { parts, unknown };
  }, ({ query: found }) => {
    if (!row) return;
    if (found.id !== item) throw new Error(`“${item}” is no longer in its place; search for it again.`);
    showLike(query, gallery.kind === "images" ? `gallery/thumbnails/${row}` : "", found.caption);
  });
}

// The address names the query, so that back, forward and reload work.
function followAddress(typed) {
  const query = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!/^\d{1,15}$/.test(query.row ?? "")) delete query.row;
  if (query.q || query.row || query.image) searchFor(query); else start(typed);
}

function go(query) {
  const address = `#${new URLSearchParams(Object.entries(query).filter(([, value]) => value !== ""))}`;
  if (location.hash === address) followAddress(); else location.hash = address;
}

window.addEventListener("hashchange", () => followAddress());

function ask() {
  const [q, without] = [textInput.value.trim(), withoutInput.value.trim()];
  if (q || like.image || like.row) {
    // On a touch screen the keyboard covers the results.
    if (matchMedia("(pointer: coarse)").matches) document.activeElement.blur();
    go({ q, ...like, without });
  } else {
    history.pushState(null, "", location.pathname);
    start();
    withoutInput.value = without;
    say("Type what to look for.");
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
remove.addEventListener("click", () => {
  like = {};
  textInput.focus();
  ask();
});

// --- Images that are chosen, dropped or pasted ---

// Not every browser knows the type of the photos that phones take.
const isImage = (file) => file?.type.startsWith("image/") || /\.(heic|heif|avif|tiff?)$/i.test(file?.name);

async function chooseImage(file) {
  if (!isImage(file)) {
    history.pushState(null, "", location.pathname);
    start();
    fail(new Error(file ? `“${file.name}” is not an image.` : "This is not an image."));
    return;
  }
  const data = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
  const [key, image] = [Date.now().toString(36), { name: file.name || "the pasted image", data }];
  images.set(key, image);
  try {
    sessionStorage.setItem("image", data.length > STORED ? "{}" : JSON.stringify({ [key]: image }));
  } catch {
    // After a reload, the image has to be chosen again.
  }
  go({ image: key });
}

imageInput.addEventListener("change", () => {
  if (imageInput.files.length) chooseImage(imageInput.files[0]);
  imageInput.value = "";
});

let depth = 0; // of elements that a dragged file is over
document.addEventListener("dragenter", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  depth += 1;
  drop.hidden = false;
});
document.addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  drop.hidden = depth === 0;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  drop.hidden = true;
  const files = [...event.dataTransfer.files];
  chooseImage(files.find(isImage) ?? files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find(isImage);
  if (file) chooseImage(file);
});

// --- A result, large ---

function showLarge(number) {
  current = number;
  const item = shown.items[number];
  const isImage = gallery.kind === "images";
  get("stage").hidden = !isImage;
  noPicture.hidden = true;
  largePicture.hidden = false;
  if (isImage) {
    // The small picture is there at once.
    largePicture.src = `gallery/thumbnails/${item.row}`;
    largePicture.alt = item.id;
    const image = new Image();
    image.src = `gallery/images/${item.row}`;
    image.decode().then(() => { if (current === number && large.open) largePicture.src = image.src; }, () => {});
  }
  largeName.textContent = item.caption ?? item.id;
  path.setAttribute("aria-label", isImage ? "Path of the image" : "Text");
  path.value = item.caption ?? item.path ?? item.id;
  get("copy").textContent = isImage ? "Copy path" : "Copy text";
  copied.textContent = `${number + 1} of ${shown.items.length} ${shown.title}`;
  if (!large.open) large.showModal();
}

const turn = (step) => showLarge((current + step + shown.items.length) % shown.items.length);

async function copy() {
  try {
    await navigator.clipboard.writeText(path.value);
  } catch {
    // Browsers have the clipboard's API for https and localhost only.
    path.select();
    document.execCommand("copy");
  }
  copied.textContent = "Copied.";
}

queryPicture.addEventListener("error", () => { queryPicture.hidden = true; });
largePicture.addEventListener("error", () => { largePicture.hidden = true; noPicture.hidden = false; });
get("previous").addEventListener("click", () => turn(-1));
get("next").addEventListener("click", () => turn(1));
get("copy").addEventListener("click", copy);
get("close").addEventListener("click", () => large.close());
get("similar").addEventListener("click", () => {
  const { row, id } = shown.items[current];
  large.close();
  go({ row, item: id });
});
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("close", () => {
  largePicture.removeAttribute("src");
  results.children[current]?.firstChild.focus();
});

// --- The keyboard: "/" moves to the search box, arrow keys between results ---

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (large.open) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && document.activeElement !== path) turn(step);
    return;
  }
  if (event.key === "/" && document.activeElement.type !== "search") {
    event.preventDefault();
    textInput.focus();
    textInput.select();
    return;
  }
  const buttons = [...results.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  if (document.activeElement === textInput && event.key === "ArrowDown" && buttons.length) {
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
  if (at + step < 0) textInput.focus(); else buttons[Math.min(at + step, buttons.length - 1)].focus();
});

try {
  gallery = await call("gallery");
  followAddress({ q: textInput.value, without: withoutInput.value });
} catch (error) {
  fail(error);
}
