//! The intended differences from the reference, one by one.
//!
//! Those whose effects would spread are mended in the reference while a scenario runs, by SQL that says exactly what this
//! engine does instead:
//!
//! - **D1**, changing a primary key: the update trigger of the reference is replaced by one that stamps the moved entries as
//!   written now and here, and gives a row that overwrites another a new life. [`update_trigger`]
//! - **D11**, no-op merges leave lookaside rows behind: they are deleted after each merge. [`after_change`]
//! - What an alteration fills in at version 0, in a database without changes, nobody ever asks for: it gets version 1.
//!   [`raise_version_0`]
//! - An alteration remembers how new the newest entries were, but in the reference not those of its own transaction: so that
//!   entries that it removes can make the version go down. The right one is put in. [`keep_version`]
//! - A change that fails inside a transaction leaves behind what was done of it (the new life of a row whose column can't be
//!   set), and the sync bit, so that local writes are no longer tracked: both are undone. [`after_change`]
//! - A change that fails has taken a version all the same, which later writes of the transaction get: both engines take it
//!   then. [`take_version`]
//! - A change of a column that the table doesn't have is refused here in any case, and by the reference only if it doesn't
//!   lose to a later life of its row. Where only this engine refuses one, neither has done anything. [`is_refused_early`]
//!
//! The others are avoided by the generator, each where the comment says so, or left out of the comparison:
//!
//! - the version of the engine in `crsql_master`, and the texts of errors;
//! - the order of changes with equal `db_version` and `seq`, which is not defined;
//! - **D7**, `crsql_rows_impacted()` survives a rollback, and counts what the reference did of a change before that failed:
//!   compared is what merges without failures add to it.

use crate::cell::Cell;
use crate::engine::Answer;
use crate::sql::{identifier, literal};

/// Between these, a mended trigger has the text of the one that it replaces: whatever is rolled back, they stay together.
const REPLACED: (&str, &str) = ("/* instead of ", " */");

/// The tables whose update triggers can be mended.
pub(crate) const SELECT_CRRS: &str =
    "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name = tbl_name || '__crsql_itrig'";

/// The text of the trigger that a mended one replaces.
pub(crate) fn replaced(trigger: &str) -> Option<&str> {
    let (_, text) = trigger.split_once(REPLACED.0)?;
    Some(text.split_once(REPLACED.1)?.0)
}

pub(crate) fn select_update_trigger(table: &str) -> String {
    format!("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = {}", literal(&trigger_name(table)))
}

pub(crate) fn drop_update_trigger(table: &str) -> String {
    format!("DROP TRIGGER {}", identifier(&trigger_name(table)))
}

/// Name and place in the primary key of each column.
pub(crate) fn select_columns(table: &str) -> String {
    format!("SELECT name, pk FROM pragma_table_info({})", literal(table))
}

/// The statements that replace a CRR's update trigger, `original`, by one without D1. `columns` as [`select_columns`] finds them.
///
/// `crsql_after_update` is called twice: for the move alone, after which the entries are stamped, and for the columns alone.
pub(crate) fn update_trigger(table: &str, original: &str, columns: &[Vec<Cell>]) -> Vec<String> {
    let place = |column: &Vec<Cell>| column[1].integer().unwrap();
    let name = |column: &Vec<Cell>| identifier(column[0].text().unwrap());
    let mut keys: Vec<_> = columns.iter().filter(|column| place(column) > 0).collect();
    keys.sort_by_key(|column| place(column));
    let rest: Vec<_> = columns.iter().filter(|column| place(column) == 0).collect();

    let values = |row: &str, columns: &[&Vec<Cell>]| {
        columns.iter().map(|column| format!(", {row}.{}", name(column))).collect::<String>()
    };
    let moved = keys.iter().map(|key| {
        let key = name(key);
        format!("typeof(NEW.{key}) IS NOT typeof(OLD.{key}) OR NEW.{key} IS NOT OLD.{key}")
    });
    let moved = moved.collect::<Vec<_>>().join(" OR ");
    let same = keys.iter().map(|key| format!("{key} IS NEW.{key}", key = name(key))).collect::<Vec<_>>().join(" AND ");
    let (clock, lookaside) = (identifier(&format!("{table}__crsql_clock")), identifier(&format!("{table}__crsql_pks")));
    let key = format!("(SELECT __crsql_key FROM {lookaside} WHERE {same})");
    let stamps = rest.iter().map(|column| {
        format!(
            "UPDATE {clock} SET db_version = crsql_next_db_version(), seq = crsql_increment_and_get_seq(), site_id = 0
             WHERE ({moved}) AND key = {key} AND col_name = {};",
            literal(column[0].text().unwrap())
        )
    });
    let table_name = literal(table);
    let trigger = format!(
        "CREATE TRIGGER {trigger} AFTER UPDATE ON {base} WHEN crsql_internal_sync_bit() = 0 BEGIN {begin}{original}{end}
             INSERT INTO {clock} SELECT key, '-1', 1, 0, 0, 0 FROM {clock}
             WHERE ({moved}) AND key = {key} GROUP BY key HAVING sum(col_name = '-1') = 0;
             SELECT crsql_after_update({table_name}{new_keys}{old_keys}{new_rest}{new_rest});
             {stamps}
             SELECT crsql_after_update({table_name}{new_keys}{new_keys}{new_rest}{old_rest});
         END",
        begin = REPLACED.0,
        end = REPLACED.1,
        trigger = identifier(&trigger_name(table)),
        base = identifier(table),
        new_keys = values("NEW", &keys),
        old_keys = values("OLD", &keys),
        new_rest = values("NEW", &rest),
        old_rest = values("OLD", &rest),
        stamps = stamps.collect::<String>(),
    );
    vec![drop_update_trigger(table), trigger]
}

/// To be run before each insertion into `crsql_changes`.
pub(crate) const BEFORE_CHANGE: &str = "SAVEPOINT change";

/// To be run after each insertion into `crsql_changes`: undoes one that failed, and deletes the newest lookaside row if no
/// entry uses it.
pub(crate) fn after_change(table: &str, succeeded: bool) -> Vec<String> {
    let (clock, lookaside) = (identifier(&format!("{table}__crsql_clock")), identifier(&format!("{table}__crsql_pks")));
    let drop_unused_key = format!(
        "DELETE FROM {lookaside} WHERE __crsql_key = (SELECT max(__crsql_key) FROM {lookaside})
         AND NOT EXISTS (SELECT 1 FROM {clock} WHERE key = __crsql_key)"
    );
    let end = match succeeded {
        true => vec![drop_unused_key],
        false => vec!["ROLLBACK TO change".to_owned(), "SELECT crsql_internal_sync_bit(0)".to_owned()],
    };
    [end, vec!["RELEASE change".to_owned()]].concat()
}

/// Finds the entries that have no version.
pub(crate) fn select_version_0(table: &str) -> String {
    format!("SELECT 1 FROM {} WHERE db_version = 0", identifier(&format!("{table}__crsql_clock")))
}

/// Stamps them.
pub(crate) fn raise_version_0(table: &str) -> String {
    format!("UPDATE {} SET db_version = 1 WHERE db_version = 0", identifier(&format!("{table}__crsql_clock")))
}

/// Finds the newest version of a CRR's entries.
pub(crate) fn select_newest(table: &str) -> String {
    format!("SELECT max(db_version) FROM {}", identifier(&format!("{table}__crsql_clock")))
}

/// Has an alteration remember that version, if it remembers an older one.
pub(crate) fn keep_version(newest: i64) -> String {
    format!("UPDATE crsql_master SET value = max(value, {newest}) WHERE key = 'pre_compact_dbversion'")
}

/// Takes the version of a change.
pub(crate) fn take_version(db_version: i64) -> String {
    format!("SELECT crsql_next_db_version({db_version})")
}

/// Whether a change failed here for a reason that the reference didn't come to look for.
pub(crate) fn is_refused_early(ours: &Answer, reference: &Answer) -> bool {
    reference.is_ok() && ours.as_ref().is_err_and(|error| error.contains("has no column"))
}

fn trigger_name(table: &str) -> String {
    format!("{table}__crsql_utrig")
}
