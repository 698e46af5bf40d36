//! Ordered tables: rows that go first, last and after others, in one list or many, and lists that sites change at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use proptest::prelude::*;
use site::{EMPTY, Site};

/// One list, the whole table.
const TODO: &str = "
    CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, text, ord TEXT);
    SELECT crsql_as_crr('todo');
    SELECT crsql_fract_as_ordered('todo', 'ord');";

/// The ids in their order.
fn order(site: &Site) -> Vec<String> {
    site.query("SELECT id FROM todo ORDER BY ord, id")
}

// ---- Places ----

#[test]
fn rows_go_first_last_and_after_others() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', -1)");
    assert_eq!(order(&a), ["3", "1", "2"]);
    a.run(
        "INSERT INTO todo_fractindex (id, text, after_id) VALUES (4, 'd', 1), (5, 'e', 1), (6, 'f', NULL), (7, 'g', 2)",
    );
    assert_eq!(order(&a), ["6", "3", "1", "5", "4", "2", "7"]);
    a.query_is("SELECT text FROM todo WHERE id = 4", &["'d'"]);
    a.query_is("SELECT count(*), count(DISTINCT ord) FROM todo WHERE typeof(ord) = 'text'", &["7, 7"]);
}

#[test]
fn the_first_keys_are_those_of_the_reference() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', -1)");
    a.run("INSERT INTO todo_fractindex (id, after_id) VALUES (4, 1)");
    a.query_is("SELECT id, ord FROM todo ORDER BY id", &["1, 'a '", "2, 'a!'", "3, 'Z~'", "4, 'a P'"]);
}

#[test]
fn rows_are_moved_by_a_position_or_through_the_view() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'd', 1)");
    a.run("UPDATE todo SET ord = -1 WHERE id = 4");
    assert_eq!(order(&a), ["4", "1", "2", "3"]);
    a.run("UPDATE todo SET ord = 1 WHERE id = 1");
    assert_eq!(order(&a), ["4", "2", "3", "1"]);
    a.run("UPDATE todo_fractindex SET after_id = 2 WHERE id = 4");
    assert_eq!(order(&a), ["2", "4", "3", "1"]);
    a.run("UPDATE todo_fractindex SET after_id = NULL WHERE id = 3");
    assert_eq!(order(&a), ["3", "2", "4", "1"]);
    a.run("UPDATE todo_fractindex SET after_id = 1, text = 'moved' WHERE id = 3");
    assert_eq!(order(&a), ["2", "4", "1", "3"]);
    a.query_is("SELECT text FROM todo WHERE id = 3", &["'moved'"]);
}

#[test]
fn several_rows_inserted_at_once_keep_the_order_of_the_statement() {
    let a = Site::new("A", TODO);
    a.run(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO todo SELECT i, NULL, 1 FROM n",
    );
    assert_eq!(order(&a), (1..=200).map(|id| id.to_string()).collect::<Vec<_>>());
    a.query_is("SELECT max(length(ord)) FROM todo", &["3"]);
}

#[test]
fn a_position_may_be_written_as_text_or_a_number() {
    let a = Site::new(
        "A",
        "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, ord); SELECT crsql_fract_as_ordered('todo', 'ord')",
    );
    a.run("INSERT INTO todo VALUES (1, 1), (2, '1'), (3, -1), (4, '-1')");
    assert_eq!(order(&a), ["4", "3", "1", "2"]);
}

// ---- Lists ----

#[test]
fn each_list_has_an_order_of_its_own() {
    let a = Site::new(
        "A",
        "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, \"the list\", owner, ord);
         SELECT crsql_fract_as_ordered('todo', 'ord', 'the list', 'owner')",
    );
    a.run("INSERT INTO todo VALUES (1, 'x', 1, 1), (2, 'y', 1, 1), (3, 'x', 1, -1), (4, 'x', 2, 1), (5, NULL, 1, 1), (6, NULL, 1, 1)");
    a.query_is("SELECT ord FROM todo WHERE id IN (1, 2, 4, 5)", &["'a '"; 4]);
    a.query_is("SELECT id FROM todo WHERE \"the list\" IS NULL ORDER BY ord", &["5", "6"]);
    a.run("INSERT INTO todo_fractindex (id, \"the list\", owner, after_id) VALUES (7, 'x', 1, 3)");
    a.query_is("SELECT id FROM todo WHERE \"the list\" = 'x' AND owner = 1 ORDER BY ord", &["3", "7", "1"]);
    // The row to come after is in another list: it becomes the first of its own.
    a.run("INSERT INTO todo_fractindex (id, \"the list\", owner, after_id) VALUES (8, 'y', 1, 3)");
    a.query_is("SELECT id FROM todo WHERE \"the list\" = 'y' ORDER BY ord", &["8", "2"]);
    // Moved to another list, after a row of that.
    a.run("UPDATE todo_fractindex SET \"the list\" = 'y', after_id = 8 WHERE id = 1");
    a.query_is("SELECT id FROM todo WHERE \"the list\" = 'y' ORDER BY ord", &["8", "1", "2"]);
}

// ---- Tables of all kinds ----

#[test]
fn tables_with_any_key_and_any_name_can_be_ordered() {
    for (definition, key) in [
        ("id INTEGER PRIMARY KEY NOT NULL", "id"),
        ("id TEXT PRIMARY KEY NOT NULL", "id"),
        ("\"o'id\" PRIMARY KEY NOT NULL", "\"o'id\""),
    ] {
        let after = key.replace("\"o'", "\"after_o'").replace("id", if key == "id" { "after_id" } else { "id" });
        for options in ["", "WITHOUT ROWID"] {
            let a =
                Site::new("A", &format!("CREATE TABLE \"my \"\"list\"\"'s\" ({definition}, \"the order\") {options}"));
            a.crr().as_crr("my \"list\"'s").unwrap();
            a.crr().as_ordered("my \"list\"'s", "the order", &[]).unwrap();
            a.run("INSERT INTO \"my \"\"list\"\"'s\" VALUES (1, 1), (2, 1)");
            a.run(&format!("INSERT INTO \"my \"\"list\"\"'s_fractindex\" ({key}, {after}) VALUES (3, 1)"));
            a.query_is(
                &format!("SELECT CAST({key} AS INTEGER) FROM \"my \"\"list\"\"'s\" ORDER BY \"the order\""),
                &["1", "3", "2"],
            );
        }
    }
}

#[test]
fn the_view_shows_the_row_and_no_place_to_come_after() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 1)");
    a.query_is("SELECT * FROM todo_fractindex", &["1, 'a', 'a ', NULL"]);
    a.query_is("SELECT group_concat(name) FROM pragma_table_info('todo_fractindex')", &["'id,text,ord,after_id'"]);
}

#[test]
fn a_position_costs_a_second_write_of_the_cell_as_in_the_reference() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 1)");
    a.query_is("SELECT cid, col_version FROM crsql_changes ORDER BY cid", &["'ord', 2", "'text', 1"]);
}

#[test]
fn ordering_a_table_again_replaces_how_it_was_ordered() {
    let a = Site::new(
        "A",
        "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, list, ord); SELECT crsql_fract_as_ordered('todo', 'ord')",
    );
    let before = a.query("SELECT name FROM sqlite_schema ORDER BY name");
    a.run("SELECT crsql_fract_as_ordered('todo', 'ord', 'list'); SELECT crsql_fract_as_ordered('TODO', 'ORD', 'LIST')");
    assert_eq!(
        a.query("SELECT lower(name) FROM sqlite_schema ORDER BY 1"),
        before.iter().map(|n| n.to_lowercase()).collect::<Vec<_>>()
    );
    a.run("INSERT INTO todo VALUES (1, 'x', 1), (2, 'y', 1)");
    a.query_is("SELECT count(DISTINCT ord) FROM todo", &["1"]);
}

// ---- Rows that share a key ----

#[test]
fn a_row_fits_between_rows_that_share_a_key() {
    let a = Site::new("A", TODO);
    a.run(
        "INSERT INTO todo VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1); UPDATE todo SET ord = 'a!' WHERE id IN (2, 3)",
    );
    a.run("INSERT INTO todo_fractindex (id, after_id) VALUES (4, 2)");
    // Row 2 got a key before the shared one, so that the new row fits between.
    assert_eq!(order(&a), ["1", "2", "4", "3"]);
    a.query_is("SELECT count(DISTINCT ord) FROM todo", &["4"]);
    a.query_is("SELECT ord FROM todo WHERE id = 3", &["'a!'"]);
}

#[test]
fn a_list_whose_rows_all_share_one_key_can_be_sorted_out() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, '', 'a '), (2, '', 'a '), (3, '', 'a ')");
    a.run("UPDATE todo_fractindex SET after_id = 2 WHERE id = 1");
    let order = order(&a);
    let place = |id: &str| order.iter().position(|other| other == id).unwrap();
    assert_eq!(place("1"), place("2") + 1, "{order:?}");
    a.query_is("SELECT count(DISTINCT ord) FROM todo", &["3"]);
}

#[test]
fn the_function_of_the_triggers_returns_the_key_that_became_free() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, '', 'a0'), (2, '', 'a2'), (3, '', 'a2')");
    a.query_is("SELECT crsql_fract_fix_conflict_return_old_key('todo', 'ord', -1, 'id', 2)", &["'a1P'"]);
    a.query_is("SELECT id, ord FROM todo", &["1, 'a0'", "2, 'a1'", "3, 'a2'"]);
    for call in [
        "crsql_fract_fix_conflict_return_old_key('todo', 'ord', 'id', 2)",
        "crsql_fract_fix_conflict_return_old_key('todo', 'ord', -1, 'id')",
        "crsql_fract_fix_conflict_return_old_key('todo', 'ord', -1)",
        "crsql_fract_fix_conflict_return_old_key('todo', 'none', -1, 'id', 2)",
        "crsql_fract_fix_conflict_return_old_key('none', 'ord', -1, 'id', 2)",
        "crsql_fract_fix_conflict_return_old_key('todo', 'ord', -1, 'id', 99)",
        "crsql_fract_fix_conflict_return_old_key('todo', 5, -1, 'id', 2)",
    ] {
        a.error(&format!("SELECT {call}"));
    }
    a.query_is("SELECT id, ord FROM todo", &["1, 'a0'", "2, 'a1'", "3, 'a2'"]);
}

// ---- What can't be ordered ----

#[test]
fn what_is_missing_is_named() {
    let a = Site::new(
        "A",
        "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, ord, after_id); CREATE TABLE bare (ord); CREATE VIEW v AS SELECT * FROM bare",
    );
    let before = a.query("SELECT * FROM sqlite_schema");
    for (call, named) in [
        ("crsql_fract_as_ordered('none', 'ord')", "none"),
        ("crsql_fract_as_ordered('bare', 'position')", "position"),
        ("crsql_fract_as_ordered('bare', 'ord', 'list')", "list"),
        ("crsql_fract_as_ordered('bare', 'ord')", "primary key"),
        ("crsql_fract_as_ordered('v', 'ord')", "v"),
        ("crsql_fract_as_ordered('todo', 'ord')", "after_id"),
        ("crsql_fract_as_ordered('todo')", "column"),
        ("crsql_fract_as_ordered()", "table"),
        ("crsql_fract_as_ordered('todo', NULL)", "text"),
        ("crsql_fract_as_ordered(1, 'ord')", "text"),
    ] {
        let error = a.error(&format!("SELECT {call}"));
        assert!(error.contains(named), "{call}: {error}");
    }
    assert_eq!(a.query("SELECT * FROM sqlite_schema"), before);
}

#[test]
fn a_key_that_is_none_is_an_error_and_the_list_stays_as_it_is() {
    let a = Site::new("A", TODO);
    a.run("INSERT INTO todo VALUES (1, 'a', 'not a key'), (2, 'b', NULL)");
    a.error("INSERT INTO todo_fractindex (id, after_id) VALUES (3, 1)");
    a.error("INSERT INTO todo VALUES (3, 'c', 1)");
    assert_eq!(a.rows("todo"), ["1, 'a', 'not a key'", "2, 'b', NULL"]);
    // One without a key is in no order: what should come after it comes first.
    a.run("UPDATE todo SET ord = 'a0' WHERE id = 1; INSERT INTO todo_fractindex (id, after_id) VALUES (3, 2)");
    a.query_is("SELECT id FROM todo WHERE ord IS NOT NULL ORDER BY ord", &["3", "1"]);
}

#[test]
fn crsql_fract_key_between_takes_two_keys_or_open_ends() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT crsql_fract_key_between(NULL, NULL)", &["'a '"]);
    a.query_is("SELECT crsql_fract_key_between('a0', 'a1')", &["'a0P'"]);
    for call in ["('a1', 'a0')", "('', 'a0')", "(1, NULL)", "(NULL, x'6130')", "('a0')", "()", "('a0', 'a1', 'a2')"] {
        a.error(&format!("SELECT crsql_fract_key_between{call}"));
    }
}

// ---- Sites that change a list at once ----

#[test]
fn sites_that_move_rows_at_once_end_in_the_same_order() {
    let (a, b) = (Site::new("A", TODO), Site::new("B", TODO));
    a.run("INSERT INTO todo VALUES (1, '', 1), (2, '', 1), (3, '', 1), (4, '', 1)");
    b.pull_from(&a, 0);
    a.run("UPDATE todo_fractindex SET after_id = 4 WHERE id = 1; INSERT INTO todo_fractindex (id, after_id) VALUES (10, 2)");
    b.run("UPDATE todo_fractindex SET after_id = 3 WHERE id = 1; INSERT INTO todo_fractindex (id, after_id) VALUES (20, 2)");
    a.pull_from(&b, 0);
    b.pull_from(&a, 0);
    assert_eq!(a.rows("todo"), b.rows("todo"));
    let shared = order(&a);
    assert_eq!(shared.len(), 6);
    // Both sites put a row at the same place, and both rows got the same key.
    a.query_is("SELECT count(DISTINCT ord) FROM todo WHERE id IN (10, 20)", &["1"]);
    a.run("INSERT INTO todo_fractindex (id, after_id) VALUES (30, 10)");
    b.pull_from(&a, 0);
    assert_eq!(order(&a), order(&b));
    assert_eq!(order(&b), ["2", "10", "30", "20", "3", "4", "1"].map(str::to_owned).to_vec());
}

/// Something done to a list: a new row, or a move. The number picks the row to come after, or an end.
#[derive(Clone, Debug)]
enum Act {
    Insert(usize),
    Move(usize, usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<usize>().prop_map(Act::Insert),
        (any::<usize>(), any::<usize>()).prop_map(|(row, after)| Act::Move(row, after)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_is_what_a_vector_would_be(acts in prop::collection::vec(act(), 1..60)) {
        let a = Site::new("A", TODO);
        let mut model: Vec<usize> = Vec::new();
        for (id, act) in acts.iter().enumerate() {
            let (id, after) = match act {
                Act::Insert(after) => (id, *after),
                Act::Move(row, after) if !model.is_empty() => (model.remove(row % model.len()), *after),
                Act::Move(_, after) => (id, *after),
            };
            let place = after % (model.len() + 1);
            let after = place.checked_sub(1).map_or("NULL".to_owned(), |at| model[at].to_string());
            let exists = a.query(&format!("SELECT 1 FROM todo WHERE id = {id}")).len() == 1;
            a.run(&match (exists, place == model.len()) {
                (false, true) => format!("INSERT INTO todo VALUES ({id}, '', 1)"),
                (false, false) => format!("INSERT INTO todo_fractindex (id, after_id) VALUES ({id}, {after})"),
                (true, true) => format!("UPDATE todo SET ord = 1 WHERE id = {id}"),
                (true, false) => format!("UPDATE todo_fractindex SET after_id = {after} WHERE id = {id}"),
            });
            model.insert(place, id);
            prop_assert_eq!(order(&a), model.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        let b = Site::new("B", TODO);
        b.pull_from(&a, 0);
        prop_assert_eq!(order(&b), order(&a));
    }
}
