import assert from 'node:assert/strict';
import { encode, cryb64, decode, hexToBytes, tags } from '@vlcn.io/ws-common';
import { converged } from '../harness/convergence.js';
import { RawSocket } from '../harness/raw-socket.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS point (id INTEGER PRIMARY KEY NOT NULL, x, label TEXT);
SELECT crsql_as_crr('point');
`,
};
const PROTOCOL_ERROR = 1002;
const OTHER_KIND_OF_FRAME = 1003;
const UNDECODABLE = 1007;
const SITE = '5a'.repeat(16);

function announce(sender = hexToBytes(SITE)) {
  return encode({
    _tag: tags.AnnouncePresence,
    sender,
    lastSeens: [],
    schemaName: SCHEMA.schemaName,
    schemaVersion: cryb64(SCHEMA.schema),
  });
}

function changes(sender = hexToBytes(SITE)) {
  const change = ['point', hexToBytes('010963'), 'label', 'smuggled', 1n, 1n, null, 1n, 0];
  return encode({ _tag: tags.Changes, sender, since: [0n, 0], changes: [change] });
}

const startStreaming = encode({ _tag: tags.StartStreaming, since: [0n, 0], excludeSites: [], localOnly: false });
const ping = encode({ _tag: tags.Ping });

/** What is said, and the code that it is answered with. */
const WRONG_FIRST_FRAMES = [
  ['no bytes at all', new Uint8Array(), UNDECODABLE],
  ['an unknown tag', new Uint8Array([99, 1, 2, 3]), UNDECODABLE],
  ['random bytes', crypto.getRandomValues(new Uint8Array(200)).fill(0xff, 0, 1), UNDECODABLE],
  ['half an announce', announce().subarray(0, 20), UNDECODABLE],
  ['an announce with a huge count', new Uint8Array([1, ...hexToBytes(SITE), 0xff, 0xff, 0xff, 0xff, 0xff, 0x07]), UNDECODABLE],
  ['text that is no JSON', 'hello?', UNDECODABLE],
  ['JSON that is no message', '{"type":"hello"}', UNDECODABLE],
  ['Changes before the announce', changes(), PROTOCOL_ERROR],
  ['StartStreaming before the announce', startStreaming, PROTOCOL_ERROR],
];
const WRONG_LATER_FRAMES = [
  ['random bytes after the announce', crypto.getRandomValues(new Uint8Array(200)).fill(0xff, 0, 1), UNDECODABLE],
  ['truncated Changes', changes().subarray(0, 40), UNDECODABLE],
  ['StartStreaming from a client', startStreaming, PROTOCOL_ERROR],
  ['a message between servers', ping, PROTOCOL_ERROR],
  ['a second announce', announce(), PROTOCOL_ERROR],
  ['a text frame in a binary session', '{"type":"ping"}', OTHER_KIND_OF_FRAME],
];

scenario('whatever a peer sends, only its own connection is closed', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'plane';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });
  let written = 0;
  const goOn = async () => {
    await clients[written % 2].exec(`INSERT INTO point VALUES (?, ?, 'ok')`, [written, written]);
    written++;
    await stage.agreed(clients, (rows) => rows.length === written);
  };
  await goOn();

  for (const [what, frame, code] of WRONG_FIRST_FRAMES) {
    const raw = await RawSocket.open({ url: server.url, room });
    raw.send(frame);
    const closed = await raw.ended();
    assert.equal(closed.code, code, `${what}: ${closed.reason}`);
    assert.notEqual(closed.reason, '', `${what} is answered with a reason`);
    assert.deepEqual(raw.received, [], `${what} is answered with nothing else`);
    await goOn();
  }
  for (const [what, frame, code] of WRONG_LATER_FRAMES) {
    const raw = await RawSocket.open({ url: server.url, room });
    raw.send(announce());
    assert.equal(decode(await raw.next())._tag, tags.StartStreaming);
    raw.send(frame);
    const closed = await raw.ended();
    assert.equal(closed.code, code, `${what}: ${closed.reason}`);
    assert.notEqual(closed.reason, '', `${what} is answered with a reason`);
    await goOn();
  }
  // And one that is simply gone.
  const raw = await RawSocket.open({ url: server.url, room });
  raw.send(announce());
  raw.terminate();
  await goOn();

  for (const { name, network } of clients) assert.deepEqual(network.closes, [], `${name} was not disturbed`);
  await stage.settle({ server, room, schema: SCHEMA, clients });
});

scenario('a session can be held by hand in JSON text frames', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'plane';
  const alice = await stage.client('alice', SCHEMA);
  await alice.exec(`INSERT INTO point VALUES (1, 9007199254740993, 'by alice 😀')`);
  await alice.connect({ url: server.url, room });
  const witness = await stage.client('witness', SCHEMA);
  await witness.connect({ url: server.url, room });
  await stage.agreed([alice, witness], (rows) => rows.length === 1);

  const hand = await RawSocket.open({ url: server.url, room });
  hand.send(
    JSON.stringify({
      ...{ type: 'announcePresence', sender: SITE, lastSeens: [] },
      ...{ schemaName: SCHEMA.schemaName, schemaVersion: cryb64(SCHEMA.schema).toString() },
    }),
  );
  const start = JSON.parse(await hand.next());
  const serverId = start.excludeSites[0];
  assert.match(serverId, /^[0-9a-f]{32}$/);
  assert.deepEqual(start, { type: 'startStreaming', since: [0, 0], excludeSites: [serverId], localOnly: false });

  const first = JSON.parse(await hand.next());
  assert.equal(first.type, 'changes');
  assert.equal(first.sender, serverId);
  assert.deepEqual(first.since, [0, 0]);
  assert.deepEqual(
    first.changes.map(({ table, pk, cid, val, colVersion, cl }) => ({ table, pk, cid, val, colVersion, cl })),
    [
      { table: 'point', pk: '010901', cid: 'x', val: { $integer: '9007199254740993' }, colVersion: 1, cl: 1 },
      { table: 'point', pk: '010901', cid: 'label', val: 'by alice 😀', colVersion: 1, cl: 1 },
    ],
  );

  // A new row, with what may be left out left out, and an edit of the one that came.
  hand.send(
    JSON.stringify({
      ...{ type: 'changes', sender: SITE, since: [0, 0] },
      changes: [
        { table: 'point', pk: '010902', cid: 'x', val: { $real: 2.5 }, colVersion: 1, dbVersion: 1 },
        { table: 'point', pk: '010902', cid: 'label', val: 'by hand', colVersion: 1, dbVersion: 1, seq: 1 },
        { table: 'point', pk: '010901', cid: 'label', val: 'edited by hand', colVersion: 2, dbVersion: 2 },
      ],
    }),
  );
  const byHand = [
    `point(id: integer 1, x: integer 9007199254740993, label: text 'edited by hand')`,
    `point(id: integer 2, x: real 2.5, label: text 'by hand')`,
  ];
  await converged([alice, witness], { also: (rows) => byHand.every((row) => rows.includes(row)) });

  // What a client writes then arrives as text again, contiguously.
  const seen = first.changes.at(-1).dbVersion;
  await alice.exec(`DELETE FROM point WHERE id = 2`);
  let message;
  do message = JSON.parse(await hand.next());
  while (message.changes.length === 0);
  assert.deepEqual(message.since, [seen, 0]);
  assert.deepEqual(
    message.changes.map(({ pk, cid, val, cl }) => ({ pk, cid, val, cl })),
    [{ pk: '010902', cid: '-1', val: null, cl: 2 }],
  );

  // The announce fixed the kind of the session's frames.
  hand.send(changes());
  assert.equal((await hand.ended()).code, OTHER_KIND_OF_FRAME);
  await stage.settle({ server, room, schema: SCHEMA, clients: [alice, witness], also: (rows) => rows.length === 1 });
});
