//! Schemas that rooms can't have, and for how long that is not looked into again.
//!
//! Clients that are refused connect again within seconds, all that are out of date do, and each time the outcome would be the same. It is
//! dear: a room is opened for it, and a migration that fails at its end has rewritten tables before, while nobody else could write.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{RoomName, WantedSchema};
use crate::error::Error;

/// How long it holds that a schema can't be applied. The operator may mend what is in the way; another text of the schema is tried at
/// once.
const HOLDS: Duration = Duration::from_secs(30);

/// How long any other refusal holds, if it is not the first: the schema may be installed meanwhile.
const HOLDS_BRIEFLY: Duration = Duration::from_secs(2);

/// A refusal so long after another is a first one.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Rooms with their schemas that are remembered.
const MAX_REFUSALS: usize = 1_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct RefusedSchemas {
    refusals: Mutex<HashMap<(RoomName, WantedSchema), Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    error: Error,
    until: Instant,
    remembered: Instant,
}

impl RefusedSchemas {
    /// Refuses the schema if it was refused a short while ago.
    pub(super) fn check(&self, room: &RoomName, schema: &WantedSchema) -> Result<(), Error> {
        match self.locked().get(&(room.clone(), schema.clone())) {
            Some(refusal) if refusal.until > Instant::now() => refusal.error.about_the_schema().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Remembers why the schema was refused, if that is what the error is about.
    pub(super) fn remember(&self, room: &RoomName, schema: &WantedSchema, error: &Error) {
        let Some(error) = error.about_the_schema() else { return };
        let now = Instant::now();
        let mut refusals = self.locked();
        if refusals.len() >= MAX_REFUSALS {
            refusals.retain(|_, refusal| refusal.remembered > now);
            if refusals.len() >= MAX_REFUSALS {
                refusals.clear();
            }
        }
        let key = (room.clone(), schema.clone());
        let holds = match (&error, refusals.get(&key)) {
            (Error::SchemaRefused { .. }, _) => HOLDS,
            (_, Some(before)) if before.remembered > now => HOLDS_BRIEFLY,
            _ => Duration::ZERO,
        };
        refusals.insert(key, Refusal { error, until: now + holds, remembered: now + holds.max(REMEMBERED) });
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(RoomName, WantedSchema), Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::SchemaName;

    fn schema(version: i64) -> WantedSchema {
        WantedSchema { name: SchemaName::parse("main.sql").unwrap(), version }
    }

    fn cannot_be_applied(room: &RoomName) -> Error {
        Error::schema_refused(room, &schema(2).name, crr::Error::OutdatedPlan)
    }

    fn not_resident() -> Error {
        Error::SchemaNotResident { schema: schema(2).name, wanted: 2, resident: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_for_that_room_and_text_and_a_while() {
        let refused = RefusedSchemas::default();
        let (room, other) = (RoomName::parse("a").unwrap(), RoomName::parse("b").unwrap());
        refused.remember(&room, &schema(2), &cannot_be_applied(&room));
        assert!(matches!(refused.check(&room, &schema(2)), Err(Error::SchemaRefused { .. })));
        refused.check(&room, &schema(3)).unwrap();
        refused.check(&other, &schema(2)).unwrap();
        tokio::time::advance(HOLDS).await;
        refused.check(&room, &schema(2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_schema_that_is_not_here_is_looked_for_again_at_once_and_then_every_other_second() {
        let refused = RefusedSchemas::default();
        let room = RoomName::parse("a").unwrap();
        refused.remember(&room, &schema(2), &not_resident());
        refused.check(&room, &schema(2)).unwrap();
        for _ in 0..3 {
            refused.remember(&room, &schema(2), &not_resident());
            assert!(matches!(refused.check(&room, &schema(2)), Err(Error::SchemaNotResident { .. })));
            tokio::time::advance(HOLDS_BRIEFLY).await;
            refused.check(&room, &schema(2)).unwrap();
        }
        tokio::time::advance(REMEMBERED).await;
        refused.remember(&room, &schema(2), &not_resident());
        refused.check(&room, &schema(2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_the_schemas_fault_is_not_remembered() {
        let refused = RefusedSchemas::default();
        let room = RoomName::parse("a").unwrap();
        for _ in 0..3 {
            refused.remember(&room, &schema(2), &Error::OpenedTooFast);
        }
        refused.check(&room, &schema(2)).unwrap();
        assert!(refused.locked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_refusals_are_remembered_than_the_bound() {
        let refused = RefusedSchemas::default();
        for i in 0..MAX_REFUSALS + 5 {
            let room = RoomName::parse(&format!("r{i}")).unwrap();
            refused.remember(&room, &schema(2), &cannot_be_applied(&room));
        }
        assert!(refused.locked().len() <= MAX_REFUSALS);
    }
}
