// Where conversations are kept: the browser's database, or this tab's memory if the browser has none to give.

const NAME = "ds4";
const TABLE = "conversations";
const others = new BroadcastChannel("ds4-conversations");

let database = null;
const memory = new Map();

/** Opens it. Says false if conversations will be lost with this tab. */
export async function open() {
  try {
    database = await new Promise((resolve, reject) => {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return true;
  } catch {
    return false;
  }
}

function run(mode, action) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(TABLE, mode);
    const request = action(transaction.objectStore(TABLE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the one last changed first. */
export async function all() {
  const found = database ? await run("readonly", (table) => table.getAll()) : [...memory.values()];
  return found.sort((a, b) => b.updated - a.updated);
}

export async function get(id) {
  return database ? run("readonly", (table) => table.get(id)) : memory.get(id);
}

/**
 * Keeps a conversation as it is now.
 *
 * @throws {Error} if there is no room
 */
export async function put(conversation) {
  if (database) await run("readwrite", (table) => table.put(conversation));
  else memory.set(conversation.id, conversation);
  others.postMessage({ changed: conversation.id });
}

export async function remove(id) {
  if (database) await run("readwrite", (table) => table.delete(id));
  else memory.delete(id);
  others.postMessage({ removed: id });
}

/** Calls back when another tab changes something. */
export function onOthers(callback) {
  others.onmessage = (event) => callback(event.data);
}
