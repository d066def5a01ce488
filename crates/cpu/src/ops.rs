//! The operations of the model on the fast backend, one file for each or for a few that belong together.

pub mod attend;
pub mod compress;
pub mod decode;
pub mod heads;
pub mod linear;
pub mod moe;
pub mod pick;
pub mod project;
pub mod streams;
