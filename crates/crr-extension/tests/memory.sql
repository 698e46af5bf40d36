-- Everything that the engine does, once, for `cargo xtask valgrind`. The shell has loaded the extension before.

-- Tables of all kinds.
CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b, c REAL DEFAULT 1, "d ""d""" TEXT);
CREATE TABLE pair (x TEXT NOT NULL, y BLOB NOT NULL, z, PRIMARY KEY (y, x)) WITHOUT ROWID;
INSERT INTO foo (a, b) VALUES (1, 'before'), (2, zeroblob(5000));
SELECT crsql_as_crr('foo'), crsql_as_crr('pair');
CREATE VIRTUAL TABLE bar_schema USING clset (id PRIMARY KEY NOT NULL, v);

-- Local writes, kept and taken back.
INSERT INTO foo VALUES (3, 1.5, 2, 'text'), (4, x'00', '7', NULL);
INSERT OR REPLACE INTO foo VALUES (3, 2.5, 3, 'other');
INSERT INTO foo VALUES (3, 0, 0, 0) ON CONFLICT DO UPDATE SET b = 'upserted';
UPDATE foo SET b = b || 'x', a = a + 10 WHERE a > 2;
DELETE FROM foo WHERE a = 1;
INSERT INTO pair VALUES ('x', x'ff', 1);
INSERT INTO bar VALUES (1, 2);
BEGIN;
INSERT INTO foo (a) VALUES (50);
SAVEPOINT s;
INSERT INTO foo (a) VALUES (51);
CREATE TABLE gone (a PRIMARY KEY NOT NULL);
SELECT crsql_as_crr('gone');
ROLLBACK TO s;
UPDATE foo SET b = 5 WHERE a = 50;
ROLLBACK;

-- Merges: a win, a tie, a loss, a delete, a new life, and refusals of all kinds.
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'b', 'peer', 9, 5, x'000102030405060708090a0b0c0d0e0f', 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'c', '7', 9, 5, x'000102030405060708090a0b0c0d0e0f', 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'c', '8', 9, 5, x'000102030405060708090a0b0c0d0e0f', 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'b', 'old', 1, 5, x'000102030405060708090a0b0c0d0e0f', 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', '-1', NULL, 2, 5, NULL, 2, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'b', 'again', 1, 5, NULL, 3, 0);
INSERT INTO crsql_changes VALUES ('pair', x'020c01ff0b0178', 'z', 7, 4, 5, x'000102030405060708090a0b0c0d0e0f', 1, 0);
INSERT INTO crsql_changes VALUES ('nope', x'010902', 'b', 1, 1, 1, NULL, 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'01', 'b', 1, 1, 1, NULL, 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'zz', 1, 1, 1, NULL, 1, 0);
INSERT INTO crsql_changes VALUES ('foo', x'010902', 'b', 1, -1, 1, NULL, 1, 0);
INSERT INTO crsql_changes VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9);
DELETE FROM crsql_changes;
UPDATE crsql_changes SET val = 1;

-- Reading.
SELECT * FROM crsql_changes;
SELECT rowid, * FROM crsql_changes WHERE db_version > 2 AND site_id IS NOT NULL ORDER BY db_version DESC LIMIT 3;
SELECT count(*) FROM crsql_changes AS one JOIN crsql_changes AS other USING (pk);
SELECT crsql_pack_columns(1, 2.5, 'three', x'04', NULL);
SELECT cell FROM crsql_unpack_columns WHERE package = crsql_pack_columns(1, 2.5, 'three', x'04', NULL);
SELECT cell FROM crsql_unpack_columns WHERE package = x'ff';
SELECT crsql_unpack_columns(1);

-- Migrations that work, and some that don't.
SELECT crsql_begin_alter('foo');
ALTER TABLE foo ADD COLUMN e DEFAULT 'e';
SELECT crsql_commit_alter('foo');
SELECT crsql_commit_alter('foo');
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS pair (x TEXT NOT NULL, y BLOB NOT NULL, w, PRIMARY KEY (y, x)) WITHOUT ROWID;
    SELECT crsql_as_crr(''pair'');');
SELECT crsql_automigrate('CREATE TABLE nonsense');
SELECT crsql_as_crr('missing'), crsql_as_crr(NULL), crsql_as_crr();
CREATE TABLE item (id PRIMARY KEY NOT NULL, list, place TEXT DEFAULT '');
SELECT crsql_as_crr('item');
SELECT crsql_fract_as_ordered('item', 'place', 'list');
INSERT INTO item VALUES (1, 'l', 1), (2, 'l', 1);
INSERT INTO item_fractindex (id, list, after_id) VALUES (3, 'l', 1);
SELECT crsql_fract_key_between(NULL, NULL), crsql_fract_key_between('b', 'a');
CREATE VIRTUAL TABLE baz_schema USING clset (id PRIMARY KEY NOT NULL, v);
INSERT INTO baz VALUES (1, 2);
SELECT crsql_config_set('merge-equal-values', 1), crsql_config_get('merge-equal-values'), crsql_config_get('what');
SELECT crsql_as_table('item');
DROP TABLE baz;
DROP TABLE baz_schema;
CREATE TABLE baz (a);
DROP TABLE baz_schema;

-- The engine's other connections, and its end.
ATTACH ':memory:' AS other;
CREATE TABLE other.t (a);
INSERT INTO other.t VALUES (1);
SELECT crr_hand_over();
SELECT crsql_db_version(), length(crsql_site_id()), crsql_sha();
PRAGMA integrity_check;
SELECT crsql_finalize();
SELECT count(*) FROM crsql_changes;
