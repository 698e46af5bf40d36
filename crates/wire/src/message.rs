//! The eleven messages.

use serde::{Deserialize, Serialize};

use crate::{ChangeList, Position, SiteId, json::integer};

/// One message of the protocol: one binary or one text WebSocket frame.
///
/// [`decode`](Self::decode) and [`encode`](Self::encode) are the binary codec, [`from_json`](Self::from_json) and
/// [`to_json`](Self::to_json) the JSON codec. The first four are spoken between client and server; the others
/// between the servers of a replicated folder, where only the primary writes.
///
/// It implements [`Serialize`] as well, to stand inside other JSON. To read one from JSON there is only
/// [`from_json`](Self::from_json), which never builds a tree of a large message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Message {
    /// Tag 1, client to server: the first message of a connection.
    AnnouncePresence(AnnouncePresence),
    /// Tag 2, both ways: what the sender has that the receiver has not seen.
    Changes(Changes),
    /// Tag 3: the changes that came leave a gap. vlcn clients send it, and cannot receive it.
    RejectChanges(RejectChanges),
    /// Tag 4, server to client: send your changes, from here.
    StartStreaming(StartStreaming),
    /// Tag 5, follower to primary: open or create a room.
    CreateDbOnPrimary(CreateDbOnPrimary),
    /// Tag 6, follower to primary: apply what a client sent.
    ApplyChangesOnPrimary(ApplyChangesOnPrimary),
    /// Tag 7, follower to primary: are you there?
    Ping,
    /// Tag 8, primary to follower: yes.
    Pong,
    /// Tag 9, primary to follower: the room is open.
    CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse),
    /// Tag 10, primary to follower: a request failed.
    Err(ErrResponse),
    /// Tag 11, primary to follower: the changes are applied.
    ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse),
}

impl Message {
    /// The name of the kind of message, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AnnouncePresence(_) => "AnnouncePresence",
            Self::Changes(_) => "Changes",
            Self::RejectChanges(_) => "RejectChanges",
            Self::StartStreaming(_) => "StartStreaming",
            Self::CreateDbOnPrimary(_) => "CreateDbOnPrimary",
            Self::ApplyChangesOnPrimary(_) => "ApplyChangesOnPrimary",
            Self::Ping => "Ping",
            Self::Pong => "Pong",
            Self::CreateDbOnPrimaryResponse(_) => "CreateDbOnPrimaryResponse",
            Self::Err(_) => "Err",
            Self::ApplyChangesOnPrimaryResponse(_) => "ApplyChangesOnPrimaryResponse",
        }
    }
}

/// A client says who it is, what it has seen, and which schema it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an announcePresence message")]
pub struct AnnouncePresence {
    /// The client's site.
    pub sender: SiteId,
    /// How far the client has seen each site that it has met. The server looks for its own id; a site that is missing
    /// stands at [`Position::START`].
    #[serde(default)]
    pub last_seens: Vec<(SiteId, Position)>,
    /// The name of the schema: a file name in the server's schema folder.
    pub schema_name: String,
    /// The version of the schema: [`schema_version`](crate::schema_version) of its text.
    #[serde(with = "integer::text")]
    pub schema_version: i64,
}

/// Changes of one site, in order of (db_version, seq).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a changes message")]
pub struct Changes {
    /// The site that sends them. The receiver takes it for their author.
    pub sender: SiteId,
    /// The sender's position before these changes: where its previous message ended.
    /// A receiver that is not there yet has missed something.
    pub since: Position,
    /// The changes. An empty list only tells where the sender is.
    pub changes: ChangeList,
}

/// Changes came that do not follow on from what the receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a rejectChanges message")]
pub struct RejectChanges {
    /// The site whose changes are rejected: the receiver of this message.
    pub whose: SiteId,
    /// Where the one that rejects stands, and the other has to go on from.
    pub since: Position,
}

/// The server tells a client from where to send its changes. A further one starts the stream again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a startStreaming message")]
pub struct StartStreaming {
    /// What the server has seen of this client.
    pub since: Position,
    /// Sites whose changes the client leaves out. vlcn clients use the first only.
    #[serde(default)]
    pub exclude_sites: Vec<SiteId>,
    /// Whether to send the client's own changes only. vlcn clients ignore it.
    #[serde(default)]
    pub local_only: bool,
}

/// A follower asks the primary to open a room, and to create or migrate it if need be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a createDbOnPrimary message")]
pub struct CreateDbOnPrimary {
    /// Names the request in the answer. At most 2^53 − 1 in magnitude.
    #[serde(with = "integer::var_int")]
    pub request_id: i64,
    /// The room.
    pub room: String,
    /// The name of the schema that a client announced.
    pub schema_name: String,
    /// The version of that schema.
    #[serde(with = "integer::text")]
    pub schema_version: i64,
}

/// A follower forwards what a client sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an applyChangesOnPrimary message")]
pub struct ApplyChangesOnPrimary {
    /// Names the request in the answer. At most 2^53 − 1 in magnitude.
    #[serde(with = "integer::var_int")]
    pub request_id: i64,
    /// The client's site.
    pub sender: SiteId,
    /// The client's changes.
    pub changes: ChangeList,
    /// The room.
    pub room: String,
    /// The client's position after these changes.
    pub new_last_seen: Position,
}

/// The primary has opened the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a createDbOnPrimaryResponse message")]
pub struct CreateDbOnPrimaryResponse {
    /// The request that this answers.
    #[serde(with = "integer::var_int")]
    pub request_id: i64,
    /// The LiteFS transaction that the follower has to wait for.
    #[serde(with = "integer::text")]
    pub txid: i64,
}

/// The primary could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an err message")]
pub struct ErrResponse {
    /// The request that this answers.
    #[serde(with = "integer::var_int")]
    pub request_id: i64,
    /// What went wrong, for a log.
    pub message: String,
}

/// The primary has applied the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an applyChangesOnPrimaryResponse message")]
pub struct ApplyChangesOnPrimaryResponse {
    /// The request that this answers.
    #[serde(with = "integer::var_int")]
    pub request_id: i64,
}
