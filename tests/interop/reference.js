/**
 * The real engine for tests in other languages: each line on stdin is a request, each line on stdout its answer, in JSON.
 *
 *   ["open", name, path]   opens a copy of the file at path, or an empty database if there is no such file
 *   ["run", name, [sql…]]  { inTransaction, answers: one of { rows } and { error } for each statement }
 *                          A statement may also be { sql, succeeded: [sql…], failed: [sql…] }: what is run next then.
 *   ["close", name, path]  closes the database and writes it to path
 */
import { existsSync, readSync, writeSync } from 'node:fs';
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
    for (const statement of statements) {
      const { sql, succeeded, failed } = typeof statement === 'string' ? { sql: statement } : statement;
      const said = await answer(database, sql);
      answers.push(said);
      for (const next of (said.rows ? succeeded : failed) ?? []) await answer(database, next);
    }
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

/** The lines of stdin. They are waited for: whoever asks does nothing else either, and streams take longer than most answers. */
function* lines() {
  const chunk = Buffer.alloc(65536);
  let begun = [];
  for (let length; (length = readSync(0, chunk)) > 0; ) {
    let rest = Buffer.from(chunk.subarray(0, length));
    for (let end; (end = rest.indexOf('\n')) >= 0; rest = rest.subarray(end + 1)) {
      yield Buffer.concat([...begun, rest.subarray(0, end)]).toString();
      begun = [];
    }
    begun.push(rest);
  }
}

for (const line of lines()) {
  const [request, ...given] = JSON.parse(line);
  const answer = Buffer.from(`${JSON.stringify(await requests[request](...given))}\n`);
  for (let written = 0; written < answer.length; ) written += writeSync(1, answer, written);
}
