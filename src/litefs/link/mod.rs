//! How replicas ask the primary: framed and multiplexed requests over one TCP connection between two nodes that know a secret.
//!
//! The reference sends bare messages without frames or proof, and can't tell where one ends. Both ends here are ours, so this is a
//! protocol of its own:
//!
//! 1. The [`handshake`]: both prove that they know the secret.
//! 2. [`frame`]s: requests with ids that count up, and their answers in any order. Both ends ping every `link_heartbeat`, and give the
//!    connection up when no byte has come for `link_silence`. A large frame that is still coming is a sign of life.
//!
//! [`PrimaryLink`] is the end that asks, [`serve`] the one that answers.

mod backoff;
mod client;
mod frame;
mod handshake;
mod log_limit;
mod server;
#[cfg(test)]
mod tests;
mod turns;

use std::io;

pub(crate) use self::client::{LinkError, PrimaryLink};
pub(crate) use self::server::serve;
pub(crate) use self::turns::Turn;

/// The most bytes that a semaphore can count.
const MAX_WEIGHT: usize = u32::MAX as usize >> 3;

/// Bodies of more bytes than this are not encoded or decoded on the threads on which everything else waits.
const LARGE: usize = 256 << 10;

/// Runs `work` on about so many bytes: where it may take long, if they are many.
async fn off_the_runtime<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if bytes <= LARGE { Ok(work()) } else { Ok(tokio::task::spawn_blocking(work).await?) }
}
