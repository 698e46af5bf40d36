//! What is done to a server, one file a scenario.

pub(crate) mod catchup;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod mixed;
pub(crate) mod rooms;
pub(crate) mod storm;
