//! Schemas that could not be applied to a room, and for how long that is not tried again.
//!
//! Clients that are refused connect again within seconds. Each time the outcome would be the same, and it is dear: a migration that
//! fails at its end has rewritten tables before, while nobody else could write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{RoomName, WantedSchema};
use crate::error::Error;

/// How long a refusal holds. The operator may mend what is in the way; another text of the schema is tried at once.
const HOLDS: Duration = Duration::from_secs(30);

/// Rooms that are remembered.
const MAX_ROOMS: usize = 1_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct RefusedSchemas {
    rooms: Mutex<HashMap<RoomName, Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    schema: WantedSchema,
    source: Arc<crr::Error>,
    until: Instant,
}

impl RefusedSchemas {
    /// Refuses the schema if it was refused a short while ago.
    pub(super) fn check(&self, room: &RoomName, schema: &WantedSchema) -> Result<(), Error> {
        match self.locked().get(room) {
            Some(refusal) if refusal.schema == *schema && refusal.until > Instant::now() => Err(Error::SchemaRefused {
                room: room.clone(),
                schema: schema.name.clone(),
                source: refusal.source.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Remembers that the schema was refused.
    pub(super) fn remember(&self, room: &RoomName, schema: &WantedSchema, source: &Arc<crr::Error>) {
        let now = Instant::now();
        let mut rooms = self.locked();
        if rooms.len() >= MAX_ROOMS {
            rooms.retain(|_, refusal| refusal.until > now);
            if rooms.len() >= MAX_ROOMS {
                rooms.clear();
            }
        }
        rooms.insert(room.clone(), Refusal { schema: schema.clone(), source: source.clone(), until: now + HOLDS });
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<RoomName, Refusal>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::SchemaName;

    fn schema(version: i64) -> WantedSchema {
        WantedSchema { name: SchemaName::parse("main.sql").unwrap(), version }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_for_that_room_and_text_and_a_while() {
        let refused = RefusedSchemas::default();
        let (room, other) = (RoomName::parse("a").unwrap(), RoomName::parse("b").unwrap());
        refused.remember(&room, &schema(2), &Arc::new(crr::Error::OutdatedPlan));
        assert!(matches!(refused.check(&room, &schema(2)), Err(Error::SchemaRefused { .. })));
        refused.check(&room, &schema(3)).unwrap();
        refused.check(&other, &schema(2)).unwrap();
        tokio::time::advance(HOLDS).await;
        refused.check(&room, &schema(2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_rooms_are_remembered_than_the_bound() {
        let refused = RefusedSchemas::default();
        for i in 0..MAX_ROOMS + 5 {
            let room = RoomName::parse(&format!("r{i}")).unwrap();
            refused.remember(&room, &schema(2), &Arc::new(crr::Error::OutdatedPlan));
        }
        assert!(refused.locked().len() <= MAX_ROOMS);
    }
}
