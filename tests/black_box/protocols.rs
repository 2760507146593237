//! What a gateway has to speak.

mod http2;
