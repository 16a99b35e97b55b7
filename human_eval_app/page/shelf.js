// What this browser remembers. In a private window where nothing can be stored, it remembers until the page is closed.

const memory = new Map();

function storage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

/** The name of a stored thing; parts may hold any text. */
export function shelfKey(...parts) {
  return ["pixeval", ...parts.map((part) => encodeURIComponent(String(part)))].join("|");
}

/** @returns {*} the value kept under `key`, or null */
export function recall(key) {
  try {
    const text = storage()?.getItem(key) ?? memory.get(key) ?? null;
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

/** Keeps `value`, which must be JSON. */
export function keep(key, value) {
  const text = JSON.stringify(value);
  try {
    storage().setItem(key, text);
    memory.delete(key);
  } catch {
    memory.set(key, text);
  }
}

/** Forgets what was kept under `key`. */
export function forget(key) {
  memory.delete(key);
  try {
    storage()?.removeItem(key);
  } catch {
    /* nothing was stored */
  }
}

/** @returns {string[]} the keys that begin with `prefix` */
export function keysOf(prefix) {
  const found = [...memory.keys()];
  try {
    const shelf = storage();
    for (let i = 0; i < shelf.length; i += 1) found.push(shelf.key(i));
  } catch {
    /* memory alone */
  }
  return [...new Set(found)].filter((key) => key.startsWith(prefix));
}
