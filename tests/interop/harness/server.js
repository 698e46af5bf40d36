import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as elapsed } from 'node:timers/promises';

/** How long a start or a graceful stop may take, in ms. Generous: the machine may be busy. */
const PATIENCE = 30_000;

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** The example server as a process of its own. */
export class SyncServer {
  #arguments;
  #logFile;
  #logLevel;
  #settings;
  #child;
  #base;

  /**
   * @param {object} options
   * @param {string} [options.dbFolder] where the rooms' files are; without it rooms are in memory
   * @param {string} options.schemaFolder
   * @param {string} [options.token] what clients have to present
   * @param {string} options.logFile where everything goes that the server prints to stderr
   * @param {string} [options.logLevel] the server's RUST_LOG
   * @param {object} [options.settings] settings by their names, as `max_frame_bytes`
   */
  constructor({ dbFolder, schemaFolder, token, logFile, logLevel = process.env.RUST_LOG ?? 'debug', settings = {} }) {
    this.#logFile = logFile;
    this.#logLevel = logLevel;
    const variables = Object.entries(settings).map(([name, value]) => [`TOWER_SQLITE_SYNC_${name.toUpperCase()}`, String(value)]);
    this.#settings = Object.fromEntries(variables);
    this.#arguments = [
      ...(dbFolder ? ['--db-folder', dbFolder] : ['--memory']),
      ...['--schema-folder', schemaFolder],
      ...(token ? ['--token', token] : []),
    ];
  }

  /** Where clients connect to. It stays the same over a restart. */
  get url() {
    return `${this.#base.replace('http:', 'ws:')}/sync`;
  }

  get isRunning() {
    return running.has(this.#child);
  }

  /**
   * Starts on a free port the first time, and on the same port again after a stop.
   * @param {object} [options]
   * @param {string[]} [options.fork] the rooms whose files are earlier ones than their clients knew
   */
  async start({ fork = [] } = {}) {
    const binary = process.env.SYNC_SERVER;
    assert.ok(binary, 'SYNC_SERVER has to name the example server: `cargo xtask interop` builds it and sets it');
    assert.ok(!this.isRunning, 'the server is running already');

    const address = this.#base ? new URL(this.#base).host : '127.0.0.1:0';
    const log = openSync(this.#logFile, 'a');
    const forks = fork.flatMap((room) => ['--fork', room]);
    const child = spawn(binary, ['--listen', address, ...this.#arguments, ...forks], {
      stdio: ['ignore', 'pipe', log],
      env: { ...process.env, ...this.#settings, RUST_LOG: this.#logLevel, NO_COLOR: '1' },
    });
    closeSync(log);
    this.#child = child;
    running.add(child);
    child.once('exit', () => running.delete(child));
    this.#base = await within('the server to listen', Promise.race([listening(child), died(child)]));
  }

  /** SIGTERM, and the exit status it has to end in. */
  async stop() {
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    const [status, signal] = await within('the server to stop', exited);
    assert.deepEqual({ status, signal }, { status: 0, signal: null }, 'SIGTERM ends the server with status 0');
  }

  /** SIGKILL: what a crash of the process looks like. */
  async kill() {
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }

  log() {
    return readFileSync(this.#logFile, 'utf8');
  }
}

async function listening(child) {
  const lines = createInterface({ input: child.stdout });
  // The lines after this one are read too, or a full pipe would block the server.
  return new Promise((resolve) => {
    lines.on('line', (line) => {
      const found = /^listening on (http:\/\/\S+?)\/?$/.exec(line);
      if (found) resolve(found[1]);
    });
  });
}

async function died(child) {
  const [error] = await Promise.race([
    once(child, 'exit').then(([status, signal]) => [new Error(`the server ended with ${signal ?? `status ${status}`}`)]),
    once(child, 'error'),
  ]);
  throw error;
}

async function within(what, promise) {
  const timeout = new AbortController();
  const late = elapsed(PATIENCE, undefined, { signal: timeout.signal }).then(() => {
    throw new Error(`waited ${PATIENCE} ms for ${what}`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timeout.abort();
    late.catch(() => {});
  }
}
