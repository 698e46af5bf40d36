//! What a message of changes may hold, whatever the room's schema says.

use tower_sqlite_sync_wire::{ChangeList, Value};

use super::{RoomName, blocking};
use crate::config::SyncConfig;
use crate::error::Error;

/// Bytes of changes from which on it takes long to look at all of them.
const LARGE: usize = 256 << 10;

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    changes: usize,
    value: usize,
    key: usize,
}

impl Bounds {
    pub(super) fn new(config: &SyncConfig) -> Self {
        Self { changes: config.max_message_changes(), value: config.max_value_bytes(), key: config.max_key_bytes() }
    }

    /// Looks at changes before anything else is done with them; at many of them on a thread that may block.
    ///
    /// # Errors
    ///
    /// [`Error::ChangesetTooLarge`].
    pub(super) async fn check(self, room: &RoomName, changes: &ChangeList) -> Result<(), Error> {
        let refused = |reason| Error::ChangesetTooLarge { room: room.clone(), reason };
        if changes.byte_len() <= LARGE {
            return self.look(changes).map_err(refused);
        }
        let changes = changes.clone();
        blocking(move || Ok(self.look(&changes))).await?.map_err(refused)
    }

    /// What is too large. The table comes last, for it may be a long name.
    fn look(self, changes: &ChangeList) -> Result<(), String> {
        let Self { changes: most, value, key } = self;
        if changes.len() > most {
            return Err(format!("a message may have {most} changes (max_message_changes), not {}", changes.len()));
        }
        for change in changes {
            let bytes = match change.val {
                Value::Text(text) => text.len(),
                Value::Blob(blob) => blob.len(),
                Value::Null | Value::Integer(_) | Value::Number(_) | Value::Boolean(_) => 0,
            };
            if bytes > value {
                return Err(format!(
                    "a value may have {value} bytes (max_value_bytes), not {bytes}, in table {}",
                    change.table
                ));
            }
            if change.pk.len() > key {
                let bytes = change.pk.len();
                return Err(format!(
                    "a key may have {key} bytes (max_key_bytes), not {bytes}, in table {}",
                    change.table
                ));
            }
        }
        Ok(())
    }
}
