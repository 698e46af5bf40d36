//! The messages of the vlcn sync protocol, and their two codecs.

#![forbid(unsafe_code)]

pub mod binary;
mod change;
mod change_list;
mod hex;
pub mod json;
mod message;
mod position;
mod schema;
mod site_id;

pub use self::{
    binary::{ChangesHead, DecodeError, DecodeErrorKind},
    change::{Change, Value},
    change_list::{ChangeIter, ChangeList, ChangeListBuilder},
    json::JsonError,
    message::{
        AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Changes, CreateDbOnPrimary,
        CreateDbOnPrimaryResponse, ErrResponse, Message, RejectChanges, StartStreaming,
    },
    position::Position,
    schema::schema_version,
    site_id::{ParseSiteIdError, SiteId},
};
