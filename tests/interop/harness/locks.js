/**
 * The Web Locks API (https://w3c.github.io/web-locks/) as far as the clients use it: exclusive and shared locks by name,
 * granted in the order of the requests, `ifAvailable`, `signal` and `query()`.
 */
export class LockManager {
  /** name → { held: Set of locks, waiting: array of requests in order } */
  #queues = new Map();

  request(name, optionsOrCallback, maybeCallback) {
    const callback = maybeCallback ?? optionsOrCallback;
    const { mode = 'exclusive', ifAvailable = false, signal } = maybeCallback ? optionsOrCallback : {};
    if (signal?.aborted) return Promise.reject(signal.reason);

    const queue = this.#queue(name);
    return new Promise((resolve, reject) => {
      const request = { lock: { name, mode }, callback, resolve, reject };
      if (ifAvailable && (queue.waiting.length > 0 || !grantable(queue, mode))) {
        settle(() => callback(null), resolve, reject);
        return;
      }
      signal?.addEventListener('abort', () => {
        const index = queue.waiting.indexOf(request);
        if (index === -1) return;
        queue.waiting.splice(index, 1);
        reject(signal.reason);
        this.#grant(queue);
      });
      queue.waiting.push(request);
      this.#grant(queue);
    });
  }

  async query() {
    const queues = [...this.#queues.values()];
    return {
      held: queues.flatMap((queue) => [...queue.held]),
      pending: queues.flatMap((queue) => queue.waiting.map((request) => request.lock)),
    };
  }

  #queue(name) {
    if (!this.#queues.has(name)) this.#queues.set(name, { held: new Set(), waiting: [] });
    return this.#queues.get(name);
  }

  #grant(queue) {
    while (queue.waiting.length > 0 && grantable(queue, queue.waiting[0].lock.mode)) {
      const { lock, callback, resolve, reject } = queue.waiting.shift();
      queue.held.add(lock);
      const released = () => {
        queue.held.delete(lock);
        this.#grant(queue);
      };
      settle(
        () => callback(lock),
        (value) => (released(), resolve(value)),
        (error) => (released(), reject(error)),
      );
    }
  }
}

function grantable(queue, mode) {
  return queue.held.size === 0 || (mode === 'shared' && [...queue.held].every((lock) => lock.mode === 'shared'));
}

// A callback runs in a task of its own, never inside the call that asked for the lock.
function settle(run, resolve, reject) {
  Promise.resolve().then(run).then(resolve, reject);
}
