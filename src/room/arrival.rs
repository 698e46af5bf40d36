//! A copy of a room that another process writes, until it has come as far as its primary says.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::database::ReadConnections;
use super::{Opened, RoomName, WantedSchema, blocking};
use crate::error::Error;
use crate::primary::PrimaryUnavailable;

/// Where the copy is looked for.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) room: &'a RoomName,
    pub(super) path: &'a Path,
    pub(super) reads: &'a ReadConnections,
}

impl Arrival<'_> {
    /// Waits until the copy has this schema, as the primary says that it has. It may be late: a copy of an earlier primary's may have come
    /// further than this one's, so that its position says nothing.
    pub(super) async fn wait(
        &self,
        schema: &WantedSchema,
        changed: &mut watch::Receiver<u64>,
        patience: Duration,
    ) -> Result<Opened, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let looked = self.look().await;
            let admitted = looked.and_then(|opened| opened.schema.admit(self.room, schema).map(|()| opened));
            let late = match admitted {
                Err(error) if error.is_of_a_late_copy() => error,
                admitted => return admitted,
            };
            tracing::debug!(room = %self.room, %late, "waiting for the copy");
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::GoingAway),
                Err(_) => {
                    let source = PrimaryUnavailable { reason: format!("its copy is late: {late}") };
                    return Err(Error::PrimaryUnavailable { room: self.room.clone(), source });
                }
            }
        }
    }

    /// What the copy says now.
    pub(super) async fn look(&self) -> Result<Opened, Error> {
        let missing = || Error::NoSuchRoom { room: self.room.clone() };
        let (room, path) = (self.room.clone(), self.path.to_owned());
        let exists = {
            let path = path.clone();
            blocking(move || Ok(path.exists())).await?
        };
        // Reading it would create it.
        if !exists {
            return Err(missing());
        }
        let looked =
            self.reads.run(move |conn| match Opened::look(conn).map_err(|error| Error::engine(&room, error))? {
                Some(opened) => opened.in_file(&room, &path, conn).map(Some),
                None => Ok(None),
            });
        looked.await??.ok_or_else(missing)
    }
}
