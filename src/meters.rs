//! What is counted and timed, through the [`metrics`] facade. [`observing`](crate::observing) documents the names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::connection::Close;
use crate::rejection::Rejection;

const REFUSED: &str = "sqlite_sync_refused_total";

/// The handles of a layer, which are asked for once: a recorder looks each up by its name. One that is installed later gets nothing.
#[derive(Debug)]
pub(crate) struct Meters {
    connections: Gauge,
    rooms: Gauge,
    awake_rooms: Gauge,
    changes_in: Counter,
    changes_out: Counter,
    feed_hits: Counter,
    catch_ups: Counter,
    batch_changesets: Histogram,
    commit_seconds: Histogram,
    queue_seconds: Histogram,
    changesets_refused: Counter,
}

impl Meters {
    pub(crate) fn new() -> Arc<Self> {
        describe_gauge!("sqlite_sync_connections", Unit::Count, "WebSockets that are open");
        describe_gauge!("sqlite_sync_rooms", Unit::Count, "rooms that are open");
        describe_gauge!("sqlite_sync_rooms_awake", Unit::Count, "rooms whose databases are open");
        describe_counter!(
            "sqlite_sync_changes_in_total",
            Unit::Count,
            "changes of clients that are in the databases now"
        );
        describe_counter!("sqlite_sync_changes_out_total", Unit::Count, "changes sent to clients");
        describe_counter!("sqlite_sync_feed_hits_total", Unit::Count, "messages of changes sent from memory");
        describe_counter!("sqlite_sync_catch_ups_total", Unit::Count, "messages of changes read from a database");
        describe_histogram!("sqlite_sync_batch_changesets", Unit::Count, "changesets that were committed together");
        describe_histogram!("sqlite_sync_commit_seconds", Unit::Seconds, "merging and committing a batch");
        describe_histogram!("sqlite_sync_queue_seconds", Unit::Seconds, "a changeset's wait for its room's writer");
        describe_counter!(REFUSED, Unit::Count, "connections and changesets that were refused, by reason");
        Arc::new(Self {
            connections: gauge!("sqlite_sync_connections"),
            rooms: gauge!("sqlite_sync_rooms"),
            awake_rooms: gauge!("sqlite_sync_rooms_awake"),
            changes_in: counter!("sqlite_sync_changes_in_total"),
            changes_out: counter!("sqlite_sync_changes_out_total"),
            feed_hits: counter!("sqlite_sync_feed_hits_total"),
            catch_ups: counter!("sqlite_sync_catch_ups_total"),
            batch_changesets: histogram!("sqlite_sync_batch_changesets"),
            commit_seconds: histogram!("sqlite_sync_commit_seconds"),
            queue_seconds: histogram!("sqlite_sync_queue_seconds"),
            changesets_refused: counter!(REFUSED, "reason" => "changeset"),
        })
    }

    /// A connection is open until what is returned is dropped.
    pub(crate) fn connection(&self) -> Up {
        Up::count(&self.connections)
    }

    /// A room is open until what is returned is dropped.
    pub(crate) fn room(&self) -> Up {
        Up::count(&self.rooms)
    }

    /// A room's database is open until what is returned is dropped.
    pub(crate) fn awake(&self) -> Up {
        Up::count(&self.awake_rooms)
    }

    /// A message of changes goes to a client.
    pub(crate) fn sent(&self, changes: usize, source: Source) {
        self.changes_out.increment(wide(changes));
        match source {
            Source::Feed => self.feed_hits.increment(1),
            Source::Database => self.catch_ups.increment(1),
        }
    }

    /// A changeset was queued at `since`, and its turn has come.
    pub(crate) fn waited(&self, since: Instant) {
        self.queue_seconds.record(since.elapsed());
    }

    /// Changesets were merged together, in so much time, and so many of their changes had an effect.
    pub(crate) fn merged(&self, changesets: usize, changes: u64, took: Duration) {
        self.batch_changesets.record(f64::from(u32::try_from(changesets).unwrap_or(u32::MAX)));
        self.commit_seconds.record(took);
        self.changes_in.increment(changes);
    }

    /// A changeset was not applied.
    pub(crate) fn changeset_refused(&self) {
        self.changesets_refused.increment(1);
    }

    /// A request got no WebSocket.
    pub(crate) fn rejected(&self, rejection: &Rejection) {
        counter!(REFUSED, "reason" => format!("http {}", rejection.status().as_u16())).increment(1);
    }

    /// The server closes a connection.
    pub(crate) fn closed(&self, close: &Close) {
        counter!(REFUSED, "reason" => format!("close {}", close.code())).increment(1);
    }
}

/// Where what is sent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Feed,
    Database,
}

/// One of what a gauge shows, while it lives.
#[derive(Debug)]
pub(crate) struct Up(Gauge);

impl Up {
    fn count(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
