#![doc = include_str!("../README.md")]

mod addr;
mod config;
mod gateway;
mod igd;
mod lease;
mod mapper;
mod plan;
mod port;
mod status;
mod text;

pub use addr::is_global_unicast;
pub use config::{Config, ConfigError, LONGEST_LEASE, MAX_PORTS};
pub use gateway::{Entry, Gateway, GatewayError, Granted, Listing, SearchError, Site, Wanted};
pub use igd::{Igd, MAX_ENTRIES};
pub use lease::{Answer, Input, Leases, Output, Request, Ticket};
pub use mapper::Mapper;
pub use plan::MAX_REQUESTS;
pub use status::{MAX_DETAIL, Mapping, Status};
