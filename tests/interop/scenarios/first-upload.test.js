import assert from 'node:assert/strict';
import { cryb64, decode, encode, hexToBytes, tags } from '@vlcn.io/ws-common';
import { until } from '../harness/convergence.js';
import { DatabaseFile } from '../harness/database-file.js';
import { digest } from '../harness/digest.js';
import { RawSocket } from '../harness/raw-socket.js';
import { scenario } from '../harness/scenario.js';

// Short names: what is written of each change goes over a slow link.
const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS t (i INTEGER PRIMARY KEY NOT NULL, a TEXT, b REAL);
SELECT crsql_as_crr('t');
`,
};
const room = 'first';
const ROWS = 150_000;
/** Each row is two. */
const CHANGES = 2 * ROWS;
const deadline = 300_000;
const OBSERVER = hexToBytes('5a'.repeat(16));

/** In seconds. A peer that is silent for two of them is closed; what the client answers comes behind its upload, as in a browser. */
const HEARTBEAT = 5;
const LEAST_HEARTBEATS = 5;
/** In bytes a second. */
const TWO_MEGABITS = 2_000_000 / 8;

async function clientWithMuch(stage) {
  stage.publish(SCHEMA);
  const client = await stage.client('alice', SCHEMA);
  await client.exec(
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
     INSERT INTO t SELECT i, 's' || (i % 7), i / 8.0 FROM n`,
    [ROWS],
  );
  return client;
}

/** Waits until the server gives others all of it. They only count: a client that merges so much takes minutes. */
async function allIsThere(server) {
  const { schemaName, schema } = SCHEMA;
  const observer = await RawSocket.open({ url: server.url, room });
  observer.send(encode({ _tag: tags.AnnouncePresence, sender: OBSERVER, lastSeens: [], schemaName, schemaVersion: cryb64(schema) }));
  let changes = 0;
  const count = () => {
    for (const bytes of observer.received.splice(0)) {
      const message = decode(bytes);
      if (message._tag === tags.Changes) changes += message.changes.length;
    }
    assert.equal(observer.closed, undefined);
    return changes >= CHANGES;
  };
  await until(() => `${CHANGES} changes; ${changes} came`, count, { deadline });
  observer.terminate();
  assert.equal(changes, CHANGES, 'each change came once');
}

/** It was one message over one connection. */
function assertUploadedAtOnce({ network }) {
  assert.deepEqual(network.messages('client', 'Changes').map(({ count }) => count), [CHANGES], 'the upload was one message');
  assert.equal(network.opened, 1, 'the connection held');
}

scenario('a first upload of 300,000 changes in one message arrives', async (stage) => {
  const alice = await clientWithMuch(stage);
  const server = await stage.server();
  await alice.connect({ url: server.url, room });
  await allIsThere(server);
  assertUploadedAtOnce(alice);

  await server.stop();
  const file = await DatabaseFile.open(stage.file(room));
  // Rows and clocks one by one, as small tests compare them, would take minutes.
  assert.equal(await digest(file), await digest(alice), 'the file has what the client has');
  await file.close();
});

scenario('a first upload of 300,000 changes arrives over 2 Mbit/s while heartbeats go on', async (stage) => {
  const alice = await clientWithMuch(stage);
  const server = await stage.server({ settings: { heartbeat: HEARTBEAT } });
  const relay = await stage.relay(server, { bytesPerSecond: TWO_MEGABITS });
  await alice.connect({ url: relay.url, room });
  const sent = () => alice.network.messages('client', 'Changes')[0];
  await until('the upload to begin', sent, { deadline });
  const before = alice.network.pings;
  await until(() => `${sent().bytes} bytes; ${relay.uploaded} are through`, () => relay.uploaded > sent().bytes, { deadline });
  const during = alice.network.pings - before;
  assert.ok(during >= LEAST_HEARTBEATS, `${during} heartbeats came during the upload`);
  await allIsThere(server);
  assertUploadedAtOnce(alice);
});
