//! `tollgate control-plane`

use std::path::PathBuf;

use super::{DONE, FAILED, REFUSED};
use crate::control_plane::config;
use crate::control_plane::server::ControlPlane;
use crate::document::Environment;

/// Arguments of `control-plane`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bootstrap file.
    #[arg(long, default_value = "conf/control-plane.yaml")]
    config: PathBuf,
    /// Added to every port of the process.
    #[arg(long)]
    port_offset: Option<u16>,
}

/// Runs until a signal ends it.
pub fn run(args: &Args) -> u8 {
    let config = match config::load(&args.config, &Environment::of_process(), args.port_offset) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                log::warn!("{warning}");
            }
            loaded.config
        }
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return REFUSED;
        }
    };
    match ControlPlane::prepare(config) {
        Ok(control_plane) => {
            control_plane.run();
            DONE
        }
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}
