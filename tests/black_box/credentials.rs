//! Who is let in, and what the others are told.

mod key_sets;
mod keys;
mod tokens;
