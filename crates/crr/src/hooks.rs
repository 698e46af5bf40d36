//! The commit hook and the rollback hook. rusqlite sets them on connections that it owns; the host of a loadable extension
//! owns its own.
#![allow(unsafe_code, reason = "hooks of a connection that isn't rusqlite's")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rusqlite::{Connection, ffi};

use crate::callback::guarded;
use crate::state::{Engine, SharedEngine};

/// The engines that hooks are called for, by their tickets.
///
/// A hook is handed one pointer, and is never told that its connection is closed or that another hook takes its place: nobody
/// could free what a pointer to an engine keeps alive. So it gets a number that looks like one.
static ENGINES: Mutex<BTreeMap<usize, Weak<Engine>>> = Mutex::new(BTreeMap::new());

/// An engine's place among those that hooks are called for. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(usize);

impl Ticket {
    fn new(engine: &SharedEngine) -> Ticket {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let ticket = Ticket(NEXT.fetch_add(1, Ordering::Relaxed));
        engines().insert(ticket.0, Arc::downgrade(engine));
        ticket
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        engines().remove(&self.0);
    }
}

/// Sets both hooks of the engine's connection.
pub(crate) fn register(conn: &Connection, engine: &SharedEngine) {
    let ticket = engine.ticket.get_or_init(|| Ticket::new(engine));
    let ticket: *mut c_void = ptr::without_provenance_mut(ticket.0);
    // SAFETY: the handle is open, the functions have the types that SQLite asks for, and they never follow the pointer.
    unsafe {
        ffi::sqlite3_commit_hook(conn.handle(), Some(committed), ticket);
        ffi::sqlite3_rollback_hook(conn.handle(), Some(rolled_back), ticket);
    }
}

unsafe extern "C" fn committed(ticket: *mut c_void) -> c_int {
    tell(ticket, Engine::committed);
    // Anything else would turn the commit into a rollback.
    0
}

unsafe extern "C" fn rolled_back(ticket: *mut c_void) {
    tell(ticket, Engine::rolled_back);
}

fn tell(ticket: *mut c_void, event: fn(&Engine)) {
    // What the engine remembers is checked before it is used, so that a failure here needs no answer.
    let _ = guarded(|| {
        let engine = engines().get(&ticket.addr()).and_then(Weak::upgrade);
        engine.as_deref().map(event);
        Ok(())
    });
}

fn engines() -> MutexGuard<'static, BTreeMap<usize, Weak<Engine>>> {
    ENGINES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{functions, load};

    #[test]
    fn an_engine_is_forgotten_when_its_connection_is_closed() {
        let conn = Connection::open_in_memory().unwrap();
        load(&conn).unwrap();
        let engine = functions::engine_of(&conn).unwrap();
        let (ticket, weak) = (engine.ticket.get().unwrap().0, Arc::downgrade(&engine));
        drop(engine);
        assert!(engines().contains_key(&ticket));
        conn.close().unwrap();
        assert!(weak.upgrade().is_none());
        assert!(!engines().contains_key(&ticket));
    }
}
