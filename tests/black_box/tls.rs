//! TLS towards clients, their certificates, and load balancers that say for whom they connect.

mod certificates;
mod clients;
mod handshakes;
mod proxy_protocol;
