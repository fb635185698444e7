//! The request loop: from a caller to its upstream and back.
//!
//! The [`listener`] accepts connections and gives each to a [`worker`], which serves it with [`downstream`] and answers
//! its requests with the [`service`]. A request passes the checks of [`route`], gets its token from [`auth`] and goes
//! to its [`upstream`]; [`body`] replays it if the token is rejected. [`error`] maps every failure to a response.
//!
//! Each module uses only the modules below it: the order is that of the list in `tests/it/imports.rs`.

pub mod auth;
pub mod body;
pub mod callers;
pub mod downstream;
pub mod error;
mod joined_writes;
pub mod limits;
pub mod listener;
pub mod message;
pub mod peer;
pub mod quota;
pub mod route;
pub mod service;
mod suspension;
pub mod upstream;
mod vectored;
pub mod worker;

#[cfg(test)]
mod tests;
