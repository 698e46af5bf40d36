//! Rooms.

mod name;

pub use name::{RoomName, RoomNameError};
