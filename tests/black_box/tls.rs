//! TLS towards clients, their certificates, and load balancers that say for whom they connect.

mod certificates;
mod clients;
mod handshakes;
mod http2;
mod proxy_protocol;
