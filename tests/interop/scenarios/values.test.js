import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS cell (id INTEGER PRIMARY KEY NOT NULL, free, txt TEXT, whole INTEGER, frac REAL, raw BLOB, num NUMERIC);
CREATE TABLE IF NOT EXISTS word (word TEXT PRIMARY KEY NOT NULL, meaning TEXT);
CREATE TABLE IF NOT EXISTS place (region TEXT NOT NULL, number INTEGER NOT NULL, code BLOB NOT NULL, "the name" TEXT, PRIMARY KEY (region, number, code));
CREATE TABLE IF NOT EXISTS tag (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b));
SELECT crsql_as_crr('cell');
SELECT crsql_as_crr('word');
SELECT crsql_as_crr('place');
SELECT crsql_as_crr('tag');
`,
};

const TEXTS = [`''`, `'😀'`, `'👩‍👩‍👧‍👦 family'`, `'é ß 漢字 עברית'`, `'it''s "quoted"'`, `'line' || char(10) || 'break'`, `'12'`, `'1.0'`, `printf('%.100000c', 'x')`];
// The clients bind an empty blob that they receive as NULL: it can only be a key.
const EMPTY_BLOB = `x''`;
const BLOBS = [`x'00'`, `x'00ff00'`, `randomblob(1000)`, `zeroblob(100000)`];
const INTEGERS = [
  ...['0', '-1', '127', '128', '2147483647', '2147483648', '-2147483648', '-2147483649', '4294967296', '1795424513801'],
  ...['9007199254740991', '-9007199254740991', '9007199254740992', '9007199254740993', '-9007199254740993'],
  ...['9223372036854775807', '-9223372036854775807 - 1'],
];
const REALS = ['0.1', '-1.5', '2.5', '1e300', '-1e-300', '5e-324', '0.1 + 0.2', '9e999', '-9e999'];
const VALUES = ['NULL', ...TEXTS, ...BLOBS, ...INTEGERS, ...REALS];

scenario('every kind of value arrives as it was written, in every kind of column', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'values';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });

  for (const [id, value] of VALUES.entries()) {
    await alice.exec(`INSERT INTO cell (id, free) VALUES (${id}, ${value})`);
  }
  const typed = [
    ['txt', [...TEXTS, ...INTEGERS]],
    ['whole', [...INTEGERS, `'7'`, `'seven'`, '1.5']],
    ['frac', [...REALS, ...INTEGERS, `'7'`]],
    ['raw', BLOBS],
    ['num', [...INTEGERS, ...REALS, `'7.5'`, `'text'`]],
  ];
  for (const [column, values] of typed) {
    for (const [index, value] of values.entries()) {
      await alice.exec(`INSERT INTO cell (id, ${column}) VALUES (${1000 + index}, ${value})
                        ON CONFLICT DO UPDATE SET ${column} = excluded.${column}`);
    }
  }
  await stage.agreed(clients, (rows) => rows.length > VALUES.length);

  // And back: the other one writes all of them into rows that came from the first.
  for (const [id, value] of VALUES.toReversed().entries()) {
    await bob.exec(`UPDATE cell SET free = ${value} WHERE id = ${id}`);
  }
  await stage.settle({ server, room, schema: SCHEMA, clients });
});

scenario('rows with text, integer and composite keys are inserted, updated and deleted by both sides', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'keys';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });

  for (const text of TEXTS) await alice.exec(`INSERT INTO word VALUES (${text}, 'by alice')`);
  for (const integer of INTEGERS) {
    await bob.exec(`INSERT INTO cell (id, txt) VALUES (${integer}, 'by bob')`);
    await alice.exec(`INSERT INTO place VALUES ('🌍', ${integer}, x'00ff', 'by alice')`);
  }
  const keys = [EMPTY_BLOB, ...BLOBS];
  for (const blob of keys) {
    await bob.exec(`INSERT INTO place VALUES ('', 1, ${blob}, 'by bob')`);
  }
  await alice.exec(`INSERT INTO tag VALUES ('a', 'bc'), ('ab', 'c'), ('', ''), ('😀', '')`);
  const inserted = TEXTS.length + 2 * INTEGERS.length + keys.length + 4;
  await stage.agreed(clients, (rows) => rows.length === inserted);

  for (const text of TEXTS) await bob.exec(`UPDATE word SET meaning = 'by bob' WHERE word = ${text}`);
  await alice.exec(`UPDATE place SET "the name" = 'renamed' WHERE number > 0`);
  await bob.exec(`DELETE FROM tag WHERE a = 'a'`);
  await bob.exec(`DELETE FROM place WHERE code = ${EMPTY_BLOB}`);
  await alice.exec(`DELETE FROM cell WHERE id > 9007199254740991`);
  await stage.agreed(clients, (rows) => rows.length === inserted - 1 - 1 - 3);
  await alice.exec(`INSERT INTO tag VALUES ('a', 'bc')`);
  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === inserted - 4 });
});
