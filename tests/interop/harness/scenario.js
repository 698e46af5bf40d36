import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { Client } from './client.js';
import { clocks, contents } from './contents.js';
import { converged } from './convergence.js';
import { DatabaseFile } from './database-file.js';
import { digest } from './digest.js';
import { Relay } from './relay.js';
import { SyncServer } from './server.js';

const LOG_LINES_SHOWN = 60;

/** A test with a stage of its own. It fails, too, if a client's listener threw. */
export function scenario(name, play) {
  test(name, async (t) => {
    const stage = new Stage();
    try {
      await play(stage);
      stage.assertNoExceptions();
    } catch (error) {
      for (const line of stage.describe().split('\n')) t.diagnostic(line);
      throw error;
    } finally {
      await stage.clear();
    }
  });
}

/** The folders, servers and clients of one test. */
class Stage {
  #folder = mkdtempSync(join(tmpdir(), 'sync-interop-'));
  #servers = [];
  #clients = [];
  #relays = [];

  get dbFolder() {
    return this.#made('dbs');
  }

  get schemaFolder() {
    return this.#made('schemas');
  }

  /** Puts a schema file where the server looks for it. */
  publish({ schemaName, schema }) {
    writeFileSync(join(this.schemaFolder, schemaName), schema);
  }

  /** Starts a server over the stage's folders. `memory`: with rooms in memory. */
  async server({ memory = false, ...options } = {}) {
    const server = new SyncServer({
      dbFolder: memory ? undefined : this.dbFolder,
      schemaFolder: this.schemaFolder,
      logFile: join(this.#folder, `server-${this.#servers.length}.log`),
      ...options,
    });
    this.#servers.push(server);
    await server.start();
    return server;
  }

  /** Opens a link of its own to a server. */
  async relay(server, options) {
    const relay = await Relay.open(server.url, options);
    this.#relays.push(relay);
    return relay;
  }

  async client(name, schema) {
    const client = await Client.open(name, schema);
    this.#clients.push(client);
    return client;
  }

  /** Waits until all clients hold the same rows, and as many or such as `also` says. */
  async agreed(clients, also, { deadline } = {}) {
    await converged(clients, { also, deadline });
  }

  /** Where the file of a room is. */
  file(room) {
    return join(this.dbFolder, room);
  }

  /**
   * The end of a scenario: all clients agree, a client that comes now gets the same, and once the server has
   * stopped its file holds the same rows and the same clocks.
   */
  async settle({ server, room, schema, clients, token, also, deadline }) {
    await converged(clients, { also, deadline });
    const newcomer = await this.client('newcomer', schema);
    await newcomer.connect({ url: server.url, room, token });
    const everyone = [...clients, newcomer];
    await converged(everyone, { deadline });
    await server.stop();
    await this.assertFile(room, everyone);
  }

  /** The room's file holds the same rows and the same clocks as the clients, and so do the digests say. The server must have stopped. */
  async assertFile(room, clients) {
    const file = await DatabaseFile.open(this.file(room));
    try {
      const rows = await contents(file);
      const clock = await clocks(file);
      const expected = await digest(file);
      for (const client of clients) {
        assert.deepEqual(await contents(client), rows, `${client.name} and the server's file hold the same rows`);
        assert.deepEqual(await clocks(client), clock, `${client.name} and the server's file hold the same clocks`);
        assert.equal(await digest(client), expected, `${client.name} and the server's file have the same digest`);
      }
    } finally {
      await file.close();
    }
  }

  assertNoExceptions() {
    for (const client of this.#clients) {
      assert.deepEqual(client.network.exceptions, [], `a listener of ${client.name} threw`);
    }
  }

  describe() {
    const clients = this.#clients.map((client) => `${client.name} (site ${client.siteId}):\n${client.network.describe()}`);
    const servers = this.#servers.map((server) => `server:\n${server.log().split('\n').slice(-LOG_LINES_SHOWN).join('\n')}`);
    return [...clients, ...servers].join('\n');
  }

  async clear() {
    await Promise.all(this.#clients.map((client) => client.close()));
    for (const relay of this.#relays) relay.close();
    await Promise.all(this.#servers.filter((server) => server.isRunning).map((server) => server.kill()));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #made(name) {
    const folder = join(this.#folder, name);
    mkdirSync(folder, { recursive: true });
    return folder;
  }
}
