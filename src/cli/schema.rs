//! `tollgate schema`

use clap::ValueEnum;

use super::print_json;
use crate::{config, control_plane, revision};

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which file.
    #[arg(value_enum)]
    file: File,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum File {
    /// The bootstrap file, conf/tollgate.yaml.
    Tollgate,
    /// The revision file, conf/revision.yaml.
    Revision,
    /// The bootstrap file of a control plane, conf/control-plane.yaml.
    ControlPlane,
}

/// Prints the schema.
pub fn run(args: &Args) -> u8 {
    print_json(&match args.file {
        File::Tollgate => config::schema(),
        File::Revision => revision::schema(),
        File::ControlPlane => control_plane::config::schema(),
    })
}
