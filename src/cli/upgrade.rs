//! `tollgate upgrade`, `tollgate drain`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{DONE, FAILED, Output, print_json, print_line};
use crate::config::{self, UPGRADE_SOCKET};
use crate::document::Environment;
use crate::server::upgrade::{PACKAGED_SOCKET, operator};

/// Which process is asked.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Its upgrade socket. Default: in `$RUNTIME_DIRECTORY`, as in a unit of systemd; else that of the packaged service.
    #[arg(long, conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Its bootstrap file, which names its socket.
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    asked: Asked,
    /// The program that takes over. Default: the file from which the process was started, which may be another one by now.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    asked: Asked,
}

/// What came of it.
#[derive(Serialize)]
struct Upgraded {
    pid: u32,
    version: String,
}

/// Has the running gateway hand over to a new process.
pub fn upgrade(args: &UpgradeArgs, output: Output) -> u8 {
    let socket = match args.asked.find() {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let program = match args.program.as_ref().map(std::path::absolute).transpose() {
        Ok(program) => program,
        Err(error) => return failed(&error),
    };
    // Steps are for people who wait, the result is for programs.
    match operator::upgrade(&socket, program, &mut |step| eprintln!("{step}")) {
        Ok(operator::Successor { pid, version }) => match output {
            Output::Json => print_json(&Upgraded { pid, version }),
            Output::Text => {
                print_line(&format!(
                    "process {pid} (version {version}) serves now; the one before drains"
                ));
                DONE
            }
        },
        Err(refused) => failed(&refused),
    }
}

/// Has the running gateway leave, and waits for its end.
pub fn drain(args: &DrainArgs) -> u8 {
    let socket = match args.asked.find() {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let mut last = String::new();
    let told = operator::drain(&socket, &mut |step| {
        if step != last {
            step.clone_into(&mut last);
            eprintln!("{step}");
        }
    });
    match told {
        Ok(()) => {
            print_line(&"the gateway has ended");
            DONE
        }
        Err(refused) => failed(&refused),
    }
}

impl Asked {
    /// The socket, or the exit code.
    fn find(&self) -> Result<PathBuf, u8> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let environment = Environment::of_process();
        let Some(path) = &self.config else {
            let directory = environment.runtime_directory();
            return Ok(directory.map_or_else(
                || Path::new(PACKAGED_SOCKET).to_owned(),
                |directory| directory.join(UPGRADE_SOCKET),
            ));
        };
        let loaded = config::load(path, &environment, None).map_err(|mistakes| {
            eprintln!("{mistakes}");
            super::REFUSED
        })?;
        loaded.config.server.upgrade.socket.ok_or_else(|| {
            eprintln!(
                "{}: there is no server.upgrade.socket, so nobody can be asked",
                path.display()
            );
            FAILED
        })
    }
}

fn failed(error: &dyn std::fmt::Display) -> u8 {
    eprintln!("tollgate: {error}");
    FAILED
}
