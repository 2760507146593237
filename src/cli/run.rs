//! `tollgate run`

use std::path::PathBuf;

use super::{DONE, FAILED, POOL_FULL, REFUSED};
use crate::config;
use crate::document::{Environment, Mistakes};
use crate::server::upgrade::Successor;
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

/// Runs until a signal ends it. A process that was started to take over from another tells that one why it can not.
pub fn run(args: &Args) -> u8 {
    let before = match Successor::of_environment() {
        Ok(before) => before,
        Err(error) => {
            eprintln!("{error}");
            return FAILED;
        }
    };
    let ended = prepare(args, before.as_ref()).map(|server| server.run(before));
    match ended {
        Ok(Ending::Asked) => DONE,
        Ok(Ending::PoolFull(message)) => {
            eprintln!("{message}");
            POOL_FULL
        }
        Ok(Ending::NotFollowing(message)) => {
            eprintln!("{message}");
            FAILED
        }
        Err(code) => code,
    }
}

/// A gateway that could serve, or the exit code.
fn prepare(args: &Args, before: Option<&Successor>) -> Result<Server, u8> {
    let refused = |why: &dyn std::fmt::Display, code: u8| {
        eprintln!("{why}");
        if let Some(before) = before {
            before.give_up(&why.to_string());
        }
        code
    };
    let loaded = config::load(&args.config, &Environment::of_process(), args.port_offset)
        .map_err(|mistakes| refused(&mistakes, REFUSED))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let config = loaded.config;
    let mistakes = Mistakes::new(listeners::findings(&config, &args.config));
    if mistakes.refuse() {
        return Err(refused(&mistakes, REFUSED));
    }
    for warning in &mistakes {
        log::warn!("{warning}");
    }
    Server::prepare(config, before).map_err(|error| {
        let code = match error {
            StartError::Revision(_) | StartError::Certificate(_) => REFUSED,
            StartError::PoolFull(_) => POOL_FULL,
            StartError::Socket(_) | StartError::Machine(_) => FAILED,
        };
        refused(&error, code)
    })
}
