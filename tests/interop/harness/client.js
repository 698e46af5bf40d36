import './browser.js';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as elapsed } from 'node:timers/promises';
import initWasm from '@vlcn.io/crsqlite-wasm';
import tblrx from '@vlcn.io/rx-tbl';
import { createDbProvider } from '@vlcn.io/ws-browserdb';
import { createSyncedDB, defaultConfig } from '@vlcn.io/ws-client';
import { Network } from './network.js';

// Node's fetch cannot read file: URLs.
const wasmFile = createRequire(import.meta.url).resolve('@vlcn.io/crsqlite-wasm/crsqlite.wasm');
const wasmUrl = `data:application/wasm;base64,${readFileSync(wasmFile).toString('base64')}`;

/** An application in a browser: its database and its network. What syncs the two is a `Tab`. */
export class Client {
  #db;
  #rx;
  #dbname = crypto.randomUUID();
  #tabs = new Set();

  /** Asked before changes are applied: if it answers true, applying them fails. */
  failsToApply = () => false;
  /** How many applies have failed because of it. */
  failures = 0;

  constructor(name) {
    this.name = name;
    this.network = new Network(name);
  }

  /** Opens the client's database. Nothing is synced before `connect`. */
  static async open(name, { schemaName, schema }) {
    const client = new Client(name);
    const sqlite = await initWasm(() => wasmUrl);
    client.#db = await sqlite.open(client.#dbname);
    await client.#db.automigrateTo(schemaName, schema);
    // Without it the application's writes would not reach the handle that syncs.
    client.#rx = tblrx(client.#db);
    return client;
  }

  /** The site id, as hex digits. */
  get siteId() {
    return this.#db.siteid.toLowerCase();
  }

  /** Starts to sync with a room, as a page does when it loads. A second call is a second tab on the same database. */
  async connect({ url, room, token, network = this.network }) {
    const tab = await Tab.open(this.#dbname, { url: network.address(url), room, authToken: token }, { network, client: this });
    this.#tabs.add(tab);
    return tab;
  }

  /** Ends all syncing, as a page does that is closed. The database stays open. */
  async disconnect() {
    await Promise.all([...this.#tabs].map((tab) => tab.close()));
    this.#tabs.clear();
  }

  /** Brings the database to another schema, as an application does that was updated. Syncing must have ended. */
  async upgrade({ schemaName, schema }) {
    this.#rx.dispose();
    await this.#db.automigrateTo(schemaName, schema);
    this.#rx = tblrx(this.#db);
  }

  async exec(sql, bind) {
    await this.#db.exec(sql, bind);
  }

  /** Runs the statements in one transaction. */
  async transaction(...statements) {
    await this.#db.tx(async (tx) => {
      for (const [sql, bind] of statements.map((each) => [each].flat(1))) await tx.exec(sql, bind);
    });
  }

  async query(sql, bind) {
    return (await this.#db.execA(sql, bind)) ?? [];
  }

  async close() {
    await this.disconnect();
    await announced();
    this.#rx.dispose();
    await this.#db.close();
  }
}

/** One running sync of a database: ws-client with ws-browserdb, as they are. */
class Tab {
  #synced;
  #network;
  #client;
  #pending = new Set();
  #closing = false;

  static async open(dbname, transportOptions, { network, client }) {
    const tab = new Tab();
    tab.#network = network;
    tab.#client = client;
    const openDatabase = createDbProvider(wasmUrl);
    let transport;
    const config = {
      dbProvider: async (name) => tab.#watched(await openDatabase(name)),
      transportProvider: (options) => (transport = eager(defaultConfig.transportProvider(options))),
    };
    tab.#synced = await createSyncedDB(config, dbname, transportOptions);
    tab.#guard(transport);
    await tab.#synced.start();
    return tab;
  }

  /**
   * Lets what is under way finish first: the client closes its database under its own reads and merges, and the
   * errors of that would count as failures of the test.
   */
  async close() {
    if (this.#closing) return;
    this.#closing = true;
    this.#network.cut();
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    await announced();
    this.#synced.stop();
  }

  /** A browser only logs that nobody took notice of a failure. Those that the test made are no failures of the test. */
  #guard(transport) {
    const receive = transport.onChangesReceived;
    transport.onChangesReceived = (changes) => {
      receive(changes).catch((error) => {
        if (!(error instanceof ApplyFailure)) this.#network.exceptions.push(error);
      });
    };
  }

  async #apply(db, ...given) {
    if (this.#client.failsToApply()) {
      this.#client.failures++;
      throw new ApplyFailure('this apply fails because the test says so');
    }
    return db.applyChangesetAndSetLastSeen(...given);
  }

  #watched(db) {
    const watch = (promise) => {
      const done = promise.finally(() => this.#pending.delete(done));
      this.#pending.add(done);
      return done;
    };
    return {
      siteid: db.siteid,
      getLastSeens: () => db.getLastSeens(),
      getSchemaNameAndVersion: () => db.getSchemaNameAndVersion(),
      onChange: (callback) => db.onChange(callback),
      pullChangeset: async (...given) => (this.#closing ? [] : watch(db.pullChangeset(...given))),
      applyChangesetAndSetLastSeen: async (...given) =>
        this.#closing ? undefined : watch(this.#apply(db, ...given)),
      close: (...given) => silently(() => db.close(...given)),
    };
  }
}

class ApplyFailure extends Error {}

// rx-tbl tells the other handles of a write in the timer phase after it, and throws if it was disposed of by then.
async function announced() {
  await elapsed(1);
}

/** The client picks the time between its attempts to connect at random, from 1 to 3 s, when it starts. This is the shortest. */
function eager(transport) {
  const start = transport.start.bind(transport);
  transport.start = (onReady) => {
    const random = Math.random;
    Math.random = () => 0;
    try {
      start(onReady);
    } finally {
      Math.random = random;
    }
  };
  return transport;
}

// ws-browserdb says on the console that it closes.
function silently(run) {
  const log = console.log;
  console.log = () => {};
  try {
    return run();
  } finally {
    console.log = log;
  }
}
