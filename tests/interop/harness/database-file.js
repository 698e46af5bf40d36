import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as SQLite from '@vlcn.io/wa-sqlite';
import SQLiteModule from '@vlcn.io/wa-sqlite/dist/crsqlite-sync.mjs';
import { MemoryVFS } from '@vlcn.io/wa-sqlite/src/examples/MemoryVFS.js';

const VFS_NAME = 'memory';

let engine;

/** A database file opened by the real engine, in memory: nothing reaches the file itself until `save`. */
export class DatabaseFile {
  #name = `/${crypto.randomUUID()}`;
  #vfs;
  #api;
  #db;

  constructor({ api, vfs }) {
    this.#api = api;
    this.#vfs = vfs;
  }

  /** An empty database, made by the real engine. */
  static async create() {
    return new DatabaseFile(await realEngine()).#opened();
  }

  /** A copy of the file at `path`, whose owner must have stopped and left nothing in a write-ahead log. */
  static async open(path) {
    const log = `${path}-wal`;
    assert.ok(!existsSync(log) || statSync(log).size === 0, `${log} still holds changes`);
    const file = new DatabaseFile(await realEngine());
    const data = new Uint8Array(readFileSync(path)).buffer;
    leaveWalMode(data);
    file.#vfs.mapNameToFile.set(file.#name, { name: file.#name, flags: 0, size: data.byteLength, data });
    return file.#opened();
  }

  async exec(sql, bind = []) {
    await this.query(sql, bind);
  }

  /** The rows of the last statement, each an array. Integers beyond 2^53 are bigints. */
  async query(sql, bind = []) {
    return this.#rows(sql, bind, (statement) => this.#api.row(statement));
  }

  /** The same with exact values: a letter for the type, and then the number, or the bytes as hex digits. */
  async exactly(sql) {
    return this.#rows(sql, [], (statement) => {
      return Array.from({ length: this.#api.column_count(statement) }, (_, column) => exact(this.#api, statement, column));
    });
  }

  get isInTransaction() {
    return this.#api.get_autocommit(this.#db) === 0;
  }

  /** Closes the database and writes it to `path`. */
  async save(path) {
    await this.#closeConnection();
    const { data, size } = this.#vfs.mapNameToFile.get(this.#name);
    writeFileSync(path, new Uint8Array(data, 0, size));
    this.#vfs.mapNameToFile.delete(this.#name);
  }

  async close() {
    await this.#closeConnection();
    this.#vfs.mapNameToFile.delete(this.#name);
  }

  async #rows(sql, bind, read) {
    let rows = [];
    for await (const statement of this.#api.statements(this.#db, sql)) {
      rows = [];
      bind.forEach((value, index) => this.#api.bind(statement, index + 1, value));
      while ((await this.#api.step(statement)) === SQLite.SQLITE_ROW) rows.push(read(statement));
    }
    return rows;
  }

  async #opened() {
    const flags = SQLite.SQLITE_OPEN_CREATE | SQLite.SQLITE_OPEN_READWRITE;
    this.#db = await this.#api.open_v2(this.#name, flags, VFS_NAME);
    return this;
  }

  async #closeConnection() {
    await this.exec('SELECT crsql_finalize()');
    await this.#api.close(this.#db);
  }
}

async function realEngine() {
  engine ??= (async () => {
    const wasm = createRequire(import.meta.url).resolve('@vlcn.io/wa-sqlite/dist/crsqlite-sync.wasm');
    const api = SQLite.Factory(await SQLiteModule({ wasmBinary: readFileSync(wasm) }));
    const vfs = new MemoryVFS();
    api.vfs_register(vfs, false);
    return { api, vfs };
  })();
  return engine;
}

const double = new DataView(new ArrayBuffer(8));

function exact(api, statement, column) {
  switch (api.column_type(statement, column)) {
    case SQLite.SQLITE_INTEGER:
      return `i${api.column_int64(statement, column)}`;
    case SQLite.SQLITE_FLOAT:
      double.setFloat64(0, api.column_double(statement, column));
      return `r${double.getBigUint64(0)}`;
    case SQLite.SQLITE_TEXT:
      return `t${Buffer.from(api.column_blob(statement, column)).toString('hex')}`;
    case SQLite.SQLITE_BLOB:
      return `b${Buffer.from(api.column_blob(statement, column)).toString('hex')}`;
    default:
      return 'n';
  }
}

// The memory file system has no shared memory, which write-ahead logging needs. With an empty log the mode is
// only the two version bytes of the header (https://www.sqlite.org/fileformat2.html, section 1.3.3).
function leaveWalMode(data) {
  const header = new Uint8Array(data, 0, 100);
  header[18] = 1;
  header[19] = 1;
}
