//! Digests: equal on copies that hold the same, different on others, and what others can compute.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use std::collections::HashMap;

use crr::Error;
use rusqlite::Connection;
use rusqlite::types::Value;
use sha2::{Digest as _, Sha256};
use site::{FOO, P, Site};

const TYPED: &str = "
    CREATE TABLE typed(id PRIMARY KEY NOT NULL, r REAL, i INTEGER, t TEXT, x);
    SELECT crsql_as_crr('typed');";

fn digest(site: &Site) -> String {
    site.crr().digest().unwrap().to_string()
}

/// The digest as its definition says, from `crsql_changes` alone.
fn by_definition(site: &Site) -> String {
    let changes = site.pull(0, None);
    let mut of_row: HashMap<(&str, &[u8]), usize> = HashMap::new();
    changes.iter().for_each(|change| *of_row.entry((&change.table, &change.pk)).or_default() += 1);
    let mut sum = [0_u32; 32];
    for change in &changes {
        if change.cid == "-1" && change.cl == 1 && of_row[&(&*change.table, &*change.pk)] > 1 {
            continue;
        }
        let packed: Vec<u8> = site
            .conn
            .query_row(
                "SELECT crsql_pack_columns(?1, ?2, ?3, ?4, ?5, CASE WHEN typeof(?6) = 'real' AND abs(?6) < 9007199254740992
                     AND ?6 = CAST(?6 AS INTEGER) THEN CAST(?6 AS INTEGER) ELSE ?6 END)",
                (&change.table, &change.pk, &change.cid, change.col_version, change.cl, &change.val),
                |row| row.get(0),
            )
            .unwrap();
        for (digit, more) in sum.iter_mut().zip(Sha256::digest(packed)) {
            *digit += u32::from(more);
        }
    }
    for at in (0..32).rev() {
        let carry = sum[at] >> 8;
        sum[at] &= 0xff;
        if at > 0 {
            sum[at - 1] += carry;
        }
    }
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn copies_that_have_merged_the_same_in_another_order_and_by_other_ways_have_the_same_digest() {
    let schema = [FOO, P].concat();
    let (a, b, c) = (Site::new("A", &schema), Site::new("B", &schema), Site::new("C", &schema));
    assert_eq!(digest(&a), "0".repeat(64), "nothing is 0");
    a.run(
        "INSERT INTO foo VALUES (1, 'x', NULL); INSERT INTO foo VALUES (2, 1.5, x'00'); INSERT INTO p VALUES (1, 'k')",
    );
    b.run(
        "INSERT INTO foo VALUES (1, 'y', 7); DELETE FROM foo WHERE a = 1; INSERT INTO p VALUES (2, 'k'); DELETE FROM p",
    );
    b.pull_from(&a, 0);
    c.pull_from(&b, 0);
    assert_eq!(digest(&c), digest(&b));
    assert_ne!(digest(&a), digest(&b));
    a.pull_from(&c, 0);
    a.pull_from(&c, 0);
    for site in [&b, &c] {
        assert_eq!(digest(site), digest(&a));
    }
    assert_ne!(a.db_version(), c.db_version());
    a.run("UPDATE foo SET b = b");
    a.run("DELETE FROM foo WHERE a = 2; INSERT INTO foo VALUES (2, 1.5, x'00')");
    assert_ne!(digest(&a), digest(&b), "a life more");
}

#[test]
fn whatever_two_copies_disagree_in_their_digests_differ() {
    let schema =
        [FOO, P, "CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b, c); SELECT crsql_as_crr('bar');"].concat();
    let with = |line: &str| {
        let site = Site::new("A", &schema);
        site.merge(line);
        digest(&site)
    };
    let one = with("foo 010901 b 5 1 9 X 1 3");
    let others = [
        "bar 010901 b 5 1 9 X 1 3",
        "foo 010902 b 5 1 9 X 1 3",
        "foo 010901 c 5 1 9 X 1 3",
        "foo 010901 b 6 1 9 X 1 3",
        "foo 010901 b '5' 1 9 X 1 3",
        "foo 010901 b x'35' 1 9 X 1 3",
        "foo 010901 b NULL 1 9 X 1 3",
        "foo 010901 b 5 2 9 X 1 3",
        "foo 010901 b 5 1 9 X 3 3",
        "foo 010901 -1 NULL 2 9 X 2 3",
        "foo 010901 -1 NULL 4 9 X 4 3",
        "foo 010901 -1 NULL 1 9 X 1 3",
        "p 0209010902 -1 NULL 1 9 X 1 3",
    ];
    let mut all: Vec<String> = others.iter().map(|line| with(line)).collect();
    all.push(one.clone());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
    for same in [
        "foo 010901 b 5 1 2 X 1 3",
        "foo 010901 b 5 1 9 Y 1 3",
        "foo 010901 b 5 1 9 X 1 0",
        "foo 010901 b 5.0 1 9 X 1 3",
    ] {
        assert_eq!(with(same), one, "{same}");
    }
}

#[test]
fn whole_numbers_bound_as_reals_are_the_numbers() {
    let (server, client) = (Site::new("A", TYPED), Site::new("B", TYPED));
    server.run("INSERT INTO typed VALUES (1099511627776, 5, 5, 'x', 1099511627776)");
    client.run("INSERT INTO typed VALUES (1099511627776.0, 5.0, 5.0, 'x', 1099511627776.0)");
    assert_eq!(digest(&server), digest(&client));
    client.run("UPDATE typed SET x = 0.5");
    server.run("UPDATE typed SET x = 0.25");
    assert_ne!(digest(&server), digest(&client));
}

#[test]
fn a_sentinel_that_only_some_copies_have_does_not_count() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.merge("foo 010901 b 5 1 9 X 1 3");
    b.merge("foo 010901 -1 NULL 1 8 X 1 2");
    assert_ne!(digest(&a), digest(&b), "a row without columns is a row");
    b.merge("foo 010901 b 5 1 9 X 1 3");
    assert_eq!(b.changes().len(), 2);
    assert_eq!(digest(&a), digest(&b));
}

#[test]
fn it_is_what_its_definition_says() {
    let site = Site::new("A", &[FOO, P, TYPED].concat());
    site.run("INSERT INTO foo VALUES (1, 'é', NULL), (2, -0.5, x'00ff'), (3, -7, 9223372036854775807)");
    site.run(
        "UPDATE foo SET b = 300 WHERE a = 2; DELETE FROM foo WHERE a = 1; INSERT INTO p VALUES (1, 2), ('a', x'01')",
    );
    site.run("INSERT INTO typed VALUES ('key', 5, 5, 'text', 5.0)");
    assert_eq!(digest(&site), by_definition(&site));
}

#[test]
fn the_real_engine_and_this_one_come_to_the_same() {
    let site = Site::new(
        "A",
        "CREATE TABLE thing (a NOT NULL, b NOT NULL, c, d, PRIMARY KEY (a, b)); SELECT crsql_as_crr('thing');
         CREATE TABLE tag (name TEXT PRIMARY KEY NOT NULL); SELECT crsql_as_crr('tag');",
    );
    site.run("INSERT INTO thing VALUES (1099511627776.0, 'é', 5.0, 0.5), (-1, x'00ff', NULL, 9223372036854775807), (0.25, '', -7, 'text')");
    site.run(
        "INSERT INTO thing VALUES (2, 2, 2, 2); DELETE FROM thing WHERE a = 2; UPDATE thing SET c = 300 WHERE a = -1",
    );
    site.run(
        "INSERT INTO tag VALUES ('red'), ('blue'); DELETE FROM tag WHERE name = 'red'; INSERT INTO tag VALUES ('red')",
    );
    // The same in `tests/interop/scenarios/digest.test.js`, which computes it with cr-sqlite's own functions.
    assert_eq!(digest(&site), "bad2d76e73e5ec512d7484d09782da6e389b8f2ba6ebba4e62e0751d26d559f5");
}

#[test]
fn a_table_has_a_digest_of_its_own_and_in_sql_they_are_blobs() {
    let site = Site::new("A", &[FOO, P].concat());
    site.run("INSERT INTO foo VALUES (1, 2, 3); INSERT INTO p VALUES (1, 2)");
    let crr = site.crr();
    let (foo, p) = (crr.table_digest("foo").unwrap(), crr.table_digest("P").unwrap());
    assert!(foo != p && foo != crr.digest().unwrap());
    let blob = |sql: &str| site.conn.query_row(sql, [], |row| row.get::<_, [u8; 32]>(0)).unwrap();
    assert_eq!(blob("SELECT crsql_digest()"), *crr.digest().unwrap().as_bytes());
    assert_eq!(blob("SELECT crsql_digest('foo')"), *foo.as_bytes());
    assert!(matches!(crr.table_digest("nope"), Err(Error::UnknownTable { .. })));
    assert_eq!(site.error("SELECT crsql_digest('nope')"), "table nope is not a CRR in this database");
    assert_eq!(site.error("SELECT crsql_digest(1)"), "crsql_digest: the table's name isn't a text");
    assert_eq!(site.error("SELECT crsql_digest('a', 'b')"), "crsql_digest: it takes one table, or none for all");
    site.run("DELETE FROM p");
    site.run("SELECT crsql_as_table('p')");
    assert_eq!(crr.digest().unwrap(), foo, "that of a database is the sum of those of its tables");
}

#[test]
fn it_is_of_one_moment_also_while_another_connection_writes() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let conn = Connection::open(folder.path().join("db")).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        crr::load(&conn).unwrap();
        conn
    };
    let writer = open();
    writer
        .execute_batch(
            "CREATE TABLE one(a INTEGER PRIMARY KEY NOT NULL, v); CREATE TABLE two(a INTEGER PRIMARY KEY NOT NULL, v);
         SELECT crsql_as_crr('one'), crsql_as_crr('two');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) INSERT INTO one SELECT i, 0 FROM n;
         INSERT INTO two SELECT * FROM one;",
        )
        .unwrap();
    let reader = open();
    let mut valid = vec![];
    let now = |conn: &Connection| conn.query_row("SELECT crsql_digest()", [], |row| row.get::<_, Value>(0)).unwrap();
    let seen = std::thread::scope(|scope| {
        let reading = scope.spawn(move || (0..40).map(|_| now(&reader)).collect::<Vec<_>>());
        valid.push(now(&writer));
        while !reading.is_finished() {
            writer.execute_batch("BEGIN; UPDATE one SET v = v + 1; UPDATE two SET v = v + 1; COMMIT").unwrap();
            valid.push(now(&writer));
        }
        reading.join().unwrap()
    });
    assert!(seen.iter().all(|digest| valid.contains(digest)));
}

#[test]
fn a_row_whose_table_lost_it_counts_as_it_is_sent() {
    let site = Site::new("A", FOO);
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    site.run("SELECT crsql_internal_sync_bit(1)");
    site.run("DELETE FROM foo");
    site.run("SELECT crsql_internal_sync_bit(0)");
    assert_eq!(digest(&site), by_definition(&site));
    assert_eq!(site.changes().len(), 2);
}
