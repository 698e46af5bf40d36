//! What a merge may do beyond, or not as freely as, the reference.

/// Incoming numbers may be this far above the local ones on a server. See [`MergeOptions::server`].
const SERVER_VERSIONS_AHEAD: i64 = 1 << 24;
const SERVER_LIVES_AHEAD: i64 = 1 << 20;

/// How to merge. The default is what every peer has to do; the rest is for servers that merge what strangers send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeOptions {
    /// Store a cell that won by its value, at equal versions, as if it had been written here. So it goes back to its sender
    /// too, who may have compared differently bound numbers and have decided the other way.
    pub ties_become_local: bool,
    /// An incoming `db_version` raises ours by this much at most in one transaction. It isn't refused.
    pub max_db_version_raise: Option<i64>,
    /// Refuse a changeset with a `col_version` that is more than this above the local one.
    pub max_col_version_ahead: Option<i64>,
    /// Refuse a changeset with a causal length that is more than this above the local one.
    pub max_cl_ahead: Option<i64>,
    /// Begin a new `db_version` with the next row once what was written under the current one is larger than this, in
    /// bytes as they travel, roughly. So a version is never larger than this and one row.
    pub version_bytes: Option<usize>,
    /// Keep up to so many changes that have won, and 64 KiB of them, for [`Merge::winners`](crate::Merge::winners). Meant for a
    /// few: what many rows take grows with their square.
    pub winners: usize,
}

impl MergeOptions {
    /// What a server wants that sends frames of at most `frame_bytes`: all options set but [`winners`](Self#structfield.winners),
    /// with bounds that no honest peer comes near (2^24 for versions, 2^20 for causal lengths).
    #[must_use]
    pub fn server(frame_bytes: usize) -> Self {
        MergeOptions::default()
            .ties_become_local(true)
            .max_db_version_raise(SERVER_VERSIONS_AHEAD)
            .max_col_version_ahead(SERVER_VERSIONS_AHEAD)
            .max_cl_ahead(SERVER_LIVES_AHEAD)
            .version_bytes(frame_bytes)
    }

    /// Sets [`ties_become_local`](Self#structfield.ties_become_local).
    #[must_use]
    pub fn ties_become_local(mut self, yes: bool) -> Self {
        self.ties_become_local = yes;
        self
    }

    /// Sets [`max_db_version_raise`](Self#structfield.max_db_version_raise).
    #[must_use]
    pub fn max_db_version_raise(mut self, raise: i64) -> Self {
        self.max_db_version_raise = Some(raise);
        self
    }

    /// Sets [`max_col_version_ahead`](Self#structfield.max_col_version_ahead).
    #[must_use]
    pub fn max_col_version_ahead(mut self, ahead: i64) -> Self {
        self.max_col_version_ahead = Some(ahead);
        self
    }

    /// Sets [`max_cl_ahead`](Self#structfield.max_cl_ahead).
    #[must_use]
    pub fn max_cl_ahead(mut self, ahead: i64) -> Self {
        self.max_cl_ahead = Some(ahead);
        self
    }

    /// Sets [`version_bytes`](Self#structfield.version_bytes).
    #[must_use]
    pub fn version_bytes(mut self, bytes: usize) -> Self {
        self.version_bytes = Some(bytes);
        self
    }

    /// Sets [`winners`](Self#structfield.winners).
    #[must_use]
    pub fn winners(mut self, most: usize) -> Self {
        self.winners = most;
        self
    }
}
