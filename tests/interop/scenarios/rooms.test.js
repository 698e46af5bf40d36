import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { contents } from '../harness/contents.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS message (id TEXT PRIMARY KEY NOT NULL, text TEXT);
SELECT crsql_as_crr('message');
`,
};
// A dot in the name, names of one length that differ by case, one that is another's beginning.
const ROOMS = ['lobby', 'lobby.2', 'Lobby', 'lobb'];

for (const memory of [false, true]) {
  scenario(`rooms ${memory ? 'in memory' : 'in files'} do not mix`, async (stage) => {
    stage.publish(SCHEMA);
    const server = await stage.server({ memory });
    const members = new Map();
    for (const room of ROOMS) {
      const pair = [await stage.client(`alice in ${room}`, SCHEMA), await stage.client(`bob in ${room}`, SCHEMA)];
      members.set(room, pair);
      for (const client of pair) await client.connect({ url: server.url, room });
    }
    for (const [room, [alice, bob]] of members) {
      await alice.exec(`INSERT INTO message VALUES ('first', ?)`, [`from ${room}`]);
      await bob.exec(`INSERT INTO message VALUES (?, 'again')`, [`second in ${room}`]);
    }
    for (const pair of members.values()) await stage.agreed(pair, (rows) => rows.length === 2);

    for (const [room, [alice]] of members) {
      assert.deepEqual(await contents(alice), [
        `message(id: text 'first', text: text 'from ${room}')`,
        `message(id: text 'second in ${room}', text: text 'again')`,
      ]);
    }
    if (memory) {
      await server.stop();
      assert.deepEqual(readdirSync(stage.dbFolder), [], 'nothing was written to disk');
    } else {
      const [room, clients] = [...members][1];
      await stage.settle({ server, room, schema: SCHEMA, clients });
      for (const [name, [alice]] of members) await stage.assertFile(name, [alice]);
    }
  });
}
