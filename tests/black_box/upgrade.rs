//! A running gateway hands over to a next process, or to nobody.

mod control_plane;
mod failures;
mod handover;
mod leaving;
mod service_manager;
mod under_load;
mod warmth;
