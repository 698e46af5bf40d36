//! Fractional ordering: lists whose order is a column of keys, between any two of which another fits. So a row moves by
//! changing one cell, and concurrent moves merge like any other writes.

mod key;
mod ordered;

use rusqlite::functions::Context;
use rusqlite::types::{Value, ValueRef};

pub use self::key::key_between;
pub(crate) use self::ordered::{position_trigger_names, view_name};
use crate::state::Engine;
use crate::{Error, Result};

/// `crsql_fract_key_between(a, b)`
pub(crate) fn call_key_between(_: &Engine, context: &Context<'_>) -> Result<Value> {
    let (a, b) = (key(context.get_raw(0))?, key(context.get_raw(1))?);
    Ok(Value::Text(key_between(a, b)?))
}

/// `crsql_fract_as_ordered(table, order column, list columns…)`
pub(crate) fn call_as_ordered(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = |reason| Error::Misuse { function: "crsql_fract_as_ordered", reason };
    let names: Vec<&str> = (0..context.len())
        .map(|at| context.get_raw(at).as_str().map_err(|_| misuse("a name isn't a text")))
        .collect::<Result<_>>()?;
    let [table, order, lists @ ..] = names.as_slice() else {
        return Err(misuse("it needs a table and the column to order by"));
    };
    engine.as_ordered(table, order, lists)?;
    Ok(Value::Null)
}

/// `crsql_fract_fix_conflict_return_old_key(table, order column, list columns…, -1, key columns…, key values…)`
///
/// What the triggers call when a row is to be put right after one that shares its key with others.
pub(crate) fn call_fix_conflict(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = |reason| Error::Misuse { function: "crsql_fract_fix_conflict_return_old_key", reason };
    let arguments: Vec<ValueRef<'_>> = (0..context.len()).map(|at| context.get_raw(at)).collect();
    let names = |values: &[ValueRef<'_>]| -> Result<Vec<String>> {
        let name = |value: &ValueRef<'_>| value.as_str().map(str::to_owned).map_err(|_| misuse("a name isn't a text"));
        values.iter().map(name).collect()
    };
    let mut parts = arguments.splitn(2, |value| matches!(value, ValueRef::Integer(-1)));
    let (Some(names_before), Some(key)) = (parts.next(), parts.next()) else {
        return Err(misuse("-1 has to end the list columns"));
    };
    let names_before = names(names_before)?;
    let [table, order, lists @ ..] = names_before.as_slice() else {
        return Err(misuse("it needs a table and the column to order by"));
    };
    if key.is_empty() || key.len() % 2 != 0 {
        return Err(misuse("it needs a value for each key column"));
    }
    let (key_columns, key_values) = key.split_at(key.len() / 2);
    let new_key = engine.make_room_after(table, order, lists, &names(key_columns)?, key_values)?;
    Ok(Value::Text(new_key))
}

/// An order key, or an open end.
fn key(value: ValueRef<'_>) -> Result<Option<&str>> {
    value.as_str_or_null().map_err(|_| Error::OrderKey { reason: "a key isn't a text" })
}
