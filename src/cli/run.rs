//! `tollgate run`

use std::path::PathBuf;

use super::{DONE, FAILED, POOL_FULL, REFUSED};
use crate::config;
use crate::document::{Environment, Mistakes};
use crate::server::{Ending, Server, StartError, listeners};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bootstrap file.
    #[arg(long, default_value = "conf/tollgate.yaml")]
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
    let mistakes = Mistakes::new(listeners::findings(&config, &args.config));
    if mistakes.refuse() {
        eprintln!("{mistakes}");
        return REFUSED;
    }
    for warning in &mistakes {
        log::warn!("{warning}");
    }
    match Server::prepare(config) {
        Ok(server) => match server.run() {
            Ending::Asked => DONE,
            Ending::PoolFull(message) => {
                eprintln!("{message}");
                POOL_FULL
            }
        },
        Err(error) => {
            eprintln!("{error}");
            match error {
                StartError::Revision(_) | StartError::Certificate(_) => REFUSED,
                StartError::PoolFull(_) => POOL_FULL,
                StartError::Socket(_) | StartError::Machine(_) => FAILED,
            }
        }
    }
}
