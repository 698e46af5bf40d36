//! The middleware.
