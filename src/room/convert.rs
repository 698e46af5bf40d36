//! Between the wire's changes and the engine's: borrowed on both sides, nothing is copied.

use rusqlite::types::ValueRef;
use tower_sqlite_sync_wire as wire;

/// Above this, a double no longer tells neighbouring integers apart (2^53 − 1, JavaScript's largest safe integer).
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A client's change as the engine merges it: authored by `sender`, whatever site it names, and with its numbers made exact.
pub(crate) fn incoming<'a>(change: wire::Change<'a>, sender: crr::SiteId) -> crr::Change<'a> {
    crr::Change {
        table: change.table,
        pk: change.pk,
        cid: change.cid,
        val: stored_value(change.val),
        col_version: change.col_version,
        db_version: change.db_version,
        site_id: Some(sender),
        cl: change.cl,
        seq: change.seq,
    }
}

/// An engine's change as it is sent: without its author, since clients take the sender for it.
pub(crate) fn outgoing<'a>(change: &crr::Change<'a>) -> wire::Change<'a> {
    wire::Change {
        table: change.table,
        pk: change.pk,
        cid: change.cid,
        val: sent_value(change.val),
        col_version: change.col_version,
        db_version: change.db_version,
        site: None,
        cl: change.cl,
        seq: change.seq,
    }
}

/// Clients send every number of up to 53 bits as a double. Whole ones become the integers that they were, so that ties between
/// equal versions come out alike wherever they are decided.
fn stored_value(value: wire::Value<'_>) -> ValueRef<'_> {
    match value {
        wire::Value::Null => ValueRef::Null,
        wire::Value::Integer(i) => ValueRef::Integer(i),
        wire::Value::Number(x) if x.is_nan() => ValueRef::Null,
        wire::Value::Number(x) if x.fract() == 0.0 && x.abs() <= MAX_SAFE_INTEGER =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits, as just tested")]
            ValueRef::Integer(x as i64)
        }
        wire::Value::Number(x) => ValueRef::Real(x),
        wire::Value::Boolean(b) => ValueRef::Integer(i64::from(b)),
        wire::Value::Text(text) => ValueRef::Text(text.as_bytes()),
        wire::Value::Blob(bytes) => ValueRef::Blob(bytes),
    }
}

fn sent_value(value: ValueRef<'_>) -> wire::Value<'_> {
    match value {
        ValueRef::Null => wire::Value::Null,
        ValueRef::Integer(i) => wire::Value::Integer(i),
        ValueRef::Real(x) => wire::Value::Number(x),
        // SQLite keeps whatever bytes it was given as text. Those that are no text can only travel as bytes.
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).map_or(wire::Value::Blob(bytes), wire::Value::Text),
        ValueRef::Blob(bytes) => wire::Value::Blob(bytes),
    }
}

/// The wire's site id as the engine's.
pub(crate) fn engine_site(site: wire::SiteId) -> crr::SiteId {
    crr::SiteId::from_bytes(*site.as_bytes())
}

/// The engine's site id as the wire's.
pub(crate) fn wire_site(site: crr::SiteId) -> wire::SiteId {
    wire::SiteId::from_bytes(*site.as_bytes())
}

/// The wire's position as the engine's.
pub(crate) fn engine_position(position: wire::Position) -> crr::Position {
    crr::Position { db_version: position.db_version, seq: position.seq }
}

/// The engine's position as the wire's.
pub(crate) fn wire_position(position: crr::Position) -> wire::Position {
    wire::Position { db_version: position.db_version, seq: position.seq }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_become_integers_and_others_stay_reals() {
        assert_eq!(stored_value(wire::Value::Number(5.0)), ValueRef::Integer(5));
        assert_eq!(stored_value(wire::Value::Number(-0.0)), ValueRef::Integer(0));
        assert_eq!(stored_value(wire::Value::Number(MAX_SAFE_INTEGER)), ValueRef::Integer((1 << 53) - 1));
        assert_eq!(stored_value(wire::Value::Number(9_007_199_254_740_992.0)), ValueRef::Real(9_007_199_254_740_992.0));
        assert_eq!(stored_value(wire::Value::Number(1.5)), ValueRef::Real(1.5));
        assert_eq!(stored_value(wire::Value::Number(f64::NAN)), ValueRef::Null);
        assert_eq!(stored_value(wire::Value::Number(f64::INFINITY)), ValueRef::Real(f64::INFINITY));
        assert_eq!(stored_value(wire::Value::Boolean(true)), ValueRef::Integer(1));
    }

    #[test]
    fn text_that_is_no_text_travels_as_bytes() {
        assert!(matches!(sent_value(ValueRef::Text(b"\xff")), wire::Value::Blob(b"\xff")));
        assert!(matches!(sent_value(ValueRef::Text("é".as_bytes())), wire::Value::Text("é")));
    }
}
