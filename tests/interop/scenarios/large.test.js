import assert from 'node:assert/strict';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS reading (id INTEGER PRIMARY KEY NOT NULL, sensor TEXT, value REAL);
SELECT crsql_as_crr('reading');
`,
};
/** The client merges one change at a time: this takes a while on a busy machine. */
const deadline = 120_000;
const MEBIBYTE = 1 << 20;

/** Inserts rows `from`..`to` in one transaction. Each is two changes. */
async function insert(client, from, to) {
  await client.exec(
    `WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)
     INSERT INTO reading SELECT i, 'sensor ' || (i % 7), i / 8.0 FROM n`,
    [from, to],
  );
}

scenario('a late joiner gets 20,000 changes, and sync goes on', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'readings';
  const alice = await stage.client('alice', SCHEMA);
  for (let batch = 0; batch < 20; batch++) await insert(alice, batch * 500 + 1, (batch + 1) * 500);
  await alice.connect({ url: server.url, room });

  const late = await stage.client('late', SCHEMA);
  await late.connect({ url: server.url, room });
  await stage.agreed([alice, late], (rows) => rows.length === 10_000, { deadline });

  const frames = late.network.messages('server', 'Changes').filter((frame) => frame.count > 0);
  assert.equal(frames.reduce((sum, frame) => sum + frame.count, 0), 20_000, 'each change came once');
  for (const frame of frames) assert.ok(frame.bytes <= MEBIBYTE, `a frame of ${frame.bytes} bytes`);

  await late.exec(`UPDATE reading SET sensor = 'late' WHERE id = 5000`);
  await alice.exec(`DELETE FROM reading WHERE id = 5001`);
  await stage.settle({
    ...{ server, room, schema: SCHEMA, clients: [alice, late], deadline },
    also: (rows) => rows.length === 9_999 && rows.some((row) => row.includes(`'late'`)),
  });
});

scenario('an upload of 50,000 changes in one message reaches everyone', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'readings';
  const alice = await stage.client('alice', SCHEMA);
  await insert(alice, 1, 25_000);
  await alice.connect({ url: server.url, room });

  // The client that gets it all is the newcomer.
  await stage.settle({ server, room, schema: SCHEMA, clients: [alice], deadline });
  assert.deepEqual(
    alice.network.messages('client', 'Changes').map((frame) => frame.count),
    [50_000],
    'the upload was one message',
  );
});
