//! What a gateway has to speak.

mod events;
mod grpc;
mod http2;
mod large_bodies;
mod websocket;
