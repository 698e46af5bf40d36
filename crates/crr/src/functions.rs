//! The SQL functions.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};

use crate::pack::Packer;
use crate::settings::MERGE_EQUAL_VALUES;
use crate::state::{Engine, SharedEngine};
use crate::{Error, Result, fractional, local, migrate};

/// What `crsql_sha()` returns. A crate doesn't know the commit it was built from, so it is the version.
const BUILD: &str = concat!("crr ", env!("CARGO_PKG_VERSION"));

thread_local! {
    /// Where the engine of a connection is put for whoever has just asked that connection for it. Weak, because anyone may
    /// call the function, and nobody may keep an engine for longer than its connection.
    static HANDED_OVER: RefCell<Weak<Engine>> = const { RefCell::new(Weak::new()) };
}

/// The engine that was loaded into `conn`.
pub(crate) fn engine_of(conn: &Connection) -> Result<SharedEngine> {
    // An error can only mean that there is no such function. If it means more, the next statement will say so.
    let asked = conn.prepare_cached("SELECT crr_hand_over()").and_then(|mut ask| ask.query_row([], |_| Ok(())));
    let engine = HANDED_OVER.take();
    asked.map_err(|_| Error::NotLoaded)?;
    engine.upgrade().ok_or(Error::LoadedElsewhere)
}

/// Registers all functions.
pub(crate) fn register(conn: &Connection, engine: &SharedEngine) -> rusqlite::Result<()> {
    let ordinary = FunctionFlags::SQLITE_UTF8;
    let innocuous = ordinary | FunctionFlags::SQLITE_INNOCUOUS;
    let deterministic = FunctionFlags::SQLITE_DETERMINISTIC;
    let direct = ordinary | FunctionFlags::SQLITE_DIRECTONLY;

    let with = |name: &str, arguments: i32, flags: FunctionFlags, function: Function| {
        let engine = Arc::clone(engine);
        conn.create_scalar_function(name, arguments, flags, move |context| Ok(function(&engine, context)?))
    };
    let owner = Arc::clone(engine);
    conn.create_scalar_function("crr_hand_over", 0, direct, move |_| {
        HANDED_OVER.set(Arc::downgrade(&owner));
        Ok(Value::Null)
    })?;

    with("crsql_after_insert", -1, innocuous, |engine, context| tracked(local::after_insert(engine, context)))?;
    with("crsql_after_update", -1, innocuous, |engine, context| tracked(local::after_update(engine, context)))?;
    with("crsql_after_delete", -1, innocuous, |engine, context| tracked(local::after_delete(engine, context)))?;
    with("crsql_internal_sync_bit", -1, innocuous, sync_bit)?;
    with("crsql_site_id", 0, innocuous | deterministic, |engine, _| {
        Ok(Value::Blob(engine.site_id()?.as_bytes().to_vec()))
    })?;
    with("crsql_db_version", 0, innocuous, |engine, _| Ok(Value::Integer(engine.current_version()?)))?;
    with("crsql_next_db_version", -1, innocuous, next_db_version)?;
    with("crsql_get_seq", 0, innocuous | deterministic, |engine, _| Ok(Value::Integer(engine.clock.seq())))?;
    with("crsql_increment_and_get_seq", 0, innocuous, |engine, _| Ok(Value::Integer(engine.clock.take_seq()?)))?;
    with("crsql_rows_impacted", 0, innocuous, |engine, _| Ok(Value::Integer(engine.rows_impacted.get())))?;
    with("crsql_digest", -1, ordinary, digest)?;
    with("crsql_pack_columns", -1, ordinary, pack_columns)?;
    with("crsql_as_crr", -1, ordinary | deterministic, as_crr)?;
    with("crsql_as_table", 1, ordinary, as_table)?;
    with("crsql_begin_alter", -1, direct, begin_alter)?;
    with("crsql_commit_alter", -1, direct, commit_alter)?;
    with("crsql_automigrate", -1, ordinary, automigrate)?;
    with("crsql_config_set", 2, ordinary, config_set)?;
    with("crsql_config_get", 1, innocuous | deterministic, config_get)?;
    with("crsql_fract_as_ordered", -1, direct, fractional::call_as_ordered)?;
    with("crsql_fract_key_between", 2, innocuous | deterministic, fractional::call_key_between)?;
    with("crsql_fract_fix_conflict_return_old_key", -1, innocuous, fractional::call_fix_conflict)?;
    with("crsql_sha", 0, innocuous | deterministic, |_, _| Ok(Value::Text(BUILD.to_owned())))?;
    with("crsql_finalize", -1, direct, |engine, _| {
        engine.let_go_of_statements();
        Ok(Value::Text("finalized".to_owned()))
    })
}

/// What a function does with its arguments.
type Function = fn(&Engine, &Context<'_>) -> Result<Value>;

/// The result of a function that only triggers call.
fn tracked(outcome: Result<()>) -> Result<Value> {
    outcome.map(|()| Value::Integer(0))
}

fn sync_bit(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    if context.len() == 1 {
        engine.sync_bit.set(integer(context.get_raw(0)));
    }
    Ok(Value::Integer(engine.sync_bit.get()))
}

fn next_db_version(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let at_least = if context.len() == 1 { integer(context.get_raw(0)) } else { 0 };
    Ok(Value::Integer(engine.next_version(at_least)?))
}

fn pack_columns(_: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = |reason| Error::Misuse { function: "crsql_pack_columns", reason };
    let count = u8::try_from(context.len()).map_err(|_| misuse("more than 255 columns"))?;
    let mut packed = Vec::new();
    let mut packer = Packer::new(&mut packed, count);
    for at in 0..context.len() {
        packer.push(context.get_raw(at)).ok_or_else(|| misuse("a column is longer than 4 GiB"))?;
    }
    Ok(Value::Blob(packed))
}

/// `crsql_digest([table])`
fn digest(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = |reason| Error::Misuse { function: "crsql_digest", reason };
    let digest = match context.len() {
        0 => engine.digest()?,
        1 => engine.table_digest(context.get_raw(0).as_str().map_err(|_| misuse("the table's name isn't a text"))?)?,
        _ => return Err(misuse("it takes one table, or none for all")),
    };
    Ok(Value::Blob(digest.as_bytes().to_vec()))
}

fn as_crr(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    engine.as_crr(table_name("crsql_as_crr", context)?)?;
    Ok(Value::Text("OK".to_owned()))
}

fn begin_alter(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    engine.begin_alter(&engine.crr_name(table_name("crsql_begin_alter", context)?)?)?;
    Ok(Value::Text("OK".to_owned()))
}

fn commit_alter(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    engine.commit_alter(&engine.crr_name(table_name("crsql_commit_alter", context)?)?)?;
    Ok(Value::Null)
}

/// `crsql_automigrate(schema [, cleanup])`. The cleanup is run in the empty database that the schema was tried in.
fn automigrate(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = |reason| Error::Misuse { function: "crsql_automigrate", reason };
    let text = |at| context.get_raw(at).as_str().map_err(|_| misuse("the schema and the cleanup are texts"));
    let cleanup = match context.len() {
        1 => None,
        2 => Some(text(1)?),
        _ => return Err(misuse("it takes a schema, and statements to clean up with if need be")),
    };
    let plan = migrate::plan(engine, text(0)?, cleanup)?;
    engine.migrate(&plan)?;
    Ok(Value::Text("migration complete".to_owned()))
}

/// The table in `([schema,] table)`. The schema is ignored, and with three arguments or more the first is the table.
fn table_name<'a>(function: &'static str, context: &'a Context<'_>) -> Result<&'a str> {
    let misuse = |reason| Error::Misuse { function, reason };
    let at = match context.len() {
        0 => return Err(misuse("which table?")),
        2 => 1,
        _ => 0,
    };
    context.get_raw(at).as_str().map_err(|_| misuse("the table's name isn't a text"))
}

fn as_table(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    let misuse = Error::Misuse { function: "crsql_as_table", reason: "the table's name isn't a text" };
    engine.as_table(context.get_raw(0).as_str().map_err(|_| misuse)?)?;
    Ok(Value::Null)
}

fn config_set(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    known_setting("crsql_config_set", context.get_raw(0))?;
    let value = context.get::<Value>(1)?;
    engine.set_merge_equal_values(&value)?;
    Ok(value)
}

fn config_get(engine: &Engine, context: &Context<'_>) -> Result<Value> {
    known_setting("crsql_config_get", context.get_raw(0))?;
    Ok(Value::Integer(engine.merge_equal_values()?))
}

fn known_setting(function: &'static str, name: ValueRef<'_>) -> Result<()> {
    match name.as_str() {
        Ok(MERGE_EQUAL_VALUES) => Ok(()),
        _ => Err(Error::Misuse { function, reason: "unknown setting" }),
    }
}

/// A value as an integer, as C code would read it; what isn't a number counts as 0.
pub(crate) fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(number) => number,
        #[allow(clippy::cast_possible_truncation, reason = "saturates, as in SQLite")]
        ValueRef::Real(number) => number as i64,
        _ => 0,
    }
}
