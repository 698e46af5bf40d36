//! The middleware.

mod auth;
mod rejection;
mod room;

pub use auth::{Access, AuthRequest, Authorize, Denied, Grant};
pub use room::{RoomName, RoomNameError};
