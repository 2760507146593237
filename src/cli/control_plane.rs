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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::revision;

    #[test]
    fn the_files_of_the_walk_through_have_no_mistakes_and_their_ports_do_not_collide() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/three-instances");
        let now = jiff::Timestamp::UNIX_EPOCH;
        let environment = Environment::fixed([("GATEWAY_TOKEN", "tgcp_a_b")], now);
        let plane = config::load(&directory.join("control-plane.yaml"), &environment, None).unwrap();
        assert!(plane.warnings.is_empty(), "{}", plane.warnings);
        assert_eq!(plane.config.listener.address.port(), 9443);

        let orders = revision::load(&directory.join("orders.yaml"), &environment.clone().for_publishing()).unwrap();
        // Nobody is subscribed yet: that happens at the control plane.
        let warnings = orders.warnings.to_string();
        assert!(
            warnings
                .lines()
                .all(|line| line.contains("no application is subscribed")),
            "{warnings}"
        );

        let mut ports = vec![plane.config.listener.address.port()];
        for (file, name) in [("production.yaml", "Production"), ("sandbox.yaml", "Sandbox")] {
            let loaded = crate::config::load(&directory.join(file), &environment, None).unwrap();
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            assert_eq!(loaded.config.gateway.environment, name);
            ports.extend(loaded.config.listeners.iter().map(|listener| listener.address.port()));
            ports.push(loaded.config.status.address.port());
        }
        ports.sort_unstable();
        assert_eq!(ports, [7086, 7087, 8281, 8282, 9443]);
    }
}
