//! The native merge: what it reports, what it refuses, and what its options change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Error, Merge, MergeOptions, Merged, Position, SiteId};
use rusqlite::types::Value;
use site::{FOO, OwnedChange, P, Site, changeset, site};

// ---- Outcomes ----

#[test]
fn a_changeset_reports_what_was_applied_and_what_had_no_effect() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    let merged = merge(
        &b,
        MergeOptions::default(),
        "foo 010901 b 1 2 5 X 1 0
         foo 010901 c 9 1 5 X 1 1
         foo 010901 c 9 1 5 X 1 1
         foo 010901 b 7 1 5 X 1 2
         foo 010902 b 7 1 5 X 1 3
         foo 010903 -1 NULL 2 5 X 2 4",
    );
    assert_eq!((merged.applied, merged.no_ops, merged.won_by_value), (4, 2, 1));
    assert_eq!((merged.db_version, merged.partial_rows), (5, 0));
}

#[test]
fn a_changeset_without_effect_takes_no_version() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    let merged = merge(&b, MergeOptions::default(), "foo 010901 b 2 1 50 X 1 0\nfoo 010901 c 3 1 50 X 1 1");
    assert_eq!((merged.applied, merged.no_ops, merged.db_version), (0, 2, 1));
    assert_eq!(b.db_version(), 1);
}

#[test]
fn a_changeset_may_have_any_number_of_changes_of_one_row_and_any_number_of_authors() {
    let b = Site::new("B", FOO);
    let template = OwnedChange::parse("foo 010901 b 1 1 5 X 1 0");
    let numbers = 0..10_000_u16;
    let author = |number: u16| Some(SiteId::from_bytes((1 << 64 | u128::from(number)).to_be_bytes()));
    let write = |number| OwnedChange {
        val: Value::Integer(i64::from(number)),
        col_version: i64::from(number) + 1,
        site_id: author(number),
        ..template.clone()
    };
    let create = |number: u16| OwnedChange {
        pk: [[1, 2 << 3 | 1], (number + 256).to_be_bytes()].concat(),
        site_id: author(number),
        seq: i64::from(number),
        ..template.clone()
    };
    let tx = b.transaction();
    let changes: Vec<OwnedChange> = numbers.clone().map(write).chain(numbers.clone().map(create)).collect();
    let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
    let merged = merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
    tx.commit().unwrap();
    assert_eq!((merged.applied, merged.no_ops), (20_000, 0));
    let created: Vec<OwnedChange> = numbers.map(create).collect();
    let read = b.read(0, None);
    assert_eq!(read.iter().find(|change| change.pk == template.pk), Some(&write(9_999)));
    assert_eq!(read.into_iter().filter(|change| change.pk != template.pk).collect::<Vec<_>>(), created);
}

#[test]
fn an_empty_changeset_does_nothing() {
    let b = Site::new("B", FOO);
    let merged = merge(&b, MergeOptions::default(), "");
    assert_eq!(merged, Merged::default());
}

#[test]
fn the_version_of_the_outcome_is_the_one_after_the_commit() {
    let b = Site::new("B", FOO);
    let tx = b.transaction();
    let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
    let first = merge.changeset(changeset("foo 010901 b 1 1 3 X 1 0").iter().map(OwnedChange::borrowed)).unwrap();
    let second = merge.changeset(changeset("foo 010902 b 1 1 8 X 1 0").iter().map(OwnedChange::borrowed)).unwrap();
    tx.commit().unwrap();
    assert_eq!((first.db_version, second.db_version), (3, 8));
    assert_eq!(b.crr().db_version().unwrap(), 8);
    assert_eq!(b.crr().stored_db_version().unwrap(), 8);
}

#[test]
fn several_changesets_of_one_transaction_share_a_version() {
    let b = Site::new("B", FOO);
    let tx = b.transaction();
    let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
    for line in ["foo 010901 b 1 1 1 X 1 0", "foo 010902 b 1 1 1 Y 1 0"] {
        merge.changeset(changeset(line).iter().map(OwnedChange::borrowed)).unwrap();
    }
    tx.commit().unwrap();
    b.changes_are("foo 010901 b 1 1 1 X 1 0\nfoo 010902 b 1 1 1 Y 1 0");
}

#[test]
fn a_change_without_a_site_is_a_local_one() {
    let b = Site::new("B", FOO);
    merge(&b, MergeOptions::default(), "foo 010901 b 1 1 1 NULL 1 0");
    b.changes_are("foo 010901 b 1 1 1 B 1 0");
    b.query_is("SELECT count(*) FROM crsql_site_id", &["1"]);
}

#[test]
fn a_change_of_ones_own_comes_back_as_ones_own() {
    let b = Site::new("B", FOO);
    merge(&b, MergeOptions::default(), "foo 010901 b 1 1 1 B 1 0");
    b.changes_are("foo 010901 b 1 1 1 B 1 0");
    b.query_is("SELECT ordinal FROM crsql_site_id", &["0"]);
}

#[test]
fn changes_of_one_row_are_decided_one_after_another() {
    let lines = "foo 010901 b 'x' 1 5 X 1 0
                 foo 010901 b 'z' 1 6 Y 1 1
                 foo 010901 b 'y' 1 7 X 1 2
                 foo 010901 c 1 1 8 X 3 3
                 foo 010901 -1 NULL 4 9 Y 4 4
                 foo 010901 b 'old' 9 9 X 3 5
                 foo 010901 -1 NULL 5 9 X 5 6
                 foo 010901 b 'new' 1 10 X 5 7";
    let (grouped, single) = (Site::new("B", FOO), Site::new("B", FOO));
    let merged = merge(&grouped, MergeOptions::default(), lines);
    single.insert(&changeset(lines));
    assert_eq!((merged.applied, merged.no_ops, merged.won_by_value), (6, 2, 1));
    assert_eq!(grouped.changes(), single.changes());
    grouped.changes_are("foo 010901 -1 NULL 5 9 X 5 6\nfoo 010901 b 'new' 1 10 X 5 7");
    assert_eq!(grouped.rows("foo"), ["1, 'new', NULL"]);
}

// ---- Partial rows ----

#[test]
fn a_row_that_is_raised_without_all_its_columns_is_reported() {
    for (what, partial_rows, lines) in [
        ("a sentinel alone", 1, "foo 010901 -1 NULL 1 5 X 1 0"),
        ("a sentinel alone over a dead row", 1, "foo 010909 -1 NULL 3 5 X 3 0"),
        ("a sentinel alone over a live row", 1, "foo 010908 -1 NULL 3 5 X 3 0"),
        ("two of them", 2, "foo 010901 -1 NULL 1 5 X 1 0\nfoo 010902 -1 NULL 1 5 X 1 1"),
        (
            "a key change by an engine that leaves the columns behind",
            1,
            "foo 010908 -1 NULL 2 5 X 2 0\nfoo 010907 -1 NULL 1 5 X 1 1",
        ),
        ("only a column that changed with the key", 1, "foo 010907 -1 NULL 1 5 X 1 1\nfoo 010907 b 1 2 5 X 1 2"),
        (
            "a sentinel with its columns",
            0,
            "foo 010901 -1 NULL 3 5 X 3 0\nfoo 010901 b 1 1 5 X 3 1\nfoo 010901 c 1 1 5 X 3 2",
        ),
        ("columns before their sentinel", 0, "foo 010901 b 1 1 5 X 1 0\nfoo 010901 -1 NULL 1 5 X 1 1"),
        ("columns before their sentinel, second life", 0, "foo 010908 b 1 1 5 X 3 0\nfoo 010908 -1 NULL 3 5 X 3 1"),
        (
            "columns that come later",
            0,
            "foo 010901 -1 NULL 1 5 X 1 0\nfoo 010902 b 1 1 5 X 1 1\nfoo 010901 b 1 1 5 X 1 2\nfoo 010901 c 1 1 5 X 1 3",
        ),
        ("columns of an older life only", 1, "foo 010901 -1 NULL 3 5 X 3 0\nfoo 010901 b 1 1 5 X 1 1"),
        ("a delete", 0, "foo 010908 -1 NULL 2 5 X 2 0"),
        ("a sentinel that loses", 0, "foo 010908 -1 NULL 1 5 X 1 0"),
        ("a table of keys only", 0, "p 0209010902 -1 NULL 1 5 X 1 0"),
    ] {
        let b = Site::new("B", &format!("{FOO} {P}"));
        b.run("INSERT INTO foo VALUES(8,2,3); INSERT INTO foo VALUES(9,2,3); DELETE FROM foo WHERE a = 9");
        assert_eq!(merge(&b, MergeOptions::default(), lines).partial_rows, partial_rows, "{what}");
    }
}

// ---- Refusals ----

/// Changes that no changeset may hold, and what the error has to name.
const BAD: [(&str, &str); 12] = [
    ("nope 010903 b 1 1 40 Y 1 0", "nope"),
    ("FOO 010903 b 1 1 40 Y 1 0", "FOO"),
    ("foo 010903 zz 1 1 40 Y 1 0", "zz"),
    ("foo 010903 a 1 1 40 Y 1 0", "a"),
    ("foo 010903 B 1 1 40 Y 1 0", "B"),
    ("foo 0209030904 b 1 1 40 Y 1 0", "foo"),
    ("foo 0105 b 1 1 40 Y 1 0", "foo"),
    ("foo 0109 b 1 1 40 Y 1 0", "foo"),
    ("foo 010903 b 1 -1 40 Y 1 0", "foo"),
    ("foo 010903 b 1 1 -40 Y 1 0", "foo"),
    ("foo 010903 b 1 1 40 Y 1 -1", "foo"),
    ("foo 010903 b 1 1 4503599627370497 Y 1 0", "foo"),
];

#[test]
fn a_refused_changeset_leaves_nothing_behind_inside_a_bigger_transaction() {
    for (bad, named) in BAD {
        let b = Site::new("B", FOO);
        b.run("INSERT INTO foo VALUES(1,2,3)");
        let tx = b.transaction();
        let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
        let kept = changeset("foo 010902 b 1 1 1 X 1 0");
        merge.changeset(kept.iter().map(OwnedChange::borrowed)).unwrap();
        let before = dump(&b);

        // The bad change comes last, after changes that would win and create rows, keys and sites.
        let lines = format!("foo 010901 b 9 2 30 Y 1 0\nfoo 010904 -1 NULL 1 30 Y 1 1\n{bad}");
        let refused = changeset(&lines);
        let error = merge.changeset(refused.iter().map(OwnedChange::borrowed)).unwrap_err();
        assert!(error.is_refused(), "{bad}: {error}");
        assert!(error.to_string().contains(named), "{bad}: {error}");
        assert_eq!(dump(&b), before, "{bad}");

        // The merge goes on as if nothing had been there.
        let next = changeset("foo 010905 b 1 1 1 X 1 1");
        let merged = merge.changeset(next.iter().map(OwnedChange::borrowed)).unwrap();
        assert_eq!((merged.applied, merged.db_version), (1, 2), "{bad}");
        tx.commit().unwrap();
        assert_eq!(b.db_version(), 2, "{bad}");
        b.run("INSERT INTO foo VALUES(6,7,8)");
        assert_eq!(b.db_version(), 3, "{bad}");
    }
}

#[test]
fn a_refused_changeset_moves_no_clock() {
    for (bad, _) in BAD {
        let b = Site::new("B", FOO);
        let before = dump(&b);
        let tx = b.transaction();
        let lines = format!("foo 010901 b 9 2 30 Y 1 0\n{bad}");
        let refused = changeset(&lines);
        let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
        merge.changeset(refused.iter().map(OwnedChange::borrowed)).unwrap_err();
        tx.commit().unwrap();
        assert_eq!(dump(&b), before, "{bad}");
        b.run("INSERT INTO foo VALUES(1,2,3)");
        assert_eq!(b.db_version(), 1, "{bad}");
    }
}

#[test]
fn a_refusal_names_no_cell_and_no_key() {
    let b = Site::new("B", FOO);
    for line in [
        "foo 010b0673656372657473 zz 'secret' 1 1 X 1 0",
        "foo 020b06736563726574010b06736563726574 b 'secret' 1 1 X 1 0",
        "foo 010b09736563726574 b 'secret' 1 1 X 1 0",
        "nope 010b06736563726574 b 'secret' 1 1 X 1 0",
    ] {
        let error = b.refusal(line);
        assert!(!error.contains("secret") && !error.contains("736563"), "{error}");
    }
}

#[test]
fn a_changeset_that_breaks_a_constraint_is_refused_and_its_transaction_can_be_rolled_back() {
    let schema = "CREATE TABLE positive(a PRIMARY KEY NOT NULL, b DEFAULT 1 CHECK (b > 0));
                  SELECT crsql_as_crr('positive')";
    let b = Site::new("B", schema);
    b.run("INSERT INTO positive VALUES(1, 1)");
    let before = dump(&b);

    let tx = b.transaction();
    let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
    let broken = changeset("positive 010902 b 5 1 30 X 1 0\npositive 010903 b -5 1 30 X 1 1");
    let error = merge.changeset(broken.iter().map(OwnedChange::borrowed)).unwrap_err();
    assert!(error.is_refused(), "{error}");
    assert!(error.to_string().contains("positive"), "{error}");
    tx.rollback().unwrap();
    assert_eq!(dump(&b), before);

    let merged = self::merge(&b, MergeOptions::default(), "positive 010902 b 5 1 1 X 1 0");
    assert_eq!((merged.applied, merged.db_version), (1, 2));
    assert_eq!(b.rows("positive"), ["1, 1", "2, 5"]);
}

#[test]
fn a_failing_insert_into_crsql_changes_undoes_itself_and_nothing_else() {
    let schema = "CREATE TABLE positive(a PRIMARY KEY NOT NULL, b DEFAULT 1 CHECK (b > 0), c);
                  SELECT crsql_as_crr('positive')";
    for (bad, what) in [
        ("positive 010901 b -5 2 30 X 1 0", "a cell of a live row"),
        ("positive 010903 b -5 1 30 X 1 0", "a new row"),
        ("positive 010901 b -5 1 30 X 3 0", "a new life of a live row"),
        ("positive 010902 b -5 1 30 X 3 0", "a new life of a dead row"),
        ("positive 010903 zz 1 1 30 X 3 0", "an unknown column of a new row"),
        ("positive 010901 zz 1 1 30 X 3 0", "an unknown column of a new life"),
    ] {
        let b = Site::new("B", schema);
        b.run("INSERT INTO positive VALUES(1, 1, 1); INSERT INTO positive VALUES(2, 1, 1)");
        b.run("DELETE FROM positive WHERE a = 2; BEGIN; INSERT INTO positive VALUES(5, 5, 5)");
        let before = dump(&b);
        b.refusal(bad);
        assert_eq!(dump(&b), before, "{what}");
        assert!(!b.conn.is_autocommit(), "{what}");
        b.query_is("SELECT crsql_rows_impacted(), crsql_internal_sync_bit()", &["0, 0"]);
        b.run("INSERT INTO positive VALUES(6, 6, 6); COMMIT");
        assert_eq!(b.rows("positive"), ["1, 1, 1", "5, 5, 5", "6, 6, 6"], "{what}");
        // The refused change did not move the clock to 30.
        assert_eq!(b.db_version(), 4, "{what}");
    }
}

#[test]
fn a_merge_needs_an_open_transaction() {
    let b = Site::new("B", FOO);
    b.run("BEGIN; INSERT INTO foo VALUES(1,2,3); COMMIT");
    assert!(b.conn.is_autocommit());
    let outcome = Merge::new(&b.conn, MergeOptions::default());
    assert!(outcome.is_err());
}

// ---- Bounds ----

#[test]
fn a_version_far_ahead_raises_ours_by_no_more_than_the_bound_in_a_transaction() {
    let options = || MergeOptions::default().max_db_version_raise(10);
    for (incoming, taken) in [(1, 1), (3, 3), (10, 10), (11, 10), (1_000_000, 10)] {
        let b = Site::new("B", FOO);
        let merged = merge(&b, options(), &format!("foo 010901 b 1 1 {incoming} X 1 0"));
        assert_eq!(merged.db_version, taken, "incoming {incoming}");
        b.changes_are(&format!("foo 010901 b 1 1 {taken} X 1 0"));
    }

    let b = Site::new("B", FOO);
    let tx = b.transaction();
    let mut two = Merge::new(&tx, options()).unwrap();
    for line in ["foo 010901 b 1 1 500 X 1 0", "foo 010902 b 1 1 900 X 1 1"] {
        two.changeset(changeset(line).iter().map(OwnedChange::borrowed)).unwrap();
    }
    tx.commit().unwrap();
    assert_eq!(b.db_version(), 10, "a transaction's changesets together");
    merge(&b, options(), "foo 010903 b 1 1 900 X 1 2");
    assert_eq!(b.db_version(), 20, "the next transaction");
}

#[test]
fn a_column_version_is_refused_beyond_its_bound_above_the_local_one() {
    let options = || MergeOptions::default().max_col_version_ahead(5);
    let with = |line: &str| {
        let b = Site::new("B", FOO);
        b.run("INSERT INTO foo VALUES(1,2,3); UPDATE foo SET b = 4");
        try_merge(&b, options(), line).map(|merged| merged.applied).map_err(|error| error.is_refused())
    };
    assert_eq!(with("foo 010901 b 9 7 1 X 1 0"), Ok(1));
    assert_eq!(with("foo 010901 b 9 8 1 X 1 0"), Err(true));
    assert_eq!(with("foo 010901 c 9 6 1 X 1 0"), Ok(1));
    assert_eq!(with("foo 010901 c 9 7 1 X 1 0"), Err(true));
    // An unknown row counts as 0.
    assert_eq!(with("foo 010902 c 9 5 1 X 1 0"), Ok(1));
    assert_eq!(with("foo 010902 c 9 6 1 X 1 0"), Err(true));
}

#[test]
fn a_causal_length_is_refused_beyond_its_bound_above_the_local_one() {
    let options = || MergeOptions::default().max_cl_ahead(4);
    let with = |line: &str| {
        let b = Site::new("B", FOO);
        b.run("INSERT INTO foo VALUES(1,2,3)");
        try_merge(&b, options(), line).map(|merged| merged.applied).map_err(|error| error.is_refused())
    };
    assert_eq!(with("foo 010901 -1 NULL 5 1 X 5 0"), Ok(1));
    assert_eq!(with("foo 010901 -1 NULL 6 1 X 6 0"), Err(true));
    assert_eq!(with("foo 010901 b 9 1 1 X 5 0"), Ok(1));
    assert_eq!(with("foo 010901 b 9 1 1 X 7 0"), Err(true));
    // An unknown row counts as 0.
    assert_eq!(with("foo 010902 -1 NULL 4 1 X 4 0"), Ok(1));
    assert_eq!(with("foo 010902 -1 NULL 5 1 X 5 0"), Err(true));
}

#[test]
fn a_changeset_refused_for_a_bound_leaves_nothing_behind() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    let before = dump(&b);
    let options = MergeOptions::server(1 << 20);
    for bad in [
        format!("foo 010901 b 9 {} 1 X 1 0", (1 << 24) + 2),
        format!("foo 010901 -1 NULL {0} 1 X {0} 0", (1 << 20) + 2),
    ] {
        let tx = b.transaction();
        let lines = changeset(&format!("foo 010902 b 1 1 30 X 1 0\n{bad}"));
        let mut merge = Merge::new(&tx, options).unwrap();
        let error = merge.changeset(lines.iter().map(OwnedChange::borrowed)).unwrap_err();
        assert!(error.is_refused(), "{error}");
        tx.commit().unwrap();
        assert_eq!(dump(&b), before);
    }
    b.run("INSERT INTO foo VALUES(2,2,3)");
    assert_eq!(b.db_version(), 2);
}

#[test]
fn the_servers_bounds_are_those_of_the_design() {
    let ahead = |line: String| {
        let b = Site::new("B", FOO);
        b.run("INSERT INTO foo VALUES(1,2,3)");
        try_merge(&b, MergeOptions::server(1 << 20), &line).map(|merged| merged.db_version).is_ok()
    };
    assert!(ahead(format!("foo 010901 b 9 {} 1 X 1 0", (1 << 24) + 1)));
    assert!(!ahead(format!("foo 010901 b 9 {} 1 X 1 0", (1 << 24) + 2)));
    assert!(ahead(format!("foo 010901 -1 NULL {0} 1 X {0} 0", (1 << 20) + 1)));
    assert!(!ahead(format!("foo 010901 -1 NULL {0} 1 X {0} 0", (1 << 20) + 2)));

    let b = Site::new("B", FOO);
    let merged = merge(&b, MergeOptions::server(1 << 20), &format!("foo 010901 b 9 1 {} X 1 0", 1_i64 << 50));
    assert_eq!(merged.db_version, 1 << 24);
}

// ---- Ties ----

#[test]
fn a_cell_won_by_comparing_values_becomes_the_merging_sites_own_if_asked() {
    let tie = "foo 010901 b 9 1 1 X 1 0";
    for (options, author) in [
        (MergeOptions::default(), "X"),
        (MergeOptions::default().ties_become_local(true), "B"),
        (MergeOptions::server(1 << 20), "B"),
    ] {
        let b = Site::new("B", FOO);
        b.run("INSERT INTO foo VALUES(1,2,3)");
        let merged = merge(&b, options, tie);
        assert_eq!((merged.applied, merged.won_by_value), (1, 1));
        b.changes_are(&format!("foo 010901 c 3 1 1 B 1 1\nfoo 010901 b 9 1 2 {author} 1 0"));
        // So the sender gets it back.
        let back = b.read(1, Some(site("X"))).len();
        assert_eq!(back, usize::from(author == "B"));
    }
}

#[test]
fn a_cell_won_by_its_version_or_as_a_new_one_stays_its_authors() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    let merged = merge(
        &b,
        MergeOptions::server(1 << 20),
        "foo 010901 b 9 2 1 X 1 0
         foo 010902 b 9 1 1 X 1 1
         foo 010903 -1 NULL 2 1 X 2 2",
    );
    assert_eq!((merged.applied, merged.won_by_value), (3, 0));
    b.query_is("SELECT count(*) FROM crsql_changes WHERE site_id IS NOT crsql_site_id()", &["3"]);
}

// ---- Versions no larger than a frame ----

/// At least the bytes that a change takes in a message.
fn size(change: &OwnedChange) -> usize {
    let val = match &change.val {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 8,
    };
    change.table.len() + change.pk.len() + change.cid.len() + val
}

/// What a site reads, cut where db_version changes.
fn versions(site: &Site) -> Vec<Vec<OwnedChange>> {
    let changes = site.read(0, None);
    changes.chunk_by(|one, next| one.db_version == next.db_version).map(<[OwnedChange]>::to_vec).collect()
}

fn two_hundred_rows() -> Site {
    let a = Site::new("A", FOO);
    a.run(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO foo SELECT i, hex(zeroblob(i % 40)), hex(zeroblob(10)) FROM n",
    );
    a
}

#[test]
fn a_big_changeset_is_cut_into_versions_of_bounded_size_between_rows() {
    let limit = 1000;
    let changes = two_hundred_rows().read(0, None);
    let b = Site::new("B", FOO);
    let merged = merge_changes(&b, MergeOptions::default().version_bytes(limit), &changes);
    assert_eq!(merged.applied, 400);

    let versions = versions(&b);
    assert!(versions.len() > 10, "{} versions", versions.len());
    let largest_row = 2 * (3 + 3 + 1) + 78 + 20;
    for version in &versions {
        let bytes: usize = version.iter().map(size).sum();
        assert!(bytes <= limit + largest_row, "{bytes} bytes in a version");
        // A row of two columns is never split.
        assert_eq!(version.len() % 2, 0);
    }
    let numbers: Vec<i64> = versions.iter().map(|version| version[0].db_version).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    assert_eq!(*numbers.last().unwrap(), merged.db_version);
    assert_eq!(b.db_version(), merged.db_version);
    assert_eq!(b.crr().stored_db_version().unwrap(), merged.db_version);
    assert_eq!(b.changes(), b.read(0, None).iter().map(OwnedChange::line).collect::<Vec<_>>());
}

#[test]
fn a_peer_that_reads_the_cut_versions_one_by_one_gets_everything() {
    let a = two_hundred_rows();
    let b = Site::new("B", FOO);
    merge_changes(&b, MergeOptions::default().version_bytes(500), &a.read(0, None));
    let c = Site::new("C", FOO);
    for version in versions(&b) {
        merge_changes(&c, MergeOptions::default(), &version);
    }
    assert_eq!(c.rows("foo"), a.rows("foo"));
}

#[test]
fn the_bytes_of_a_version_are_counted_across_the_changesets_of_a_merge() {
    let changes = two_hundred_rows().read(0, None);
    let b = Site::new("B", FOO);
    let tx = b.transaction();
    let mut merge = Merge::new(&tx, MergeOptions::default().version_bytes(1000)).unwrap();
    for row in changes.chunks(2) {
        merge.changeset(row.iter().map(OwnedChange::borrowed)).unwrap();
    }
    tx.commit().unwrap();
    for version in versions(&b) {
        let bytes: usize = version.iter().map(size).sum();
        assert!(bytes <= 1000 + 112, "{bytes} bytes in a version");
    }
}

#[test]
fn cells_that_a_new_life_resets_count_into_the_size_of_a_version() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    for row in 1..=100 {
        b.run(&format!("INSERT INTO foo VALUES({row}, hex(zeroblob(50)), hex(zeroblob(50)))"));
    }
    b.run("COMMIT");
    // Each of these is small and touches two cells of 100 bytes.
    let revivals: String = (1..=100).map(|row| format!("foo 0109{row:02x} -1 NULL 3 1 X 3 {row}\n")).collect();
    let limit = 1000;
    merge(&b, MergeOptions::default().version_bytes(limit), &revivals);
    let versions = versions(&b);
    assert_eq!(versions.iter().map(Vec::len).sum::<usize>(), 300);
    for version in versions {
        let bytes: usize = version.iter().map(size).sum();
        assert!(bytes <= limit + 250, "{bytes} bytes in a version");
    }
}

#[test]
fn a_small_changeset_stays_in_one_version() {
    let b = Site::new("B", FOO);
    let merged = merge(
        &b,
        MergeOptions::server(1 << 20),
        "foo 010901 b 1 1 1 X 1 0\nfoo 010901 c 1 1 1 X 1 1\nfoo 010902 b 1 1 1 X 1 2",
    );
    assert_eq!(merged.db_version, 1);
}

// ---- Positions ----

#[test]
fn a_position_that_was_never_set_is_the_beginning() {
    let b = Site::new("B", FOO);
    assert_eq!(b.crr().position(site("X")).unwrap(), Position { db_version: 0, seq: 0 });
}

#[test]
fn a_position_only_moves_forward() {
    let b = Site::new("B", FOO);
    let crr = b.crr();
    for (set, expected) in [((5, 3), (5, 3)), ((5, 1), (5, 3)), ((4, 9), (5, 3)), ((5, 4), (5, 4)), ((6, 0), (6, 0))] {
        crr.set_position(site("X"), Position { db_version: set.0, seq: set.1 }).unwrap();
        let position = crr.position(site("X")).unwrap();
        assert_eq!((position.db_version, position.seq), expected, "after {set:?}");
    }
    assert_eq!(crr.position(site("Y")).unwrap(), Position { db_version: 0, seq: 0 });
}

#[test]
fn positions_are_kept_where_the_reference_keeps_them() {
    let b = Site::new("B", FOO);
    // What is received of one table, and what is sent, are other rows.
    b.conn
        .execute_batch(
            "INSERT INTO crsql_tracked_peers (site_id, version, seq, tag, event)
             VALUES (x'00000000000000000000000000000001', 99, 9, 1, 0), (x'00000000000000000000000000000001', 98, 8, 0, 1)",
        )
        .unwrap();
    assert_eq!(b.crr().position(site("X")).unwrap().db_version, 0);
    b.crr().set_position(site("X"), Position { db_version: 7, seq: 2 }).unwrap();
    b.query_is(
        "SELECT site_id, version, seq, tag, event FROM crsql_tracked_peers ORDER BY version",
        &["X, 7, 2, 0, 0", "X, 98, 8, 0, 1", "X, 99, 9, 1, 0"],
    );
}

#[test]
fn a_position_is_rolled_back_with_its_changeset() {
    let b = Site::new("B", FOO);
    let tx = b.transaction();
    b.crr().set_position(site("X"), Position { db_version: 7, seq: 2 }).unwrap();
    tx.rollback().unwrap();
    assert_eq!(b.crr().position(site("X")).unwrap().db_version, 0);
}

/// Merges change lines in a transaction of their own.
fn merge(target: &Site, options: MergeOptions, lines: &str) -> Merged {
    merge_changes(target, options, &changeset(lines))
}

fn try_merge(target: &Site, options: MergeOptions, lines: &str) -> Result<Merged, Error> {
    let changes = changeset(lines);
    let tx = target.transaction();
    let merged = Merge::new(&tx, options)?.changeset(changes.iter().map(OwnedChange::borrowed))?;
    tx.commit().unwrap();
    Ok(merged)
}

fn merge_changes(target: &Site, options: MergeOptions, changes: &[OwnedChange]) -> Merged {
    let tx = target.transaction();
    let merged = Merge::new(&tx, options).unwrap().changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
    tx.commit().unwrap();
    merged
}

/// All rows of all tables, those of the engine included.
fn dump(site: &Site) -> Vec<(String, Vec<String>)> {
    let names = site.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'");
    names
        .into_iter()
        .map(|name| name.trim_matches('\'').to_owned())
        .map(|name| (site.rows(&name), name))
        .map(|(rows, name)| (name, rows))
        .collect()
}
