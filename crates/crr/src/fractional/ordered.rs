//! What makes a table a list: triggers that turn the positions first (-1) and last (1) into keys, and a view through which
//! rows are put after others.

use rusqlite::params_from_iter;
use rusqlite::types::ValueRef;

use super::{key, key_between};
use crate::sql::{Bind, bind_all, identifier, join, literal};
use crate::state::Engine;
use crate::table::{self, Table};
use crate::{Crr, Error, Result};

impl Crr<'_> {
    /// Keeps rows of a table in an order of the application's choice, by keys in the column `order`. Rows that are equal in
    /// the columns `lists` are one list; without such columns, the whole table is.
    ///
    /// A row that is inserted with -1 in `order`, or updated to it, becomes the first of its list; with 1, the last. Through
    /// the view `<table>_fractindex` a row can be inserted, or moved by an update, to the place right after the row whose key
    /// is given in the columns `after_<key column>`; NULL there means first.
    ///
    /// The column should be of type TEXT or have no type. Calling this again replaces triggers and view.
    ///
    /// # Errors
    ///
    /// [`Error::Unorderable`] if the table, one of the columns or a primary key is missing. Nothing is changed then.
    pub fn as_ordered(&self, table: &str, order: &str, lists: &[&str]) -> Result<()> {
        self.engine.as_ordered(table, order, lists)
    }
}

impl Engine {
    /// Creates the triggers and the view, replacing those that there are.
    pub(crate) fn as_ordered(&self, table: &str, order: &str, lists: &[&str]) -> Result<()> {
        self.atomically(|db| {
            let table = self.orderable(table, lists.iter().copied().chain([order]))?;
            let list = List { table: &table, order, lists };
            db.execute_batch(&[list.drop_all(), list.position_triggers(), list.view()].concat())?;
            Ok(())
        })
    }

    /// Makes room after a row that shares its order key with others: the row gets a new one before it, and the result is a
    /// key between the new and the old.
    pub(crate) fn make_room_after(
        &self,
        table: &str,
        order: &str,
        lists: &[String],
        key_columns: &[String],
        key_values: &[ValueRef<'_>],
    ) -> Result<String> {
        let columns = lists.iter().chain(key_columns).map(String::as_str);
        let table = self.orderable(table, columns.chain([order]))?;
        let (base, order) = (table::base(&table.name), identifier(order));
        let is_row =
            join(key_columns.iter().zip(1..), " AND ", |(column, at)| format!("a.{} = ?{at}", identifier(column)));
        let same_list: String =
            lists.iter().map(|list| identifier(list)).map(|list| format!("b.{list} IS a.{list} AND ")).collect();
        let mut find = self.db().prepare(&format!(
            "SELECT a.{order},
                    (SELECT max(b.{order}) FROM {base} AS b
                     WHERE {same_list} b.{order} < a.{order} AND CAST(b.{order} AS INTEGER) NOT IN (-1, 1))
             FROM {base} AS a WHERE {is_row}"
        ))?;
        let mut rows = find.query(params_from_iter(key_values.iter().copied().map(Bind)))?;
        let row = rows.next()?.ok_or(Error::OrderKey { reason: "the row to come after is not there" })?;
        let (old, before) = (key(row.get_ref(0)?)?, key(row.get_ref(1)?)?);
        let moved = key_between(before, old)?;
        let freed = key_between(Some(&moved), old)?;
        drop(rows);

        let mut update =
            self.db().prepare(&format!("UPDATE {base} AS a SET {order} = ?{} WHERE {is_row}", key_values.len() + 1))?;
        bind_all(&mut update, 1, key_values.iter().copied().chain([ValueRef::Text(moved.as_bytes())]))?;
        update.raw_execute()?;
        Ok(freed)
    }

    /// The table, if it has these columns and a key, and can have the view's.
    fn orderable<'n>(&self, name: &str, columns: impl Iterator<Item = &'n str>) -> Result<Table> {
        let refused = |reason: String| Err(Error::Unorderable { table: name.to_owned(), reason });
        let Some(table) = Table::read(self.db(), name)? else { return refused("there is no such table".to_owned()) };
        for wanted in columns {
            if !all_columns(&table).any(|column| column.eq_ignore_ascii_case(wanted)) {
                return refused(format!("it has no column {wanted}"));
            }
        }
        if table.keys.is_empty() {
            return refused("it has no primary key".to_owned());
        }
        let mut after = table.keys.iter().map(|key| after(&key.name));
        if let Some(taken) = after.find(|after| all_columns(&table).any(|column| column.eq_ignore_ascii_case(after))) {
            return refused(format!("it has a column named {taken}, which its view needs for itself"));
        }
        Ok(table)
    }
}

/// The view through which rows of an ordered table are put after others.
pub(crate) fn view_name(table: &str) -> String {
    format!("{table}_fractindex")
}

/// The triggers that replace the positions -1 and 1 by keys: after an insert, and after an update.
pub(crate) fn position_trigger_names(table: &str) -> [String; 2] {
    [format!("__crsql_{table}_fractindex_pend_trig"), format!("__crsql_{table}_fractindex_ezmove")]
}

fn all_columns(table: &Table) -> impl Iterator<Item = &str> {
    table.keys.iter().chain(&table.columns).map(|column| column.name.as_str())
}

/// The column of the view that names the row to come after, by this column of its key.
fn after(key: &str) -> String {
    format!("after_{key}")
}

/// A table whose rows are ordered, in lists.
///
/// The triggers are kept in the file and may run in the reference engine: they may call its functions only.
struct List<'a> {
    table: &'a Table,
    order: &'a str,
    lists: &'a [&'a str],
}

impl List<'_> {
    fn drop_all(&self) -> String {
        // The view takes its triggers with it.
        let triggers = position_trigger_names(&self.table.name)
            .map(|trigger| format!("DROP TRIGGER IF EXISTS main.{};", identifier(&trigger)));
        let view = identifier(&view_name(&self.table.name));
        format!("{} DROP VIEW IF EXISTS main.{view};", triggers.concat())
    }

    /// The triggers that replace the positions -1 and 1 by keys.
    fn position_triggers(&self) -> String {
        let (table, order) = (identifier(&self.table.name), identifier(self.order));
        let keys = format!("FROM {table} WHERE {} CAST({order} AS INTEGER) NOT IN (-1, 1)", self.same_list());
        let is_row = self.keys(" AND ", |key| format!("{key} = NEW.{key}"));
        let events = ["INSERT".to_owned(), format!("UPDATE OF {order}")];
        let triggers = position_trigger_names(&self.table.name).into_iter().zip(events).map(|(trigger, event)| {
            format!(
                "CREATE TRIGGER main.{trigger} AFTER {event} ON {table}
                 WHEN CAST(NEW.{order} AS INTEGER) IN (-1, 1)
                 BEGIN
                     UPDATE {table} SET {order} = CASE CAST(NEW.{order} AS INTEGER)
                         WHEN -1 THEN crsql_fract_key_between(NULL, (SELECT min({order}) {keys}))
                         ELSE crsql_fract_key_between((SELECT max({order}) {keys}), NULL)
                     END WHERE {is_row};
                 END;",
                trigger = identifier(&trigger),
            )
        });
        triggers.collect()
    }

    /// The view, and the triggers that put rows after others.
    fn view(&self) -> String {
        let (table, order, view) = (identifier(&self.table.name), identifier(self.order), view_name(&self.table.name));
        let trigger = |suffix: &str| identifier(&format!("{view}{suffix}"));
        let others: Vec<String> =
            all_columns(self.table).filter(|column| !column.eq_ignore_ascii_case(self.order)).map(identifier).collect();
        format!(
            "CREATE VIEW main.{view_name} AS SELECT *, {after} FROM {table};
             CREATE TRIGGER main.{insert} INSTEAD OF INSERT ON {view_name}
             BEGIN
                 INSERT INTO {table} ({names}{order}) VALUES ({values}{key});
             END;
             CREATE TRIGGER main.{update} INSTEAD OF UPDATE ON {view_name}
             BEGIN
                 UPDATE {table} SET {assignments}{order} = {key} WHERE {is_row};
             END;",
            after = join(&self.table.keys, ", ", |key| format!("NULL AS {}", identifier(&after(&key.name)))),
            view_name = identifier(&view),
            insert = trigger("_insert_trig"),
            update = trigger("_update_trig"),
            names = others.iter().map(|column| format!("{column}, ")).collect::<String>(),
            values = others.iter().map(|column| format!("NEW.{column}, ")).collect::<String>(),
            assignments = others.iter().map(|column| format!("{column} = NEW.{column}, ")).collect::<String>(),
            key = self.key_after(),
            is_row = self.keys(" AND ", |key| format!("{key} = OLD.{key}")),
        )
    }

    /// A key right after the row that the view's columns name; the position -1 if there is none in the list.
    fn key_after(&self) -> String {
        let (table, order, same_list) = (identifier(&self.table.name), identifier(self.order), self.same_list());
        let is_row = join(&self.table.keys, " AND ", |key| {
            format!("{} = NEW.{}", identifier(&key.name), identifier(&after(&key.name)))
        });
        let above = format!("(SELECT {order} FROM {table} WHERE {same_list} {is_row})");
        let names = [&[self.table.name.as_str(), self.order], self.lists].concat();
        format!(
            "CASE (SELECT count(*) FROM {table} WHERE {same_list} {order} = {above})
                 WHEN 0 THEN -1
                 WHEN 1 THEN crsql_fract_key_between(
                     {above}, (SELECT min({order}) FROM {table} WHERE {same_list} {order} > {above}))
                 ELSE crsql_fract_fix_conflict_return_old_key({names}, -1, {key_names}, {key_values})
             END",
            names = join(names, ", ", literal),
            key_names = join(&self.table.keys, ", ", |key| literal(&key.name)),
            key_values = join(&self.table.keys, ", ", |key| format!("NEW.{}", identifier(&after(&key.name)))),
        )
    }

    /// The condition that a row is in the list of NEW, with an AND after it.
    fn same_list(&self) -> String {
        self.lists.iter().map(|list| identifier(list)).map(|list| format!("{list} IS NEW.{list} AND ")).collect()
    }

    fn keys(&self, separator: &str, part: impl Fn(String) -> String) -> String {
        join(&self.table.keys, separator, |key| part(identifier(&key.name)))
    }
}
