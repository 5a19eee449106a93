//! The wire against raw sockets: what well-behaved clients see, and what hostile ones do not get.
//!
//! Behind the wire stands a scripted SQL side (`script`), so that every byte here is the wire's own doing.

mod client;
mod script;

mod copy;
mod hostile;
mod protocol;
mod startup;
