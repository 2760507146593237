//! `tollgate schema`

use clap::ValueEnum;

use super::print_json;
use crate::{config, revision};

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
}

/// Prints the schema.
pub fn run(args: &Args) -> u8 {
    print_json(&match args.file {
        File::Tollgate => config::schema(),
        File::Revision => revision::schema(),
    })
}
