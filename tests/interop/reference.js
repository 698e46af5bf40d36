/**
 * The real engine for tests in other languages: each line on stdin is a request, each line on stdout its answer, in JSON.
 *
 *   ["open", name, path]   opens a copy of the file at path, or an empty database if there is no such file
 *   ["run", name, [sql…]]  { inTransaction, answers: one of { rows } and { error } for each statement }
 *   ["close", name, path]  closes the database and writes it to path
 */
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { DatabaseFile } from './harness/database-file.js';

const databases = new Map();

const requests = {
  async open(name, path) {
    databases.set(name, existsSync(path) ? await DatabaseFile.open(path) : await DatabaseFile.create());
    return {};
  },

  async run(name, statements) {
    const database = databases.get(name);
    const answers = [];
    for (const sql of statements) answers.push(await answer(database, sql));
    return { inTransaction: database.isInTransaction, answers };
  },

  async close(name, path) {
    await databases.get(name).save(path);
    databases.delete(name);
    return {};
  },
};

async function answer(database, sql) {
  try {
    return { rows: await database.exactly(sql) };
  } catch (error) {
    // After a trap nothing that the engine says can be trusted.
    if (error instanceof WebAssembly.RuntimeError) throw error;
    return { error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [request, ...given] = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await requests[request](...given))}\n`);
}
